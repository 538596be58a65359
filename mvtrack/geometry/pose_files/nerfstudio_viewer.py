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
from mvtrack.geometry.pose_files.parse import objects
from mvtrack.geometry.pose_files.sequence import CameraSequence, frame_names, in_order
from mvtrack.geometry.pose_files.source import LENS_OPTIONS, PoseFormat, PoseSource


def _read_path(source: PoseSource, options: ReadOptions) -> CameraSequence:
    """All frames of a path. Raises ValueError for panoramas and fisheyes, which the viewer renders too."""
    document = source.document
    kind = document.tree.get("camera_type", "perspective")
    if kind != "perspective":
        raise document.at("camera_type").error(f"is {kind!r}, expected 'perspective'")
    height, width = document.side_px("render_height"), document.side_px("render_width")
    fps = document.number("fps", 1e-3, 1e6)
    frames = document.objects("camera_path")
    poses = torch.stack([frame.numbers("camera_to_world", (16,), (4, 4)).view(4, 4) for frame in frames])
    fovs = torch.tensor([frame.number("fov", 0.1, 179) for frame in frames], dtype=torch.float64)
    focal = height / 2 / torch.tan(torch.deg2rad(fovs) / 2)
    K = pinhole_matrix(focal, focal, torch.full_like(focal, width / 2), torch.full_like(focal, height / 2))
    return CameraSequence(
        Camera(axes_to_opencv(poses, "opengl"), K, (height, width), options.metric),
        frame_names(len(frames)),
        torch.arange(len(frames), dtype=torch.float64) / fps,
        convention="nerfstudio camera_path.json: OpenGL axes, camera-to-world, vertical fields of view",
        file_axes="opengl",
    )


def _read_export(source: PoseSource, options: ReadOptions) -> CameraSequence:
    place = source.place
    frames = objects(source.json, place)
    poses = torch.cat([full_poses(frame.numbers("transform", (3, 4), (4, 4))[None]) for frame in frames])
    size = image_size(options, place)
    sequence = CameraSequence(
        Camera(
            axes_to_opencv(poses, "opengl"),
            lens_matrix(options, size, place).expand(len(frames), 3, 3),
            size,
            options.metric,
        ),
        tuple(frame.name("file_path") for frame in frames),
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
    options=(*LENS_OPTIONS, "order", "metric"), holds=("names",),
)  # fmt: skip
