"""Tracks and cameras drawn onto videos, in the tracking field's usual look."""

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from mvtrack.camera import Camera
from mvtrack.data.video_io import to_bytes

_TRAIL_FRAMES = 8


def rainbow(order: Float[Tensor, "N"]) -> UInt8[np.ndarray, "N 3"]:
    """One RGB colour per point, by its rank in `order` (usually the query's row), red over green to violet."""
    rank = order.argsort().argsort().float() / max(1, len(order) - 1)
    hsv = np.stack([rank.numpy() * 150, np.full(len(order), 230), np.full(len(order), 255)], -1).astype(np.uint8)
    return cv2.cvtColor(hsv[None], cv2.COLOR_HSV2RGB)[0]


def draw_tracks(
    video: Float[Tensor, "T 3 H W"],
    xy: Float[Tensor, "T N 2"],
    visible: Bool[Tensor, "T N"],
    colours: UInt8[np.ndarray, "N 3"],
    scale: int = 4,
) -> UInt8[np.ndarray, "T h w 3"]:
    """Magnified 8-bit frames with points: filled where visible, hollow where hidden, behind each a fading trail."""
    frames = to_bytes(video)
    size = (frames.shape[2] * scale, frames.shape[1] * scale)
    points = (xy.numpy() * scale).round().astype(int)
    drawn = []
    for t, frame in enumerate(frames):
        image = cv2.resize(frame, size, interpolation=cv2.INTER_CUBIC)
        for back in range(min(t, _TRAIL_FRAMES), 0, -1):  # oldest first, so that newer strokes lie on top
            layer = image.copy()
            for n in np.flatnonzero(visible[t - back + 1].numpy()):
                start, end = points[t - back, n], points[t - back + 1, n]
                cv2.line(layer, tuple(map(int, start)), tuple(map(int, end)), colours[n].tolist(), 1, cv2.LINE_AA)
            strength = 1 - back / (_TRAIL_FRAMES + 1)
            image = cv2.addWeighted(layer, strength, image, 1 - strength, 0)
        for n, (x, y) in enumerate(points[t]):
            thickness = cv2.FILLED if visible[t, n] else 1
            cv2.circle(image, (int(x), int(y)), max(2, scale // 2), colours[n].tolist(), thickness, cv2.LINE_AA)
        drawn.append(image)
    return np.stack(drawn)


def draw_cameras(
    frames: UInt8[np.ndarray, "T h w 3"], camera: Camera, size_px: int = 56
) -> UInt8[np.ndarray, "T h w 3"]:
    """Inset, lower right: both camera paths (2, T) from above, x right, z up; grey the reference, orange the target."""
    relative = camera.relative_to(camera.c2w[:1, :1]).c2w
    ground = relative[..., [0, 2], 3].numpy()  # (2, T, 2)
    ahead = relative[..., [0, 2], 2].numpy()
    centre = (ground.reshape(-1, 2).max(0) + ground.reshape(-1, 2).min(0)) / 2
    reach = max(1e-3, float(np.abs(ground - centre).max())) * 1.6
    pixel = (size_px / 2 + (ground - centre) / reach * size_px / 2 * [1, -1]).round().astype(int)
    out = frames.copy()
    for t in range(len(frames)):
        inset = np.full((size_px, size_px, 3), 255, np.uint8)
        for v, colour in ((0, (130, 130, 130)), (1, (230, 120, 20))):
            cv2.polylines(inset, [pixel[v][:, None].astype(np.int32)], False, colour, 1, cv2.LINE_AA)
            tip = pixel[v, t] + (ahead[v, t] * [1, -1] * size_px / 5).round().astype(int)
            cv2.arrowedLine(
                inset, tuple(map(int, pixel[v, t])), tuple(map(int, tip)), colour, 1, cv2.LINE_AA, tipLength=0.4
            )
            cv2.circle(inset, tuple(map(int, pixel[v, t])), 2, colour, cv2.FILLED, cv2.LINE_AA)
        out[t, -size_px - 4 : -4, -size_px - 4 : -4] = inset
    return out


def as_unit_video(frames: UInt8[np.ndarray, "T h w 3"]) -> Float[Tensor, "T 3 h w"]:
    """8-bit frames as a tensor in [0, 1], as TensorBoard takes it."""
    return torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 255
