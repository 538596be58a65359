"""MegaSaM: an npz with `cam_c2w` (T, 4, 4), OpenCV axes, `intrinsic` (3, 3), and the pictures that these are for.

The pictures' size is the shape of `images` (T, H, W, 3) or `depths` (T, H, W), neither of which is unpacked.
"""

from mvtrack.config.pose_files import ReadOptions
from mvtrack.geometry.camera import Camera
from mvtrack.geometry.pose_files.options import image_size
from mvtrack.geometry.pose_files.parse import frame_count, numbers, side_px
from mvtrack.geometry.pose_files.sequence import CameraSequence, frame_names
from mvtrack.geometry.pose_files.source import PoseFormat, PoseSource


def read(source: PoseSource, options: ReadOptions) -> CameraSequence:
    """All frames; `size` is needed only where the file holds neither images nor depths."""
    file, place = source.npz, source.place
    poses = numbers(file.array("cam_c2w"), place.field("cam_c2w"), (None, 4, 4))
    count = frame_count(len(poses), place.field("cam_c2w"))
    K = numbers(file.array("intrinsic"), place.field("intrinsic"), (3, 3), (None, 3, 3)).expand(count, 3, 3)
    pictures = next((name for name in ("images", "depths") if file.has(name)), None)
    if pictures is None:
        size = image_size(options, place)
    else:
        shape = file.shape(pictures)
        if len(shape) < 3 or shape[0] != count:
            raise place.field(pictures).error(f"has the shape {shape}, expected ({count}, height, width, …)")
        size = tuple(side_px(side, place.field(pictures)) for side in shape[1:3])
    return CameraSequence(
        Camera(poses, K, size, options.metric),
        frame_names(count),
        convention="MegaSaM npz: OpenCV axes, camera-to-world",
    )


MEGASAM = PoseFormat(
    "megasam", "MegaSaM npz (…_sgd_cvd_hr.npz)", "opencv", "c2w", "unknown",
    lambda source: source.is_npz and source.npz.has("cam_c2w", "intrinsic"), read,
    options=("size", "metric"), holds=("intrinsics", "size"),
)  # fmt: skip
