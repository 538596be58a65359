"""A folder of coloured point clouds, one of each view and moment, in the world of `cameras.json` (OpenCV's axes)."""

from pathlib import Path

import numpy as np

from mvtrack.inference.scene4d.moments import VIEWS, Scene4D, Surface

_VERTEX = np.dtype([("xyz", "<f4", 3), ("rgb", "u1", 3), ("seen", "u1")])
_HEADER = """ply
format binary_little_endian 1.0
comment {comment}
element vertex {count}
property float x
property float y
property float z
property uchar red
property uchar green
property uchar blue
property uchar seen
end_header
"""


def write_ply(scene: Scene4D, folder: Path) -> list[str]:
    """Files VIEW_NUMBER.ply, the number being that of the video's frame. Returns notes."""
    for moment in scene.moments():
        for name, surface in zip(VIEWS, moment.views, strict=True):
            comment = f"{name}, frame {moment.number}; x right, y down, z forward; seen: the source shows it then"
            (folder / f"{name}_{moment.number:05d}.ply").write_bytes(ply_bytes(surface, comment))
    return []


def ply_bytes(surface: Surface, comment: str) -> bytes:
    """One point cloud; positions are rounded to float32."""
    used = surface.used
    vertices = np.empty(int(used.sum()), _VERTEX)
    vertices["xyz"], vertices["rgb"] = surface.points[used].numpy(), surface.colors[used].numpy()
    vertices["seen"] = surface.seen[used].numpy()
    return _HEADER.format(comment=comment, count=len(vertices)).encode() + vertices.tobytes()
