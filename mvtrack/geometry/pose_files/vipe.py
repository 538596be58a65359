"""ViPE: `pose/NAME.npz` with `data` (T, 4, 4), camera-to-world in OpenCV axes, and `inds`, the frames' numbers.

Intrinsics lie beside it, in `intrinsics/NAME.npz` (or under the file's name with `intrinsics` for `pose`): `data`
(T, 4) of fx, fy, cx, cy in pixels of the video. Neither file holds the picture's size.
"""

from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from mvtrack.config.pose_files import ReadOptions
from mvtrack.geometry.camera import Camera
from mvtrack.geometry.pose_files.geometry import pinhole_matrix
from mvtrack.geometry.pose_files.npz import NpzFile
from mvtrack.geometry.pose_files.options import image_size, lens_matrix
from mvtrack.geometry.pose_files.parse import frame_count, number, numbers
from mvtrack.geometry.pose_files.sequence import CameraSequence
from mvtrack.geometry.pose_files.source import LENS_OPTIONS, PoseFormat, PoseSource


def read(source: PoseSource, options: ReadOptions) -> CameraSequence:
    """All frames, with the intrinsics beside the file, or those of the options where there are none."""
    place = source.place
    poses, frames = _series(source.npz, (4, 4))
    count = frame_count(len(poses), place)
    size = image_size(options, place)
    beside = _intrinsics_file(source.path)
    if beside is None:
        K = lens_matrix(options, size, place).expand(count, 3, 3)
    else:
        lens, of_lens = _series(NpzFile(beside), (4,))
        if of_lens != frames:
            raise place.error(f"and {beside} are of different frames")
        K = pinhole_matrix(*lens.unbind(-1))
    return CameraSequence(
        Camera(poses, K, size, options.metric),
        tuple(map(str, frames)),
        convention=f"ViPE: OpenCV axes, camera-to-world, intrinsics {f'of {beside.name}' if beside else 'as given'}",
    )


def _series(file: NpzFile, shape: tuple[int, ...]) -> tuple[Float[Tensor, "T *any"], list[int]]:
    """`data` of every frame, and the frames' numbers."""
    values = numbers(file.array("data"), file.place.field("data"), (None, *shape))
    at = file.place.field("inds")
    frames = numbers(file.array("inds"), at, (None,)).tolist()
    if len(frames) != len(values) or any(b <= a for a, b in zip(frames, frames[1:], strict=False)):
        raise at.error(f"expected {len(values)} frame numbers that ascend, one for each entry of data")
    return values, [int(number(frame, at, 0)) for frame in frames]


def _intrinsics_file(path: Path) -> Path | None:
    places = [path.parent.parent / "intrinsics" / path.name]
    if "pose" in path.name:
        places.append(path.with_name(path.name.replace("pose", "intrinsics")))
    return next((place for place in places if place.is_file()), None)


VIPE = PoseFormat(
    "vipe", "ViPE pose npz, with its intrinsics beside it", "opencv", "c2w", "unknown",
    lambda source: source.is_npz and source.npz.has("data", "inds"), read,
    options=(*LENS_OPTIONS, "metric"), holds=("names", "intrinsics"),
)  # fmt: skip
