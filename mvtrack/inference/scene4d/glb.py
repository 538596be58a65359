"""A GLB file (glTF 2.0): meshes or points that appear at their time, two moving cameras, tracks as lines.

glTF's axes: y up, cameras look along -z; metres. Only nodes can be animated, so a moment's node has the scale 1 while
it is shown and 0 else.
"""

import json
import struct
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mvtrack.geometry.camera import Camera
from mvtrack.geometry.rotation import quaternion_from_matrix
from mvtrack.inference.scene4d.moments import VIEWS, Scene4D, Surface, Tracks3D

Y_UP = np.array([1.0, -1.0, -1.0])  # from OpenCV's axes
_FLOAT, _UINT, _BYTE = 5126, 5125, 5121
_POINTS, _LINE_STRIP, _TRIANGLES = 0, 3, 4
_JSON, _BINARY = 0x4E4F534A, 0x004E4942
_TRACK_COLOR = (1.0, 0.55, 0.1)
_NEAR, _FAR = 0.01, 1000.0


class _Document:
    """A glTF tree, and the bytes that it points into."""

    def __init__(self) -> None:
        self.tree: dict = {"asset": {"version": "2.0", "generator": "mvtrack"}, "scene": 0}
        for name in ("nodes", "meshes", "accessors", "bufferViews", "cameras", "materials"):
            self.tree[name] = []
        self.pieces: list[bytes] = []
        self.length = 0

    def add(self, kind: str, item: dict) -> int:
        self.tree[kind].append(item)
        return len(self.tree[kind]) - 1

    def accessor(self, values: np.ndarray, shape: str, bounds: bool = False, normalized: bool = False) -> int:
        """values: one row an element, 4 bytes a row at least."""
        component = {"f": _FLOAT, "u": _UINT}[values.dtype.kind] if values.itemsize == 4 else _BYTE
        data = values.tobytes()
        view = self.add("bufferViews", {"buffer": 0, "byteOffset": self.length, "byteLength": len(data)})
        self.pieces.append(data + b"\0" * (-len(data) % 4))
        self.length += len(self.pieces[-1])
        item = {"bufferView": view, "componentType": component, "count": len(values), "type": shape}
        if bounds:
            rows = values.reshape(len(values), -1)
            item |= {"min": rows.min(0).tolist(), "max": rows.max(0).tolist()}
        return self.add("accessors", item | ({"normalized": True} if normalized else {}))

    def write(self, path: Path) -> None:
        self.tree["buffers"] = [{"byteLength": self.length}]
        text = json.dumps({name: value for name, value in self.tree.items() if value != []}).encode()
        text += b" " * (-len(text) % 4)
        body = b"".join(self.pieces)
        with path.open("wb") as file:
            file.write(struct.pack("<4sII", b"glTF", 2, 28 + len(text) + len(body)))
            for kind, chunk in ((_JSON, text), (_BINARY, body)):
                file.write(struct.pack("<II", len(chunk), kind) + chunk)


def write_glb(scene: Scene4D, path: Path, meshes: bool = True) -> list[str]:
    """meshes: depth meshes, torn at contours; else points. Returns notes."""
    document = _Document()
    material = document.add("materials", {"name": "vertex colours", "doubleSided": True, "extensions": {
        "KHR_materials_unlit": {}}})  # fmt: skip
    document.tree["extensionsUsed"] = ["KHR_materials_unlit"]
    channels, samplers = [], []

    def animate(node: int, target: str, times: np.ndarray, values: np.ndarray, shape: str, how: str) -> None:
        samplers.append({
            "input": document.accessor(times.astype("<f4"), "SCALAR", bounds=True),
            "output": document.accessor(values.astype("<f4"), shape), "interpolation": how,
        })  # fmt: skip
        channels.append({"sampler": len(samplers) - 1, "target": {"node": node, "path": target}})

    ends = np.arange(len(scene.numbers) + 1) / scene.fps
    for index, moment in enumerate(scene.moments()):
        for name, surface in zip(VIEWS, moment.views, strict=True):
            if not surface.used.any():
                continue
            mesh = document.add("meshes", {"primitives": [_primitive(document, surface, material, meshes)]})
            hidden = {"scale": [0.0, 0.0, 0.0]} if index else {}  # where nothing plays the animation
            node = document.add("nodes", {"name": f"{name}_{moment.number:05d}", "mesh": mesh} | hidden)
            animate(node, "scale", *_shown(ends, index), "VEC3", "STEP")
    for view, name in enumerate(VIEWS):
        camera = scene.camera[view]
        node = document.add("nodes", {"name": f"{name} camera", "camera": document.add("cameras", _lens(camera))})
        animate(node, "translation", ends[:-1], camera.c2w[:, :3, 3].numpy() * Y_UP, "VEC3", "LINEAR")
        animate(node, "rotation", ends[:-1], _quaternions(camera.c2w), "VEC4", "LINEAR")
    tracks = scene.tracks()
    if tracks is not None:
        _add_tracks(document, tracks)
    document.tree["animations"] = [{"name": "time", "channels": channels, "samplers": samplers}]
    document.tree["scenes"] = [{"nodes": list(range(len(document.tree["nodes"])))}]
    document.write(path)
    return lens_notes(scene.camera)


def lens_notes(camera: Camera) -> list[str]:
    """What glTF's cameras cannot hold."""
    notes, (height, width) = [], camera.size
    off = (camera.K[..., :2, 2] - torch.tensor([width / 2, height / 2])).abs().amax()
    if off > 1:
        notes.append(f"the optical axis is {off:.1f} px beside the picture's middle, where glTF's cameras have it")
    zoom = camera.K[..., 1, 1] / camera.K[:, :1, 1, 1]
    if (zoom - 1).abs().max() > 0.01:
        notes.append("glTF's lenses do not zoom: cameras have those of the first frame")
    return notes


def _primitive(document: _Document, surface: Surface, material: int, meshes: bool) -> dict:
    points = (surface.points[surface.used].numpy() * Y_UP).astype("<f4")
    alpha = np.full((len(points), 1), 255, np.uint8)
    colors = np.concatenate([linear_bytes(surface.colors[surface.used].numpy()), alpha], 1)
    attributes = {
        "POSITION": document.accessor(points, "VEC3", bounds=True),
        "COLOR_0": document.accessor(colors, "VEC4", normalized=True),
    }
    if meshes and len(faces := surface.triangles()):
        indices = document.accessor(faces.astype("<u4").reshape(-1), "SCALAR")
        return {"attributes": attributes, "indices": indices, "material": material, "mode": _TRIANGLES}
    return {"attributes": attributes, "material": material, "mode": _POINTS}


def linear_bytes(colors: np.ndarray) -> np.ndarray:
    """sRGB bytes as glTF's vertex colours, which are linear light."""
    share = colors / 255.0
    light = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    return np.round(255 * light).astype(np.uint8)


def _shown(ends: np.ndarray, index: int) -> tuple[np.ndarray, np.ndarray]:
    """Times and scales of a moment's node."""
    times, scales = [ends[index], ends[index + 1]], [1.0, 0.0]
    if index:
        times, scales = [0.0, *times], [0.0, *scales]
    if index == len(ends) - 2:  # the last one stays
        times, scales = times[:-1], scales[:-1]
    return np.array(times), np.repeat(np.array(scales)[:, None], 3, 1)


def _lens(camera: Camera) -> dict:
    height, width = camera.size
    yfov = 2 * np.arctan(height / 2 / float(camera.K[0, 1, 1]))
    return {"type": "perspective", "perspective": {
        "yfov": float(yfov), "aspectRatio": width / height, "znear": _NEAR, "zfar": _FAR}}  # fmt: skip


def _quaternions(c2w: Float[Tensor, "T 4 4"]) -> Float[np.ndarray, "T 4"]:
    """x, y, z, w, each on the side of the one before."""
    flip = torch.diag(torch.from_numpy(Y_UP))
    wxyz = quaternion_from_matrix(flip @ c2w[:, :3, :3].double() @ flip).numpy()
    for index in range(1, len(wxyz)):
        if wxyz[index] @ wxyz[index - 1] < 0:
            wxyz[index] = -wxyz[index]
    return wxyz[:, [1, 2, 3, 0]]


def _add_tracks(document: _Document, tracks: Tracks3D) -> None:
    color = {"baseColorFactor": [*_TRACK_COLOR, 1.0]}
    material = document.add("materials", {"name": "tracks", "pbrMetallicRoughness": color})
    primitives = []
    for line in tracks.lines():
        points = document.accessor((line * Y_UP).astype("<f4"), "VEC3", bounds=True)
        primitives.append({"attributes": {"POSITION": points}, "material": material, "mode": _LINE_STRIP})
    if primitives:
        mesh = document.add("meshes", {"name": "tracks", "primitives": primitives})
        document.add("nodes", {"name": "tracks", "mesh": mesh})
