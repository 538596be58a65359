"""Cameras that were measured from a video, with what the measurement knows about itself."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mvtrack.geometry.camera import Camera, relative_pose
from mvtrack.geometry.keyframe_path import interpolate_poses
from mvtrack.inference.camera_estimation.rotation_only import largest_turn_deg


class CameraEstimationError(ValueError):
    """No cameras could be measured; the message says why, in words for the user."""


@dataclass(frozen=True)
class EstimatedCameras:
    """Cameras (T,) of one video in the world of its first found frame; identity where nothing was found.

    found: frames with a pose. method: how they were found, for people. rotation_only: the camera turned on the spot as
    far as the pictures tell, so its place is the origin by assumption. median_depth: z-depth of what the first found
    frame shows, in the cameras' unit; None where there is none. misfit_px: mean distance of matched points from where
    the cameras allow them, where that was measured. doubt_deg: mean difference of the turns between cameras from two
    halves of the points; it grows where the pictures do not determine the cameras. notes: what the user should know.
    points: of the scene, in the same world, where the method places some.
    """

    camera: Camera
    found: Bool[Tensor, "T"]
    method: str
    rotation_only: bool = False
    median_depth: float | None = None
    misfit_px: float | None = None
    doubt_deg: float | None = None
    notes: tuple[str, ...] = ()
    points: Float[Tensor, "N 3"] | None = None

    @property
    def coverage(self) -> float:
        """Share of frames with a pose."""
        return float(self.found.double().mean())

    @property
    def largest_turn_deg(self) -> float:
        """The largest angle between the first found frame and another."""
        return largest_turn_deg(self.camera.c2w[self.found, :3, :3])

    @property
    def fov_deg(self) -> float:
        """Horizontal field of view of the first found frame."""
        focal_px = self.camera.K[int(self.found.long().argmax()), 0, 0]
        return float(torch.rad2deg(2 * torch.atan(0.5 * self.camera.size[1] / focal_px)))

    def scaled_to_depth(self, depth: float) -> "EstimatedCameras":
        """The same cameras in a unit in which the first frame's median depth is `depth`.

        A camera that only turns has no unit, and comes back as it is. Raises ValueError where the depth is unknown.
        """
        if self.rotation_only:
            return self
        if self.median_depth is None:
            raise ValueError(f"cameras from {self.method} come without depth: their unit cannot be set")
        factor = depth / self.median_depth
        points = None if self.points is None else self.points * factor
        return replace(self, camera=self.camera.scaled(factor), median_depth=depth, points=points)

    def filled(self) -> Camera:
        """Cameras of all frames: missing ones interpolated between found ones; beyond the ends, held still."""
        keys = self.found.nonzero()[:, 0]
        times = torch.arange(len(self.found)).clamp(int(keys[0]), int(keys[-1])).double()
        poses = interpolate_poses(self.camera.c2w[keys], keys.double(), times)
        nearest = (times[:, None] - keys).abs().argmin(-1)
        return replace(self.camera, c2w=poses, K=self.camera.K[keys[nearest]])

    def at_frames(self, key_frames: list[int], num_frames: int) -> "EstimatedCameras":
        """Cameras of a longer video of which these are some frames, with the others marked as not found."""
        c2w = torch.eye(4, dtype=torch.float64).repeat(num_frames, 1, 1)
        K = self.camera.K[:1].repeat(num_frames, 1, 1)
        found = torch.zeros(num_frames, dtype=torch.bool)
        c2w[key_frames], K[key_frames], found[key_frames] = self.camera.c2w, self.camera.K, self.found
        return replace(self, camera=replace(self.camera, c2w=c2w, K=K), found=found)

    def arrays(self) -> dict[str, np.ndarray]:
        """Plain arrays, from which `of_arrays` makes the same object again."""
        return {
            "c2w": self.camera.c2w.numpy(),
            "K": self.camera.K.numpy(),
            "size": np.array(self.camera.size),
            "scale_known": np.array(self.camera.scale_known),
            "found": self.found.numpy(),
            "method": np.array(self.method),
            "rotation_only": np.array(self.rotation_only),
            "median_depth": np.array(np.nan if self.median_depth is None else self.median_depth),
            "misfit_px": np.array(np.nan if self.misfit_px is None else self.misfit_px),
            "doubt_deg": np.array(np.nan if self.doubt_deg is None else self.doubt_deg),
            "notes": np.array(self.notes, dtype=np.str_),
            "points": np.zeros((0, 3)) if self.points is None else self.points.numpy(),
        }

    @staticmethod
    def of_arrays(arrays: dict[str, np.ndarray]) -> "EstimatedCameras":
        height, width = (int(side) for side in arrays["size"])
        K, c2w = torch.from_numpy(arrays["K"]), torch.from_numpy(arrays["c2w"])
        depth, misfit, doubt = (float(arrays[name]) for name in ("median_depth", "misfit_px", "doubt_deg"))
        return EstimatedCameras(
            Camera(c2w, K, (height, width), bool(arrays["scale_known"])),
            torch.from_numpy(arrays["found"]),
            str(arrays["method"]),
            bool(arrays["rotation_only"]),
            None if np.isnan(depth) else depth,
            None if np.isnan(misfit) else misfit,
            None if np.isnan(doubt) else doubt,
            tuple(str(note) for note in arrays["notes"]),
            torch.from_numpy(arrays["points"]) if len(arrays["points"]) else None,
        )


def cameras_from_poses(
    c2w: Float[Tensor, "T 4 4"], K: Float[Tensor, "T 3 3"], size: tuple[int, int], found: Bool[Tensor, "T"],
    method: str, scale_known: bool = False,
) -> EstimatedCameras:  # fmt: skip
    """Poses in any world, taken relative to the first found frame; the others get the identity and that frame's K."""
    first, mine = int(found.long().argmax()), found[:, None, None]
    relative = relative_pose(c2w[first].double(), c2w.double())
    relative = torch.where(mine, relative, torch.eye(4, dtype=torch.float64))
    camera = Camera(relative, torch.where(mine, K.double(), K[first].double()), size, scale_known)
    return EstimatedCameras(camera, found, method)
