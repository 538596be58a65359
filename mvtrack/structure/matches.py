"""Matched points between the frames of a video, and how well cameras explain them."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mvtrack.camera import Camera
from mvtrack.poses.evidence import ray_distance

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

    def linked(self, num_frames: int) -> Bool[Tensor, "T"]:
        """Frames that pairs connect to the frame with the most matches, directly or through others."""
        weight = torch.zeros(num_frames)
        for ends in (self.first, self.second):
            weight.index_add_(0, ends[self.of_pair], torch.ones(len(self)))
        reached = torch.zeros(num_frames, dtype=torch.bool)
        reached[int(weight.argmax())] = len(self) > 0
        for _ in range(num_frames):
            touched = reached[self.first] | reached[self.second]
            reached[self.first[touched]] = True
            reached[self.second[touched]] = True
        return reached


def epipolar_misfit(matches: PairMatches, camera: Camera, found: Bool[Tensor, "T"]) -> float:
    """Mean distance (pixels) of matches from where the cameras allow them, each counted as 2 px at most.

    Matches of frames without a pose count in full: cameras of a few easy frames explain little.
    """
    error = torch.full((len(matches),), MAX_ERROR_PX, dtype=torch.float64)
    for pair, (i, j) in enumerate(zip(matches.first.tolist(), matches.second.tolist(), strict=True)):
        if found[i] and found[j]:
            mine = matches.of_pair == pair
            distance = ray_distance(matches.xy_first[mine], matches.xy_second[mine], camera[i], camera[j])
            error[mine] = distance.nan_to_num(MAX_ERROR_PX, MAX_ERROR_PX).clamp(max=MAX_ERROR_PX)
    return float(error.mean())
