"""Do cameras fit their video? Points followed through the video must move as the cameras say.

A point that is seen at x in one frame can be, in another frame, anywhere on the picture of its ray in front of the
camera: a half line that starts at the image of infinite depth (Hartley and Zisserman, Multiple View Geometry, 9.1).
The distance to it needs no depth, no unit, and sees wrong axes, wrong directions and wrong signs.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from mvtrack.geometry.camera import Camera, camera_rays, relative_pose
from mvtrack.geometry.pose_files.conventions import Convention, alternatives, reinterpret
from mvtrack.geometry.pose_files.distortion import Distortion, undistort_pixels
from mvtrack.geometry.pose_files.sequence import CameraSequence

MAX_WIDTH = 640  # pixels; larger pictures say no more
_STARTS, _LONGEST_GAP, _TURN_DEG = 12, 8, 3.0
_MAX_POINTS, _MIN_POINTS = 300, 30
_TRACK_ERROR_PX = 0.5  # a point that is not found again from the other frame to within this is dropped


@dataclass(frozen=True)
class ImageMatches:
    """Points of frame `first` (raster pixels of `size`) and where they are in frame `second`."""

    first: int
    second: int
    xy_first: Float[Tensor, "N 2"]
    xy_second: Float[Tensor, "N 2"]


@dataclass(frozen=True)
class ReprojectionFit:
    """Median distance (pixels) between followed points and where the cameras allow them, under one convention."""

    convention: Convention
    error_px: float


def frame_pairs(camera: Camera) -> list[tuple[int, int]]:
    """Pairs of near frames, over the whole sequence, far enough apart that the camera has turned."""
    count = camera.shape[0]
    pairs = []
    for first in sorted({round(i * (count - 2) / (_STARTS - 1)) for i in range(_STARTS)} if count > 1 else set()):
        for second in range(first + 1, min(first + _LONGEST_GAP, count - 1) + 1):
            trace = relative_pose(camera.c2w[first], camera.c2w[second])[:3, :3].trace()
            if torch.rad2deg(torch.acos(((trace - 1) / 2).clamp(-1, 1))) >= _TURN_DEG:
                break
        pairs.append((first, second))
    return pairs


def follow_points(
    read_frame: Callable[[int], UInt8[np.ndarray, "H W 3"]], pairs: list[tuple[int, int]]
) -> list[ImageMatches]:
    """Corners of the first frame of each pair, followed into the second (Lucas and Kanade), both ways to be sure."""
    import cv2

    found = []
    for first, second in pairs:
        grey = [cv2.cvtColor(np.ascontiguousarray(read_frame(i)), cv2.COLOR_RGB2GRAY) for i in (first, second)]
        corners = cv2.goodFeaturesToTrack(grey[0], _MAX_POINTS, 0.01, 8)
        if corners is None:
            continue
        moved, there, _ = cv2.calcOpticalFlowPyrLK(grey[0], grey[1], corners, None, winSize=(21, 21), maxLevel=4)
        back, again, _ = cv2.calcOpticalFlowPyrLK(grey[1], grey[0], moved, None, winSize=(21, 21), maxLevel=4)
        error = np.abs(back - corners).max((-1, -2))
        kept = (there[:, 0] == 1) & (again[:, 0] == 1) & (error < _TRACK_ERROR_PX)
        xy = [torch.from_numpy(points[kept, 0]).double() + 0.5 for points in (corners, moved)]  # index to raster
        found.append(ImageMatches(first, second, *xy))
    return found


def ray_distance(
    xy_first: Float[Tensor, "N 2"], xy_second: Float[Tensor, "N 2"], first: Camera, second: Camera
) -> Float[Tensor, "N"]:
    """Distance (pixels) of points of the second frame from the picture of their rays in front of the first camera."""
    pose = relative_pose(second.c2w, first.c2w)
    infinite = camera_rays(xy_first, first.K) @ pose[:3, :3].mT @ second.K.mT  # (N, 3), homogeneous
    towards = second.K @ pose[:3, 3]  # the point at inverse depth s is infinite + s * towards
    line = towards[:2] * infinite[:, 2:] - infinite[:, :2] * towards[2]  # direction of its picture as s grows
    along = (xy_second * line).sum(-1)
    below = (towards[:2] * line).sum(-1) - along * towards[2]
    inverse_depth = (along * infinite[:, 2] - (infinite[:, :2] * line).sum(-1)) / below
    inverse_depth = torch.where(inverse_depth.isfinite(), inverse_depth.clamp_min(0), torch.zeros_like(inverse_depth))
    distances = []
    for nearness in (inverse_depth, torch.zeros_like(inverse_depth)):
        point = infinite + nearness[:, None] * towards
        distance = (point[:, :2] / point[:, 2:] - xy_second).norm(dim=-1)
        distances.append(torch.where(point[:, 2] > 1e-9, distance, torch.full_like(distance, torch.inf)))
    return torch.minimum(*distances)


def convention_fits(
    sequence: CameraSequence, matches: list[ImageMatches], size: tuple[int, int]
) -> list[ReprojectionFit]:
    """How well each convention explains the followed points (pixels of `size`); the file's own comes first.

    Empty where fewer than 30 points could be followed.
    """
    if sum(len(match.xy_first) for match in matches) < _MIN_POINTS:
        return []
    K = sequence.camera.resized(size).K
    ends = [(_ideal(sequence, m.first, m.xy_first, K), _ideal(sequence, m.second, m.xy_second, K)) for m in matches]
    fits = []
    for convention in alternatives(sequence):
        camera = reinterpret(sequence, str(convention)).camera.resized(size)
        errors = [
            ray_distance(*xy, camera[match.first], camera[match.second])
            for match, xy in zip(matches, ends, strict=True)
        ]
        fits.append(ReprojectionFit(convention, float(torch.cat(errors).nan_to_num(torch.inf, torch.inf).median())))
    return fits


def motion_px(matches: list[ImageMatches]) -> float:
    """Median distance (pixels) that points moved between the frames of their pair."""
    return float(torch.cat([(m.xy_second - m.xy_first).norm(dim=-1) for m in matches]).median())


def _ideal(
    sequence: CameraSequence, frame: int, xy: Float[Tensor, "N 2"], K: Float[Tensor, "T 3 3"]
) -> Float[Tensor, "N 2"]:
    """Points of the picture without its lens distortion."""
    if sequence.distortion is None:
        return xy
    coefficients = sequence.distortion.per_frame(sequence.num_frames)[frame]
    return undistort_pixels(xy, K[frame], Distortion(coefficients))[0]
