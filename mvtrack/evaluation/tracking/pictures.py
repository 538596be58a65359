"""Tracks of scored clips to judge by eye: predictions as dots with trails, the truth as crosses, nothing selected."""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from mvtrack.data.visualize.contact_sheet import contact_sheet
from mvtrack.data.visualize.drawing import as_unit_video, draw_tracks, rainbow
from mvtrack.evaluation.tracking.tracked_clips import TrackedClip

_POINTS = 20  # those queried first; more hide each other
_LEAST_WIDTH = 320


def tracking_sheet(path: Path, followed: list[TrackedClip]) -> None:
    """One row a clip: every view at its first, middle and last frame. Points begin in the reference only."""
    rows = {}
    for one in followed:
        frame = one.query_frame[0].long()
        keep = frame.argsort(stable=True)[:_POINTS]
        colours = rainbow(one.truth.xy[0, frame[keep], keep, 1])
        views = {"reference": 0} | {f"view {v}, starts found": v for v in range(1, len(one.clip.video))}
        rows[one.clip.key] = {name: _drawn(one, v, keep, colours) for name, v in views.items()}
    last = followed[0].clip.num_frames - 1
    contact_sheet(path, rows, frames=[0, last // 2, last], scale=1)


def _drawn(
    one: TrackedClip, view: int, keep: Int[Tensor, "n"], colours: UInt8[np.ndarray, "n 3"]
) -> Float[Tensor, "T 3 h w"]:
    """A view's frames, magnified, with its tracks and the truth where it can be seen."""
    video, predicted, truth = one.clip.video[view], one.predicted, one.truth
    scale = max(1, -(-_LEAST_WIDTH // video.shape[-1]))
    known = (truth.visible[view] & truth.valid[view])[:, keep, None]
    crosses = torch.where(known, truth.xy[view][:, keep], torch.nan)
    found = predicted.valid[view, keep]
    xy, visible = predicted.xy[view][:, keep[found]], predicted.visible[view][:, keep[found]]
    frames = draw_tracks(video, xy, visible, colours[found.numpy()], scale, crosses)
    return 2 * as_unit_video(frames) - 1
