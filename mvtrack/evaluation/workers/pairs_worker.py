"""Geometry of picture pairs by a network in its own environment: `python pairs_worker.py FOLDER`.

Imports nothing of the project. FOLDER holds job.json ({"kind", "model", "pairs": [[first, second, result], ...]}, paths
relative to FOLDER); of each pair `result` (.npz) is written: first, second (h, w, 3), the points that the pixels show
in the first camera's axes (x right, y down, z forward), and K (3, 3) of the first camera in raster pixels of (h, w).
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

LONG_SIDE = {"mast3r": 512, "vggt": 518}
MULTIPLE = {"mast3r": 16, "vggt": 14}
PROCESS_RES = 504  # Depth Anything 3's own default


def main(folder: Path) -> None:
    """Load the network once, then go through the pairs."""
    job = json.loads((folder / "job.json").read_text())
    device = "cuda" if torch.cuda.is_available() else "cpu"
    geometry_of = {"mast3r": mast3r, "vggt": vggt, "depth_anything_3": depth_anything_3}[job["kind"]](
        job["model"], device
    )
    for first, second, result in job["pairs"]:
        with torch.no_grad():
            points, K = geometry_of(folder / first, folder / second)
        np.savez(folder / result, first=points[0].astype(np.float32), second=points[1].astype(np.float32), K=K)


def mast3r(model: str, device: str):
    """Both pictures' points as MASt3R gives them, in the first one's axes; the focal length by the median of votes."""
    from mast3r.model import AsymmetricMASt3R

    network = AsymmetricMASt3R.from_pretrained(model).to(device).eval()

    def geometry(first: Path, second: Path):
        views = []
        for index, path in enumerate((first, second)):
            image = torch.from_numpy(picture(path, "mast3r")).permute(2, 0, 1)[None].to(device) * 2 - 1
            shape = torch.tensor([image.shape[-2:]])
            views.append({"img": image, "true_shape": shape, "idx": index, "instance": [str(index)]})
        one, two = network(*views)
        points = one["pts3d"][0].float().cpu().numpy(), two["pts3d_in_other_view"][0].float().cpu().numpy()
        return points, voted_intrinsics(points[0])

    return geometry


def vggt(model: str, device: str):
    """Depth and cameras of both pictures, seen together."""
    from vggt.models.vggt import VGGT
    from vggt.utils.pose_enc import pose_encoding_to_extri_intri

    network = VGGT.from_pretrained(model).to(device).eval()

    def geometry(first: Path, second: Path):
        images = np.stack([picture(path, "vggt") for path in (first, second)])
        images = torch.from_numpy(images).permute(0, 3, 1, 2).to(device)
        found = network(images)
        w2c, K = pose_encoding_to_extri_intri(found["pose_enc"], images.shape[-2:])
        depth = found["depth"][0, ..., 0].float().cpu().numpy()
        return from_depth(depth, w2c[0].float().cpu().numpy(), K[0].float().cpu().numpy())

    return geometry


def depth_anything_3(model: str, device: str):
    """The same by Depth Anything 3, which resizes by itself."""
    from depth_anything_3.api import DepthAnything3

    network = DepthAnything3.from_pretrained(model).to(device).eval()

    def geometry(first: Path, second: Path):
        found = network.inference([str(first), str(second)], process_res=PROCESS_RES)
        return from_depth(found.depth, found.extrinsics, found.intrinsics)

    return geometry


def picture(path: Path, kind: str) -> np.ndarray:
    """RGB (h, w, 3) in [0, 1], scaled (never cropped) to the sides that the network takes."""
    with Image.open(path) as image:
        factor = LONG_SIDE[kind] / max(image.size)
        size = [max(1, round(side * factor / MULTIPLE[kind])) * MULTIPLE[kind] for side in image.size]
        return np.asarray(image.convert("RGB").resize(size, Image.Resampling.LANCZOS), np.float32) / 255


def from_depth(depth: np.ndarray, w2c: np.ndarray, K: np.ndarray):
    """depth (2, h, w), w2c (2, 3 or 4, 4), K (2, 3, 3) to the points of both in the first camera's axes."""
    grid = np.stack(np.meshgrid(np.arange(depth.shape[2]) + 0.5, np.arange(depth.shape[1]) + 0.5), -1)
    rays = np.concatenate([grid, np.ones_like(grid[..., :1])], -1)  # (h, w, 3)
    seen = [depth[i, ..., None] * (rays @ np.linalg.inv(K[i]).T) for i in range(2)]
    (turn_a, shift_a), (turn_b, shift_b) = ((m[:3, :3], m[:3, 3]) for m in w2c)
    world = (seen[1] - shift_b) @ turn_b
    return (seen[0], world @ turn_a.T + shift_a), K[0].astype(np.float64)


def voted_intrinsics(points: np.ndarray) -> np.ndarray:
    """K of a camera that sees each pixel's point (h, w, 3), its axis in the middle: medians of all pixels' votes."""
    height, width = points.shape[:2]
    x, y, z = points.reshape(-1, 3).T
    u, v = np.meshgrid(np.arange(width) + 0.5 - width / 2, np.arange(height) + 0.5 - height / 2)
    with np.errstate(divide="ignore", invalid="ignore"):
        votes = [np.nanmedian(np.abs(side.ravel() * z / along)) for side, along in ((u, x), (v, y))]
    return np.array([[votes[0], 0, width / 2], [0, votes[1], height / 2], [0, 0, 1]], np.float64)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
