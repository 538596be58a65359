"""Matched points between the frames of a video, and how well cameras explain them."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mvtrack.geometry.camera import Camera
from mvtrack.geometry.pose_files.reprojection_check import ray_distance

MAX_ERROR_PX = 2.0  # beyond it a match counts as not explained


@dataclass(frozen=True)
class PairMatches:
    """Points of frame `first[p]` and where they are in frame `second[p]`, raster pixels; `of_pair` says which p."""

    first: Int[Tensor, "P"]
    second: Int[Tensor, "P"]
    of_pair: Int[Tensor, "M"]
    xy_first: Float[Tensor, "M 2"]
    xy_second: Float[Tensor, "M 2"]

    @staticmethod
    def of_arrays(arrays: dict[str, np.ndarray], most: int) -> "PairMatches":
        """From a worker's `pairs`, `counts` and `xy`; at most `most` matches of each pair, evenly chosen."""
        pairs, counts = torch.from_numpy(arrays["pairs"]), torch.from_numpy(arrays["counts"])
        xy, of_pair = torch.from_numpy(arrays["xy"]), torch.arange(len(counts)).repeat_interleave(counts)
        rank = torch.arange(len(of_pair)) - (counts.cumsum(0) - counts)[of_pair]
        kept = rank % (counts[of_pair] / most).ceil().clamp_min(1) == 0
        return PairMatches(pairs[:, 0], pairs[:, 1], of_pair[kept], xy[kept, :2], xy[kept, 2:])

    def __len__(self) -> int:
        return len(self.of_pair)

    def halves(self) -> "tuple[PairMatches, PairMatches]":
        """Every second match, and the others."""
        parts = (slice(0, None, 2), slice(1, None, 2))
        return tuple(
            replace(self, of_pair=self.of_pair[p], xy_first=self.xy_first[p], xy_second=self.xy_second[p])
            for p in parts
        )

    def linked(self, num_frames: int) -> Bool[Tensor, "T"]:
        """Frames that pairs connect to the frame with the most matches, directly or through others."""
        first, second = self.first[self.of_pair.unique()], self.second[self.of_pair.unique()]
        weight = torch.zeros(num_frames)
        for ends in (self.first, self.second):
            weight.index_add_(0, ends[self.of_pair], torch.ones(len(self)))
        reached = torch.zeros(num_frames, dtype=torch.bool)
        reached[int(weight.argmax())] = len(self) > 0
        for _ in range(num_frames):
            touched = reached[first] | reached[second]
            reached[first[touched]] = True
            reached[second[touched]] = True
        return reached


def match_errors(matches: PairMatches, camera: Camera, found: Bool[Tensor, "T"]) -> Float[Tensor, "M"]:
    """Distance (pixels) of each match from where the cameras allow it; NaN where a frame of its pair was not found."""
    errors = torch.full((len(matches),), torch.nan, dtype=torch.float64)
    counts = torch.bincount(matches.of_pair, minlength=len(matches.first)).tolist()
    ends = zip(matches.first.tolist(), matches.second.tolist(), errors.split(counts), strict=True)
    points = zip(matches.xy_first.split(counts), matches.xy_second.split(counts), strict=True)
    for (i, j, out), (xy_i, xy_j) in zip(ends, points, strict=True):
        if found[i] and found[j] and len(out):
            out[:] = ray_distance(xy_i, xy_j, camera[i], camera[j]).nan_to_num(torch.inf, torch.inf)
    return errors


def mean_misfit(errors_px: Float[Tensor, "M"]) -> float:
    """Mean distance in pixels, each counted as 2 px at most. NaN, of matches that no camera explains, counts in full:
    cameras of a few easy frames explain little."""
    if not len(errors_px):
        return MAX_ERROR_PX
    return float(errors_px.nan_to_num(MAX_ERROR_PX, MAX_ERROR_PX).clamp(max=MAX_ERROR_PX).mean())
