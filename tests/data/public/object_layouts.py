"""Rendered objects written as Wonder3D's and SyncDreamer's authors write theirs."""

import pickle
from pathlib import Path

import cv2
import numpy as np
import torch

from mvtrack.data.clip import Clip
from mvtrack.data.public.wonder3d import VIEWS

ORTHO_SCALE = 1.25
_BLENDER = torch.tensor([[1.0], [-1.0], [-1.0]], dtype=torch.float64)  # camera axes: x right, y up, z backward


def write_objects(root: Path, rig: str, clips: list[Clip]) -> None:
    for number, clip in enumerate(clips):
        (write_wonder3d if rig == "wonder3d" else write_syncdreamer)(root, f"{number}ab{number}", clip)


def write_wonder3d(root: Path, name: str, clip: Clip) -> None:
    folder = root / name[:3] / name
    folder.mkdir(parents=True)
    for i, view in enumerate(VIEWS):
        w2c = _BLENDER * torch.linalg.inv(clip.camera.c2w[i, 0].double())[:3]
        np.savetxt(folder / f"000_{view}_RT.txt", w2c.numpy())
        cv2.imwrite(str(folder / f"rgb_000_{view}.png"), _bgr(clip, i))
        cv2.imwrite(str(folder / f"mask_000_{view}.png"), clip.masks[i, 0].numpy().astype(np.uint8) * 255)
        depth = torch.where(clip.masks[i, 0], clip.depth[i, 0] / 10 * 65535, 65535.0)
        cv2.imwrite(str(folder / f"depth_000_{view}.png"), depth.round().numpy().astype(np.uint16))


def write_syncdreamer(root: Path, name: str, clip: Clip) -> None:
    (root / name).mkdir(parents=True)
    K = clip.camera.K[0, 0].double().clone()
    K[:2] *= 256 / clip.camera.size[0]
    poses = torch.linalg.inv(clip.camera.c2w[:, 0].double())[:, :3].numpy()
    meta = [K.numpy(), np.arange(16) * 22.5, np.full(16, 30.0), np.full(16, 1.5), poses]
    (root / "camera-16.pkl").write_bytes(pickle.dumps(meta))
    for i in range(16):
        cv2.imwrite(str(root / name / f"{i:03d}.png"), _bgr(clip, i))


def _bgr(clip: Clip, view: int) -> np.ndarray:
    rgb = ((clip.video[view, 0] + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
    return np.ascontiguousarray(rgb[..., ::-1])
