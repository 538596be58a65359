"""What a pose file gives: the cameras of one video, with the names, times and lens that the file knows."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from mvtrack.geometry.camera import Camera
from mvtrack.geometry.pose_files.distortion import Distortion
from mvtrack.geometry.pose_files.options import needed
from mvtrack.geometry.pose_files.parse import Place, check_name, natural_order, show

ROTATION_TOLERANCE = 1e-3  # largest entry of R^T R - I: passes a rotation that was written with four digits
MAX_COORDINATE = 1e9  # of a camera's position, in any unit
MAX_FOCAL_PX, MAX_PRINCIPAL_PX = 1e7, 1e7


@dataclass(frozen=True)
class CameraSequence:
    """Cameras of T frames in the project's conventions (OpenCV axes, camera-to-world, raster pixels; float64).

    camera: leading shape (T,); `camera.scale_known` says whether the unit is metres. names: the frames' names or ids
    in the file. timestamps_s: seconds, where the file has times. distortion: the lens, where the file has one that is
    not zero. convention: what the file said in its own terms, for people. file_axes, file_direction, file_quaternion:
    what its numbers were taken to be, which `reinterpret` can change ("" for a file without quaternions). points,
    point_colors: of the scene, in the unit of the poses, where the file holds some. notes: what was decided while
    reading, for people.
    """

    camera: Camera
    names: tuple[str, ...]
    timestamps_s: Float[Tensor, "T"] | None = None
    distortion: Distortion | None = None
    convention: str = ""
    file_axes: str = "opencv"
    file_direction: str = "c2w"
    file_quaternion: str = ""
    points: Float[Tensor, "N 3"] | None = None
    point_colors: UInt8[Tensor, "N 3"] | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.camera.shape) != 1 or self.camera.shape[0] < 1:
            raise ValueError(f"a sequence needs cameras of leading shape (T,), T > 0; got {tuple(self.camera.shape)}")
        frames = self.num_frames
        if len(self.names) != frames:
            raise ValueError(f"a sequence of {frames} cameras needs {frames} names, got {len(self.names)}")
        for index, name in enumerate(self.names):
            check_name(name, Place("camera sequence").field("names").item(index))
        if self.timestamps_s is not None and tuple(self.timestamps_s.shape) != (frames,):
            raise ValueError(f"timestamps_s must be ({frames},), got {tuple(self.timestamps_s.shape)}")
        if self.distortion is not None and tuple(self.distortion.coefficients.shape) not in ((5,), (frames, 5)):
            raise ValueError(
                f"distortion must be (5,) or ({frames}, 5), got {tuple(self.distortion.coefficients.shape)}"
            )

    @property
    def num_frames(self) -> int:
        return self.camera.shape[0]

    @property
    def unit(self) -> str:
        """What a length of 1 is, for people."""
        return "metres" if self.camera.scale_known else "unknown"

    def frames(self, index: list[int]) -> "CameraSequence":
        """The same sequence at some of its frames, in the order given."""
        lens = self.distortion
        if lens is not None and lens.coefficients.ndim == 2:
            lens = Distortion(lens.coefficients[index])
        return replace(
            self,
            camera=self.camera[index],
            names=tuple(self.names[i] for i in index),
            timestamps_s=None if self.timestamps_s is None else self.timestamps_s[index],
            distortion=lens,
        )


def refuse_skew(sequence: CameraSequence, what: str) -> None:
    """Raises ValueError for intrinsics with skew, which `what` cannot hold."""
    if sequence.camera.K[:, 0, 1].any():
        raise ValueError(f"{what} cannot hold skew: K[0, 1] must be 0")


def refuse_distortion(sequence: CameraSequence, what: str) -> None:
    """Raises ValueError for a distorted lens, which `what` cannot hold."""
    if sequence.distortion is not None and not sequence.distortion.is_zero:
        raise ValueError(f"{what} cannot hold lens distortion")


def require_ascending_names(names: tuple[str, ...] | list[str], what: str) -> None:
    """Raises ValueError for names that occur twice or that `what` would be read in another order of."""
    if len(set(names)) != len(names):
        raise ValueError(f"{what} need frame names that differ")
    first = next((i for i, j in enumerate(natural_order(names)) if i != j), None)
    if first is not None:
        raise ValueError(
            f"{what} are read in order of the names, and these do not ascend (names[{first}] is {show(names[first])}): "
            "rename the frames"
        )


def frame_names(num_frames: int) -> tuple[str, ...]:
    """Names for a format that has none: the frame's number."""
    return tuple(str(index) for index in range(num_frames))


def common_size(sizes: list[tuple[int, int]], place: Place) -> tuple[int, int]:
    """The one image size of all frames. Raises ValueError where they differ."""
    if len(set(sizes)) > 1:
        raise place.error(f"has {len(set(sizes))} image sizes, expected one size for all frames")
    return sizes[0]


def in_order(sequence: CameraSequence, order: str | None, place: Place) -> CameraSequence:
    """Frames in order of their names where `order` is "name", as they are where it is "file".

    Without an order, names that do not ascend are an error: which of the two runs in time is not known.
    """
    ascending = natural_order(sequence.names)
    if order == "file" or ascending == list(range(sequence.num_frames)):
        return sequence
    if order == "name":
        return sequence.frames(ascending)
    first = next(i for i, j in enumerate(ascending) if i != j)
    raise place.item(first).error(
        f"is {show(sequence.names[first])}, but {show(sequence.names[ascending[first]])} comes first by name: "
        f"{needed('order')}, 'name' or 'file', to say which order the frames have in time"
    )


def require_valid(sequence: CameraSequence, source: str) -> CameraSequence:
    """The same sequence if its numbers are finite and every rotation is one; ValueError naming the frame if not."""
    c2w = sequence.camera.c2w
    fields = {"pose": c2w.flatten(1), "intrinsics": sequence.camera.K.flatten(1)}
    if sequence.timestamps_s is not None:
        fields["timestamp"] = sequence.timestamps_s[:, None]
    if sequence.distortion is not None:
        fields["distortion"] = sequence.distortion.per_frame(sequence.num_frames)
    for field, values in fields.items():
        bad = ~values.isfinite().all(-1)
        if bad.any():
            raise _frame_error(sequence, source, int(bad.nonzero()[0]), f"the {field} holds NaN or infinity")
    _require_sane(sequence, source)
    rotation = c2w[:, :3, :3]
    error = (rotation.mT @ rotation - torch.eye(3, dtype=c2w.dtype)).abs().amax((-1, -2))
    determinant = torch.linalg.det(rotation)
    bad = (error > ROTATION_TOLERANCE) | (determinant <= 0)
    if bad.any():
        frame = int(bad.nonzero()[0])
        if error[frame] <= ROTATION_TOLERANCE:
            message = "the rotation has determinant -1, expected +1: its axes are mirrored (left-handed)"
        else:
            message = f"the rotation is none: R^T R differs from 1 by {error[frame]:.3g}, at most {ROTATION_TOLERANCE}"
        raise _frame_error(sequence, source, frame, message)
    return sequence


def _require_sane(sequence: CameraSequence, source: str) -> None:
    """The first frame with a number that no camera has, as a ValueError."""
    c2w, K = sequence.camera.c2w, sequence.camera.K
    focal, centre = K.diagonal(dim1=-2, dim2=-1)[:, :2], K[:, :2, 2]
    constant = torch.cat([K[:, 1, :1], K[:, 2]], -1)
    last_row, corner = c2w.new_tensor([0.0, 0, 0, 1]), K.new_tensor([0.0, 0, 0, 1])
    far, wide = c2w[:, :3, 3].abs() > MAX_COORDINATE, centre.abs() > MAX_PRINCIPAL_PX
    checks = [
        (c2w[:, 3], c2w[:, 3] != last_row, "the pose's last row is {}, expected [0, 0, 0, 1]"),
        (c2w[:, :3, 3], far, f"the camera's position is {{}}, expected coordinates within {MAX_COORDINATE:g}"),
        (
            focal,
            (focal <= 0) | (focal > MAX_FOCAL_PX),
            f"the focal lengths are {{}} px, expected 0 to {MAX_FOCAL_PX:g}",
        ),
        (centre, wide, f"the principal point is {{}} px, expected coordinates within {MAX_PRINCIPAL_PX:g}"),
        (K.flatten(1), constant != corner, "K is {} row by row, expected [fx, skew, cx, 0, fy, cy, 0, 0, 1]"),
    ]
    for values, bad, message in checks:
        if bad.any():
            frame = int(bad.any(-1).nonzero()[0])
            shown = "[" + ", ".join(f"{v:.6g}" for v in values[frame].tolist()) + "]"
            raise _frame_error(sequence, source, frame, message.format(shown))


def _frame_error(sequence: CameraSequence, source: str, frame: int, message: str) -> ValueError:
    return ValueError(f"{source}: frame {frame} ({show(sequence.names[frame])}): {message}")
