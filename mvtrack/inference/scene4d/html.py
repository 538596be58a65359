"""One HTML file that plays a scene offline: points of every moment, compressed, and a small WebGL viewer."""

import base64
import json
import zlib
from importlib import resources
from pathlib import Path

import numpy as np

from mvtrack.geometry.camera import Camera
from mvtrack.inference.scene4d.moments import VIEWS, Scene4D

_STEPS = 65535  # of a coordinate, over the scene's extent
_PLACE = "/*DATA*/"


def write_html(scene: Scene4D, path: Path) -> list[str]:
    """Coordinates are rounded to 1/65535 of each moment's extent. Returns notes."""
    clouds, blocks, offset = [], [], 0
    for moment in scene.moments():
        entry = {}
        for name, surface in zip(VIEWS, moment.views, strict=True):
            points, colors = surface.points[surface.used].numpy(), surface.colors[surface.used].numpy()
            low = points.min(0) if len(points) else np.zeros(3)
            size = np.maximum(points.max(0) - low, 1e-9) if len(points) else np.ones(3)
            steps = np.round((points - low) / size * _STEPS).astype("<u2")
            blocks += [steps.tobytes(), colors.tobytes()]
            entry[name] = {"count": len(points), "at": offset, "low": low.tolist(), "size": size.tolist()}
            offset += 9 * len(points) + len(points) % 2  # the next block starts at an even byte
            blocks.append(b"\0" * (len(points) % 2))
        clouds.append(entry)
    tracks = scene.tracks()
    lines = [] if tracks is None else [np.round(line, 4).tolist() for line in tracks.lines()]
    data = {
        "fps": scene.fps, "frames": scene.numbers, "clouds": clouds, "lines": lines,
        "distance": scene.result.subject_distance,
        "cameras": {name: _camera(scene.camera[view]) for view, name in enumerate(VIEWS)},
        "points": base64.b64encode(zlib.compress(b"".join(blocks), 6)).decode(),
    }  # fmt: skip
    page = resources.files("mvtrack.inference.scene4d").joinpath("viewer.html").read_text()
    path.write_text(page.replace(_PLACE, json.dumps(data)))
    return []


def _camera(camera: Camera) -> list[dict]:
    """Of every moment: camera-to-world row by row, and half the picture's extent at depth 1, left, right, up, down."""
    height, width = camera.size
    K = camera.K.double().numpy()
    edges = np.stack([
        -K[:, 0, 2] / K[:, 0, 0], (width - K[:, 0, 2]) / K[:, 0, 0],
        -K[:, 1, 2] / K[:, 1, 1], (height - K[:, 1, 2]) / K[:, 1, 1],
    ], -1)  # fmt: skip
    rows = zip(camera.c2w.double().numpy(), edges, strict=True)
    return [{"c2w": np.round(c2w, 6).flatten().tolist(), "edges": np.round(edge, 6).tolist()} for c2w, edge in rows]
