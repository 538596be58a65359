"""A camera path as keyframes that can be edited: moved, added, removed, and turned back into a path."""

from dataclasses import dataclass, replace

from jaxtyping import Float
from torch import Tensor

from mvtrack.geometry.keyframe_path import PosePath, resample_poses
from mvtrack.geometry.trajectory import CameraMotion

MIN_KEYS, MAX_KEYS = 2, 40


@dataclass(frozen=True)
class PathKeys:
    """poses (K, 4, 4), relative to the source's first frame, evenly spaced in time; focal factors (K,)."""

    poses: Float[Tensor, "K 4 4"]
    lens: Float[Tensor, "K"]
    pivot_m: float

    @staticmethod
    def of(path: CameraMotion, count: int) -> "PathKeys":
        """`count` keyframes of a path."""
        if not MIN_KEYS <= count <= MAX_KEYS:
            raise ValueError(f"a path has {MIN_KEYS} to {MAX_KEYS} keyframes, got {count}")
        return PathKeys(path.poses(count), path.lens(count).double(), path.pivot_m)

    @property
    def count(self) -> int:
        return len(self.poses)

    def moved(self, index: int, pose: Float[Tensor, "4 4"]) -> "PathKeys":
        """With one keyframe somewhere else."""
        poses = self.poses.clone()
        poses[index] = pose.double()
        return replace(self, poses=poses)

    def resampled(self, count: int) -> "PathKeys":
        """The same curve through another number of keyframes."""
        return PathKeys.of(self.path(), count)

    def path(self, label: str = "edited") -> PosePath:
        """The smooth path through the keyframes."""
        return PosePath(self.poses, self.lens, self.pivot_m, label)

    def curve(self, num_points: int) -> Float[Tensor, "P 3"]:
        """Camera centres along the path."""
        return resample_poses(self.poses, num_points)[:, :3, 3]
