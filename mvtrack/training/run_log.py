"""What a run leaves to look at: one JSON line per logged step, TensorBoard, and its config."""

import json
import time
from pathlib import Path

import yaml
from torch import Tensor

from mvtrack.config import RunConfig, to_tree


class RunLog:
    """Writes metrics of rank 0 to `metrics.jsonl` and `tensorboard/` under the run directory."""

    def __init__(self, run_dir: Path, config: RunConfig) -> None:
        from torch.utils.tensorboard import SummaryWriter

        run_dir.mkdir(parents=True, exist_ok=True)
        (run_dir / "config.yaml").write_text(yaml.safe_dump(to_tree(config), sort_keys=False))
        self._lines = (run_dir / "metrics.jsonl").open("a")
        self._board = SummaryWriter(str(run_dir / "tensorboard"))
        self._start = time.monotonic()

    def scalars(self, step: int, values: dict[str, float]) -> None:
        elapsed = round(time.monotonic() - self._start, 3)
        self._lines.write(json.dumps({"step": step, "elapsed_s": elapsed, **values}) + "\n")
        self._lines.flush()
        for name, value in values.items():
            self._board.add_scalar(name, value, step)

    def video(self, step: int, name: str, video: Tensor, fps: float) -> None:
        """video (T, 3, H, W) in [0, 1]."""
        self._board.add_video(name, video[None], step, fps=fps)

    def image(self, step: int, name: str, image: Tensor) -> None:
        """image (3, H, W) in [0, 1]."""
        self._board.add_image(name, image, step)

    def close(self) -> None:
        self._lines.close()
        self._board.close()
