"""What nerfstudio's own programs write beside transforms.json: paths of its viewer, and cameras of `ns-export cameras`.

`camera_path.json`: `camera_path` holds for each frame `camera_to_world` (16 numbers, row by row, OpenGL axes), `fov`
(vertical, degrees), and the file says `render_height`, `render_width` and `fps`. `transforms_train.json` of `ns-export`
is a list of `file_path` and `transform` (3x4, OpenGL axes), without intrinsics.
"""

import torch

from mvtrack.config.pose_files import ReadOptions
from mvtrack.geometry.camera import Camera
from mvtrack.geometry.pose_files.geometry import axes_to_opencv, full_poses, pinhole_matrix
from mvtrack.geometry.pose_files.options import image_size, lens_matrix
from mvtrack.geometry.pose_files.parse import frame_count, items, mapping, name, number, numbers, required, side_px
from mvtrack.geometry.pose_files.sequence import CameraSequence, frame_names, in_order
from mvtrack.geometry.pose_files.source import PoseFormat, PoseSource


def _read_path(source: PoseSource, options: ReadOptions) -> CameraSequence:
    """All frames of a path. Raises ValueError for panoramas and fisheyes, which the viewer renders too."""
    document, place = source.document, source.place
    kind = document.get("camera_type", "perspective")
    if kind != "perspective":
        raise place.field("camera_type").error(f"is {kind!r}, expected 'perspective'")
    height, width = (
        side_px(required(document, key, place), place.field(key)) for key in ("render_height", "render_width")
    )
    fps = number(required(document, "fps", place), place.field("fps"), 1e-3, 1e6)
    at = place.field("camera_path")
    frames = items(required(document, "camera_path", place), at)
    count = frame_count(len(frames), at)
    poses, fovs = [], []
    for index, frame in enumerate(frames):
        frame = mapping(frame, at.item(index))
        poses.append(
            numbers(required(frame, "camera_to_world", at.item(index)), at.item(index), (16,), (4, 4)).view(4, 4)
        )
        fovs.append(number(required(frame, "fov", at.item(index)), at.item(index).field("fov"), 0.1, 179))
    focal = height / 2 / torch.tan(torch.deg2rad(torch.tensor(fovs, dtype=torch.float64)) / 2)
    K = pinhole_matrix(focal, focal, torch.full_like(focal, width / 2), torch.full_like(focal, height / 2))
    return CameraSequence(
        Camera(axes_to_opencv(torch.stack(poses), "opengl"), K, (height, width), options.metric),
        frame_names(count),
        torch.arange(count, dtype=torch.float64) / fps,
        convention="nerfstudio camera_path.json: OpenGL axes, camera-to-world, vertical fields of view",
        file_axes="opengl",
    )


def _read_export(source: PoseSource, options: ReadOptions) -> CameraSequence:
    place = source.place
    frames = items(source.json, place)
    frame_count(len(frames), place)
    frames = [mapping(frame, place.item(i)) for i, frame in enumerate(frames)]
    poses = [
        numbers(required(f, "transform", place.item(i)), place.item(i), (3, 4), (4, 4)) for i, f in enumerate(frames)
    ]
    names = [name(required(f, "file_path", place.item(i)), place.item(i)) for i, f in enumerate(frames)]
    size = image_size(options, place)
    c2w = axes_to_opencv(torch.stack([full_poses(pose[None])[0] for pose in poses]), "opengl")
    sequence = CameraSequence(
        Camera(c2w, lens_matrix(options, size, place).expand(len(frames), 3, 3), size, options.metric),
        tuple(names),
        convention="ns-export cameras: OpenGL axes, camera-to-world, no intrinsics",
        file_axes="opengl",
    )
    return in_order(sequence, options.order, place)


def _is_export(source: PoseSource) -> bool:
    entries = source.entries
    return bool(entries) and isinstance(entries[0], dict) and entries[0].keys() >= {"file_path", "transform"}


CAMERA_PATH = PoseFormat(
    "camera_path", "nerfstudio viewer camera_path.json", "opengl", "c2w", "unknown",
    lambda source: isinstance(source.fields.get("camera_path"), list), _read_path,
    options=("metric",), holds=("times", "intrinsics", "size"),
)  # fmt: skip
EXPORT = PoseFormat(
    "ns_export", "ns-export cameras (transforms_train.json)", "opengl", "c2w", "unknown", _is_export, _read_export,
    options=("size", "fov", "focal_px", "focal_mm", "sensor_mm", "order", "metric"), holds=("names",),
)  # fmt: skip
