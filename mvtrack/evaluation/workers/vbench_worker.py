"""One of VBench's dimensions, by the official package in its own environment: `python vbench_worker.py FOLDER`.

Imports nothing of the project. FOLDER holds job.json ({"dimension", "weights": paths}) and videos/NAME.mp4; VBench
writes result_eval_results.json there. Weights lie in VBench's cache (VBENCH_CACHE_DIR, ~/.cache/vbench).
"""

import json
import os
import sys
from pathlib import Path

import torch


def main(folder: Path) -> None:
    """Run VBench as its custom_input mode does."""
    job = json.loads((folder / "job.json").read_text())
    if job["dimension"] == "subject_consistency":
        offer_to_torch_hub(folder / "torch", job["weights"][0])
    kept = make_torchvision_importable()
    import vbench

    info = Path(vbench.__file__).parent / "VBench_full_info.json"
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    judge = vbench.VBench(device, str(info), str(folder))
    judge.evaluate(
        videos_path=str(folder / "videos"),
        name="result",
        dimension_list=[job["dimension"]],
        local=True,
        mode="custom_input",
    )
    del kept


def offer_to_torch_hub(home: Path, weights: str) -> None:
    """DINO's code, which VBench calls, takes its weights from the hub's folder or else downloads them."""
    (home / "hub/checkpoints").mkdir(parents=True)
    (home / "hub/checkpoints" / Path(weights).name).symlink_to(weights)
    os.environ["TORCH_HOME"] = str(home)


def make_torchvision_importable() -> "torch.library.Library | None":
    """Where torch is a CPU build, the index's torchvision may not find its operators and refuse to be imported. None of
    the dimensions uses them: their names are enough. Returns what must be kept as long as they are to exist."""
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        for name in [n for n in sys.modules if n.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "DEF")
        for operator in ("nms", "qnms"):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import torchvision  # noqa: F401

        return library
    return None


if __name__ == "__main__":
    main(Path(sys.argv[1]))
