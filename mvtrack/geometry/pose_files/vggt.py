"""VGGT's predictions.npz: `extrinsic` (T, 3, 4), world-to-camera in OpenCV axes, and `intrinsic` (T, 3, 3).

They are for the pictures that VGGT made of the input (518 pixels wide); their size is the shape of `images`
(T, 3, H, W) or `depth` (T, H, W, 1), neither of which is unpacked.
"""

from mvtrack.config.pose_files import ReadOptions
from mvtrack.geometry.camera import Camera
from mvtrack.geometry.pose_files.geometry import c2w_from_w2c, full_poses
from mvtrack.geometry.pose_files.options import image_size
from mvtrack.geometry.pose_files.parse import frame_count, numbers, side_px
from mvtrack.geometry.pose_files.sequence import CameraSequence, frame_names
from mvtrack.geometry.pose_files.source import PoseFormat, PoseSource

_PICTURES = {"images": 2, "depth": 1}  # where the height stands in the shape


def read(source: PoseSource, options: ReadOptions) -> CameraSequence:
    """All frames; `size` is needed only where the file holds no pictures."""
    file, place = source.npz, source.place
    w2c = numbers(file.array("extrinsic"), place.field("extrinsic"), (None, 3, 4), (None, 4, 4))
    count = frame_count(len(w2c), place.field("extrinsic"))
    K = numbers(file.array("intrinsic"), place.field("intrinsic"), (None, 3, 3))
    if len(K) != count:
        raise place.field("intrinsic").error(f"has {len(K)} entries, expected {count}, one a frame as in extrinsic")
    pictures = next((name for name in _PICTURES if file.has(name)), None)
    if pictures is None:
        size = image_size(options, place)
    else:
        axis, shape = _PICTURES[pictures], file.shape(pictures)
        if len(shape) != 4 or shape[0] != count:
            raise place.field(pictures).error(f"has the shape {shape}, expected {count} pictures of 4 axes")
        size = tuple(side_px(side, place.field(pictures)) for side in shape[axis : axis + 2])
    return CameraSequence(
        Camera(c2w_from_w2c(full_poses(w2c), place), K, size, options.metric),
        frame_names(count),
        convention="VGGT predictions: OpenCV axes, world-to-camera",
        file_direction="w2c",
    )


VGGT = PoseFormat(
    "vggt", "VGGT predictions.npz", "opencv", "w2c", "unknown",
    lambda source: source.is_npz and source.npz.has("extrinsic", "intrinsic"), read,
    options=("size", "metric"), holds=("intrinsics", "size"),
)  # fmt: skip
