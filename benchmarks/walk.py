"""`python benchmarks/walk.py`: how many of the project's files a batch walks through to its loss, a video to a video.

A file is walked where one of its functions runs: in the second training step, from the batch that the loader hands over
to the weighted sum of rectified-flow, correspondence and tracking loss; and in the second `reshoot_file` of a process,
with the shipped model. So start-up is left out, and what is done once; reading configs and the command line are, too.
`entered` counts only files that are called from another package: the insides of the network, the tracking head or the
correspondence loss are then one stop each, which is how somebody reads.
"""

import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from bench import report

ROOT = Path(__file__).resolve().parents[1]
SOURCES = (f"{ROOT}/mvtrack/", f"{ROOT}/tracking_head/")
NOT_WALKED = ("mvtrack/config/", "mvtrack/cli/")
TARGETS = {"batch_to_loss_files": ("<=", 9), "video_to_video_files": ("<=", 20)}


def project_file(frame) -> str | None:
    """Path of a frame's file under the repository's root; None for other people's code."""
    name = frame.f_code.co_filename
    if not name.startswith(SOURCES):
        return None
    name = str(Path(name).relative_to(ROOT))
    return None if name.startswith(NOT_WALKED) else name


def package(file: str) -> str:
    """mvtrack/models/dit.py: mvtrack/models."""
    parts = Path(file).parts
    return parts[0] if parts[0] == "tracking_head" else "/".join(parts[:2])


@contextmanager
def recorded(files: dict[str, bool]) -> Iterator[None]:
    """While open, project files whose functions run are noted in order, and whether another package called them."""

    def note(frame, event: str, _argument: object) -> None:
        file = project_file(frame) if event == "call" else None
        if file is None or files.get(file):
            return
        caller = frame.f_back
        while caller is not None and project_file(caller) is None:
            caller = caller.f_back
        files[file] = caller is None or package(project_file(caller)) != package(file)

    sys.setprofile(note)
    try:
        yield
    finally:
        sys.setprofile(None)


def record_second_call(owner: object, name: str, files: dict[str, bool]) -> None:
    """Record what the second call of a method walks through."""
    function: Callable = getattr(owner, name)
    calls = 0

    def counted(*arguments, **options):
        nonlocal calls
        calls += 1
        if calls != 2:
            return function(*arguments, **options)
        with recorded(files):
            return function(*arguments, **options)

    setattr(owner, name, counted)


def train_walk(folder: Path) -> dict[str, bool]:
    """Files from batch to loss."""
    from mvtrack.config.run import load_config
    from mvtrack.training import loop
    from mvtrack.training.run import Run

    changes = (
        "model.sizes=[[16, 16]]", "model.num_frames=5", "data.num_frames=5", "data.workers=0", "loss.tracking_points=3",
        f"data.banks=[{{root: {folder}/bank, size: [16, 16], num_scenes: 2, num_frames: 5, num_points: 9}}]",
        "train.steps=2", "train.compile=false", "train.precision=fp32", "train.validate_every=100",
        "train.init_from=null", f"train.run_dir={folder}/run",
    )  # fmt: skip
    files: dict[str, bool] = {}
    record_second_call(Run, "losses", files)
    loop._validate = lambda _run: False
    loop.train(load_config(ROOT / "configs/tiny_tracking.yaml", changes))
    return files


def reshoot_walk(folder: Path) -> dict[str, bool]:
    """Files from video to video."""
    from mvtrack.inference.pipeline import reshoot_file
    from mvtrack.video.writer import write_video

    write_video(folder / "video.mp4", torch.rand(17, 3, 64, 64) * 2 - 1, 10.0)
    reshoot_file(folder / "video.mp4", "arc_left", out=folder / "first")
    files: dict[str, bool] = {}
    with recorded(files):
        reshoot_file(folder / "video.mp4", "arc_left", out=folder / "second")
    return files


def main() -> int:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        walks = {"batch_to_loss": train_walk(Path(folder)), "video_to_video": reshoot_walk(Path(folder))}
    figures = {}
    for name, files in walks.items():
        lines = [f"  {file}{'' if entered else '  (from its own package only)'}" for file, entered in files.items()]
        sys.stdout.write("\n".join([f"{name}:", *lines]) + "\n")
        figures |= {f"{name}_files": len(files), f"{name}_entered": sum(files.values())}
    return report(figures, TARGETS)


if __name__ == "__main__":
    sys.exit(main())
