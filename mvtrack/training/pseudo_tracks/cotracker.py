"""CoTracker3 on every view of a clip by itself; its authors' code runs in an environment of its own."""

import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from mvtrack.inference.external_program import ExternalProgram, write_frames
from mvtrack.training.pseudo_tracks.scene_model import CrossViewStarts, ViewStarts
from mvtrack.training.pseudo_tracks.views import ClipViews, FrameTracks, GridQueries, QueryFrame
from tracking_head.mvtap import INPUT_SIZE

VARIABLE = "MVTRACK_COTRACKER_PYTHON"
_HOW = (
    "make an environment for it (python -m venv cotracker, torch and its repository installed in it) and name it: "
    f"--tracker-python cotracker/bin/python, or ${VARIABLE}"
)
_TOGETHER = 8  # query frames for which its network is loaded once
_CHUNK = 16


@dataclass(frozen=True)
class CoTracker:
    """weights: its `scaled_offline.pth`. python: None takes the variable's. device: None takes a GPU where one is."""

    weights: Path
    python: Path | None = None
    device: str | None = None

    @property
    def program(self) -> ExternalProgram:
        named = os.environ.get(VARIABLE)
        python = self.python or (Path(named) if named else None)
        return ExternalProgram(
            Path(__file__).parent / "workers/cotracker_worker.py", "cotracker", "CoTracker3", python, _HOW
        )


class CoTrackerTracker:
    """starts: where points begin in views that are not the query's; each view is followed from there."""

    def __init__(self, cotracker: CoTracker, starts: CrossViewStarts) -> None:
        self.cotracker, self.starts = cotracker, starts

    def follow(self, views: ClipViews, queries: GridQueries, frames: Sequence[QueryFrame]) -> Iterator[FrameTracks]:
        """Tracks of each query frame, in order. Raises ValueError where it is not there, WorkerError if it fails."""
        if lacking := self.cotracker.program.missing():
            raise ValueError(f"missing {lacking}")
        with tempfile.TemporaryDirectory(prefix="mvtrack-cotracker-") as name:
            folder = Path(name)
            for i, video in enumerate(views.videos):
                for start in range(0, len(video), _CHUNK):
                    stop = min(start + _CHUNK, len(video))
                    part = video.read(start, stop, INPUT_SIZE).permute(0, 2, 3, 1).numpy()
                    write_frames(folder / str(i), part, first=start)
            for view in sorted({frame.view for frame in frames}):
                order = views.first(view)
                numbers = [frame.frame for frame in frames if frame.view == view]
                starts = self.starts.find(views.ordered(order), numbers, queries.points(views.videos[view].size))
                for i in range(0, len(starts), _TOGETHER):
                    for tracks in self._run(folder, views.ordered(order), order, starts[i : i + _TOGETHER]):
                        yield tracks.views(order)

    def _run(self, folder: Path, views: ClipViews, order: list[int], starts: list[ViewStarts]) -> list[FrameTracks]:
        """Views in the order of `starts`; their pictures lie in folders by their own number."""
        scale = np.array(INPUT_SIZE[::-1]) / np.array([video.size[::-1] for video in views.videos])  # (V, 2)
        asked = {}
        for i, start in enumerate(starts):
            for view, (txy, found) in enumerate(zip(start.txy, start.found, strict=True)):
                place = txy[found].double().numpy()
                place[:, 1:] = place[:, 1:] * scale[view] - 0.5  # its integers are pixels' centres
                asked[f"{i}_{order[view]}"] = place.astype(np.float32)
        np.savez(folder / "queries.npz", **asked)
        job = {"weights": str(self.cotracker.weights.resolve()), "device": self.cotracker.device}
        got = self.cotracker.program.run(folder, job=job)
        results = []
        for i, start in enumerate(starts):
            xy = torch.zeros(len(views.videos), views.num_frames, start.found.shape[1], 2)
            visible = torch.zeros(xy.shape[:-1], dtype=torch.bool)
            for view, found in enumerate(start.found):
                name = f"{i}_{order[view]}"
                xy[view][:, found] = torch.from_numpy((got[f"{name}_xy"] + 0.5) / scale[view]).float()
                visible[view][:, found] = torch.from_numpy(got[f"{name}_visible"])
            results.append(FrameTracks(xy, visible, start.found))
        return results
