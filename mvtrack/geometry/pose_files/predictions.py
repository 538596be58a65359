"""Predictions of networks as npz: MegaSaM's (…_sgd_cvd_hr.npz) and VGGT's (predictions.npz), OpenCV axes.

MegaSaM: `cam_c2w` (T, 4, 4) and `intrinsic` (3, 3); pictures `images` (T, H, W, 3) or `depths` (T, H, W). VGGT:
`extrinsic` (T, 3, 4), world-to-camera, and `intrinsic` (T, 3, 3), for the pictures that VGGT made of the input (518
pixels wide): `images` (T, 3, H, W) or `depth` (T, H, W, 1). The pictures tell the size and are never unpacked.
"""

from mvtrack.config.pose_files import ReadOptions
from mvtrack.geometry.camera import Camera
from mvtrack.geometry.pose_files.geometry import c2w_from_w2c, full_poses
from mvtrack.geometry.pose_files.options import image_size
from mvtrack.geometry.pose_files.parse import frame_count, side_px
from mvtrack.geometry.pose_files.sequence import CameraSequence, frame_names
from mvtrack.geometry.pose_files.source import PoseFormat, PoseSource


def _format(name: str, title: str, program: str, key: str, direction: str, pictures: dict[str, int]) -> PoseFormat:
    """key: of the poses. pictures: arrays of pictures, with the axis of their height."""
    one_lens = ((3, 3),) if name == "megasam" else ()

    def read(source: PoseSource, options: ReadOptions) -> CameraSequence:
        file, place = source.npz, source.place
        poses = full_poses(file.numbers(key, (None, 4, 4), (None, 3, 4)))
        count = frame_count(len(poses), place.field(key))
        K = file.numbers("intrinsic", (count, 3, 3), *one_lens).expand(count, 3, 3)
        shown = next((array for array in pictures if file.has(array)), None)
        if shown is None:
            size = image_size(options, place)
        else:
            at, shape, axis = place.field(shown), file.shape(shown), pictures[shown]
            if len(shape) < axis + 2 or shape[0] != count:
                raise at.error(f"has the shape {shape}, expected {count} pictures with their height on axis {axis}")
            size = side_px(shape[axis], at), side_px(shape[axis + 1], at)
        c2w = c2w_from_w2c(poses, place) if direction == "w2c" else poses
        words = {"c2w": "camera-to-world", "w2c": "world-to-camera"}[direction]
        return CameraSequence(
            Camera(c2w, K, size, options.metric),
            frame_names(count),
            convention=f"{program}: OpenCV axes, {words}",
            file_direction=direction,
        )

    return PoseFormat(
        name, title, "opencv", direction, "unknown", lambda source: source.is_npz and source.npz.has(key, "intrinsic"),
        read, options=("size", "metric"), holds=("intrinsics", "size"),
    )  # fmt: skip


MEGASAM = _format(
    "megasam", "MegaSaM npz (…_sgd_cvd_hr.npz)", "MegaSaM npz", "cam_c2w", "c2w", {"images": 1, "depths": 1}
)
VGGT = _format("vggt", "VGGT predictions.npz", "VGGT predictions", "extrinsic", "w2c", {"images": 2, "depth": 1})
