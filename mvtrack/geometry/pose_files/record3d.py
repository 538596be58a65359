"""Record3D: the `metadata` of an .r3d recording (a zip file), as JSON.

`poses` holds for each frame a quaternion x, y, z, w and a position in ARKit's world, camera-to-world with OpenGL axes,
in metres; `K` is a 3x3 matrix column by column for a picture of `w` x `h`, or `perFrameIntrinsicCoeffs` holds fx, fy,
cx, cy a frame; `fps`, or `frameTimestamps` in seconds.
"""

import torch

from mvtrack.config.pose_files import ReadOptions
from mvtrack.geometry.camera import Camera
from mvtrack.geometry.pose_files.geometry import axes_to_opencv, pinhole_matrix, poses_of
from mvtrack.geometry.pose_files.parse import Fields, frame_count, parse_json
from mvtrack.geometry.pose_files.sequence import CameraSequence, frame_names
from mvtrack.geometry.pose_files.source import PoseFormat, PoseSource
from mvtrack.geometry.pose_files.tum import check_quaternion
from mvtrack.geometry.rotation import matrix_from_quaternion


def read(source: PoseSource, options: ReadOptions) -> CameraSequence:
    """All frames, of the recording or of its metadata alone."""
    tree = _metadata(source) if source.is_npz else source.document
    poses = tree.numbers("poses", (None, 7))
    count = frame_count(len(poses), tree.at("poses"))
    for index, quaternion in enumerate(poses[:, :4].tolist()):
        check_quaternion(quaternion, tree.at("poses").item(index))
    if "perFrameIntrinsicCoeffs" in tree:
        K = pinhole_matrix(*tree.numbers("perFrameIntrinsicCoeffs", (count, 4)).unbind(-1))
    else:
        K = tree.numbers("K", (9,)).view(3, 3).mT.expand(count, 3, 3)
    if "frameTimestamps" in tree:
        times = tree.numbers("frameTimestamps", (count,))
    else:
        times = torch.arange(count, dtype=torch.float64) / tree.number("fps", 1e-3, 1e6)
    c2w = poses_of(matrix_from_quaternion(poses[:, [3, 0, 1, 2]]), poses[:, 4:])
    return CameraSequence(
        Camera(axes_to_opencv(c2w, "opengl"), K, (tree.side_px("h"), tree.side_px("w")), scale_known=True),
        frame_names(count),
        times,
        convention="Record3D metadata: OpenGL axes, camera-to-world, metres",
        file_axes="opengl",
        file_quaternion="xyzw",
    )


def _metadata(source: PoseSource) -> Fields:
    place = source.place.field("metadata")
    return Fields(parse_json(source.npz.content("metadata"), place), place)


def _detect(source: PoseSource) -> bool:
    if source.is_npz:
        return source.npz.has("metadata") and not source.npz.has("metadata.npy")
    return source.fields.keys() >= {"poses", "w", "h"}


RECORD3D = PoseFormat(
    "record3d", "Record3D .r3d, or its metadata", "opengl", "c2w", "metres", _detect, read,
    holds=("times", "intrinsics", "size", "unit"),
)  # fmt: skip
