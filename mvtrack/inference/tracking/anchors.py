"""Queries between latent anchors: carried to the nearest anchor at which the point is still seen.

The head's features stand at every fourth video frame. A point asked for in between is followed over the one to three
frames to an anchor by optical flow (Lucas-Kanade, forward and back), because it may have moved by then, or be hidden.
"""

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mvtrack.data.clip import TEMPORAL_STRIDE
from mvtrack.inference.tracking.points import in_region
from mvtrack.video.video import Video

_LONGEST_SIDE = 640  # flow is computed on pictures of at most this size
_WINDOW = (21, 21)
_LEVELS = 3
_LEAST_TEXTURE = 1e-5  # OpenCV's default, 1e-4, gives up points on smooth surfaces that flow carries well
_ROUND_TRIP = 1 / 200  # of the longest side: going to the anchor and back must end this near


@dataclass(frozen=True)
class Anchored:
    """Points at anchors. frame: the video frame of the anchor; xy: where the point is there, source pixels.

    shift: anchor minus asked frame. kept: no anchor nearby was reached and confirmed by the way back, so the nearest is
    used, at the place where flow ends there (outside the region: as it was asked for).
    """

    frame: Int[Tensor, "N"]
    xy: Float[Tensor, "N 2"]
    shift: Int[Tensor, "N"]
    kept: Bool[Tensor, "N"]


def move_to_anchors(
    footage: Video, txy: Float[Tensor, "N 3"], anchors: list[int], region: tuple[float, float, float, float]
) -> Anchored:
    """Carry points at (video frame, x, y) in the footage's pixels to anchors (ascending video frames).

    Nearest first, the earlier of two; only anchors less than a latent frame away are tried. A point that leaves the
    region (left, top, right, bottom) does not count as followed.
    """
    asked = txy[:, 0].long()
    frame, xy = asked.clone(), txy[:, 1:].clone().float()
    kept = torch.zeros(len(txy), dtype=torch.bool)
    for t in asked.unique().tolist():
        order = sorted((a for a in anchors if abs(a - t) < TEMPORAL_STRIDE), key=lambda a: (abs(a - t), a))
        if not order:
            raise ValueError(f"no anchor within {TEMPORAL_STRIDE - 1} frames of frame {t}: anchors are {anchors}")
        left = (asked == t).nonzero()[:, 0]
        frame[left] = order[0]
        for anchor in order if order[0] != t else []:
            carried, reached = _carry(footage, xy[left], t, anchor)
            within = in_region(carried, region)
            reached &= within
            if anchor == order[0]:
                unsure = torch.where(within[:, None], carried, xy[left])
            frame[left[reached]], xy[left[reached]] = anchor, carried[reached]
            left, unsure = left[~reached], unsure[~reached]
            if len(left) == 0:
                break
        if order[0] != t:
            kept[left], xy[left] = True, unsure
    return Anchored(frame, xy, frame - asked, kept)


def _carry(
    footage: Video, xy: Float[Tensor, "n 2"], start: int, end: int
) -> tuple[Float[Tensor, "n 2"], Bool[Tensor, "n"]]:
    """Follow points frame by frame; False where they are lost, or the way back ends elsewhere."""
    first, last = min(start, end), max(start, end)
    shrink = min(1.0, _LONGEST_SIDE / max(footage.size))
    size = tuple(max(1, round(side * shrink)) for side in footage.size)
    pictures = [
        cv2.cvtColor(np.ascontiguousarray(picture), cv2.COLOR_RGB2GRAY)
        for picture in footage.read(first, last + 1, size).permute(0, 2, 3, 1).numpy()
    ]
    pictures = pictures if start < end else pictures[::-1]
    scale = xy.new_tensor([size[1] / footage.size[1], size[0] / footage.size[0]])
    place = (xy * scale).numpy()
    there, seen = _flow(pictures, place)
    back, seen_back = _flow(pictures[::-1], there)
    near = np.abs(back - place).max(-1) <= max(size) * _ROUND_TRIP
    moved = torch.from_numpy(there) / scale
    return moved, torch.from_numpy(seen & seen_back & near)


def _flow(pictures: list[np.ndarray], xy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Raster positions carried through the pictures, and whether each step was found."""
    seen = np.ones(len(xy), bool)
    at = np.ascontiguousarray(xy - 0.5, dtype=np.float32)  # OpenCV: an integer is a pixel's centre
    for before, after in zip(pictures, pictures[1:], strict=False):
        at, status, _ = cv2.calcOpticalFlowPyrLK(
            before, after, at, None, winSize=_WINDOW, maxLevel=_LEVELS, minEigThreshold=_LEAST_TEXTURE
        )
        seen &= status[:, 0] == 1
    return at + 0.5, seen
