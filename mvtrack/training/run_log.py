"""What a run leaves to look at: one JSON line per report, TensorBoard, and Weights & Biases where asked for."""

import io
import json
import time
from pathlib import Path

import imageio
from jaxtyping import Float
from torch import Tensor

from mvtrack.config.training import TrainingConfig
from mvtrack.config.tree import to_tree
from mvtrack.files.atomic_io import write_aside
from mvtrack.video.writer import to_bytes, write_video

VIDEO_FPS = 12


class RunLog:
    """Writes rank 0's reports. Lines of steps that a resumed run does again are dropped first."""

    def __init__(self, run_dir: Path, config: TrainingConfig, first_step: int = 0) -> None:
        from torch.utils.tensorboard import SummaryWriter

        path = run_dir / "metrics.jsonl"
        _forget_after(path, first_step)
        self._lines = path.open("a")
        self._samples = run_dir / "samples"
        self._board = SummaryWriter(str(run_dir / "tensorboard"), purge_step=first_step + 1)
        self._wandb = _start_wandb(run_dir, config) if config.train.wandb else None
        self._start = time.monotonic()

    def scalars(self, step: int, values: dict[str, float]) -> None:
        elapsed = round(time.monotonic() - self._start, 3)
        self._lines.write(json.dumps({"step": step, "elapsed_s": elapsed, **values}) + "\n")
        self._lines.flush()
        for name, value in values.items():
            self._board.add_scalar(name, value, step)
        if self._wandb:
            self._wandb.log(values, step=step)

    def video(self, step: int, name: str, video: Float[Tensor, "T 3 H W"]) -> None:
        """A clip with values in [0, 1]: an mp4 under samples/, and an animation in TensorBoard."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        path = self._samples / f"step_{step:07d}_{name.replace('/', '_')}.mp4"
        write_video(path, 2 * video - 1, VIDEO_FPS)
        gif = io.BytesIO()
        imageio.mimwrite(gif, list(to_bytes(2 * video - 1)), format="GIF", duration=1000 / VIDEO_FPS, loop=0)
        image = Summary.Image(encoded_image_string=gif.getvalue(), height=video.shape[-2], width=video.shape[-1])
        # SummaryWriter.add_video would need moviepy to make the same bytes
        self._board.file_writer.add_summary(Summary(value=[Summary.Value(tag=name, image=image)]), step)

    def picture(self, step: int, name: str, picture: Float[Tensor, "3 h w"]) -> None:
        """A picture with values in [0, 1]: a PNG under samples/, and in TensorBoard."""
        path = self._samples / f"step_{step:07d}_{name.replace('/', '_')}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        imageio.imwrite(path, to_bytes(2 * picture[None] - 1)[0])
        self._board.add_image(name, picture.clamp(0, 1).cpu().numpy(), step)

    def close(self) -> None:
        self._lines.close()
        self._board.close()
        if self._wandb:
            self._wandb.finish()


def _forget_after(path: Path, step: int) -> None:
    """Keep only whole lines up to a step."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except json.JSONDecodeError:  # the last line of a killed run
            break
    write_aside(path, lambda aside: aside.write_text("".join(kept)))


def _start_wandb(run_dir: Path, config: TrainingConfig):
    try:
        import wandb
    except ImportError as error:
        raise ValueError("train.wandb needs Weights & Biases: pip install wandb, or set train.wandb: false") from error
    return wandb.init(dir=str(run_dir), name=run_dir.name, config=to_tree(config), resume="allow", id=run_dir.name)
