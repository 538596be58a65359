"""Tracks and cameras drawn onto videos, in the tracking field's usual look."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from mvtrack.geometry.camera import Camera
from mvtrack.video.writer import to_bytes

_TRAIL_FRAMES = 10
_FINE = 4  # fractional bits of OpenCV's coordinates: places between pixels


def rainbow(order: Float[Tensor, "N"]) -> UInt8[np.ndarray, "N 3"]:
    """One RGB colour per point, by its rank in `order` (usually the query's row), red over green to violet. Points that
    are equal there have one colour."""
    values, rank = order.unique(return_inverse=True)
    rank = rank.float() / max(1, len(values) - 1)
    hsv = np.stack([rank.numpy() * 150, np.full(len(order), 230), np.full(len(order), 255)], -1).astype(np.uint8)
    return cv2.cvtColor(hsv[None], cv2.COLOR_HSV2RGB)[0]


@dataclass(frozen=True)
class DrawnTracks:
    """What is drawn onto one view: raster positions in the frames as drawn, whether each point is visible, one colour
    per point. drawn: points of which nothing is known at a frame are left out. truth: positions of any points where
    they are known and seen, NaN elsewhere."""

    xy: Float[Tensor, "T N 2"]
    visible: Bool[Tensor, "T N"]
    colours: UInt8[np.ndarray, "N 3"]
    drawn: Bool[Tensor, "T N"] | None = None
    truth: Float[Tensor, "T M 2"] | None = None

    def shown(self) -> Bool[np.ndarray, "T N"]:
        return np.ones(self.visible.shape, bool) if self.drawn is None else self.drawn.numpy()


def draw_tracks(
    video: Float[Tensor, "T 3 H W"], xy: Float[Tensor, "T N 2"], visible: Bool[Tensor, "T N"],
    colours: UInt8[np.ndarray, "N 3"], scale: int = 4, truth: Float[Tensor, "T M 2"] | None = None,
) -> UInt8[np.ndarray, "T h w 3"]:  # fmt: skip
    """`overlay_frames` for a video in memory, magnified; positions are those of the video."""
    frames = to_bytes(video)
    size = (frames.shape[2] * scale, frames.shape[1] * scale)
    large = (cv2.resize(frame, size, interpolation=cv2.INTER_CUBIC) for frame in frames)
    tracks = DrawnTracks(xy * scale, visible, colours, truth=None if truth is None else truth * scale)
    return np.stack(list(overlay_frames(large, tracks)))


def overlay_frames(
    frames: Iterable[UInt8[np.ndarray, "h w 3"]], tracks: DrawnTracks
) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
    """Frames with points: filled where visible, hollow where hidden, behind each a fading trail of where it was seen;
    crosses where the truth is known. Sizes follow the picture's."""
    xy, visible, shown = tracks.xy.numpy(), tracks.visible.numpy(), tracks.shown()
    for t, frame in enumerate(frames):
        radius = max(2.5, min(frame.shape[:2]) / 130)
        image = _with_trails(frame, t, xy, visible & shown, tracks.colours, radius)
        if tracks.truth is not None:
            for n in np.flatnonzero(torch.isfinite(tracks.truth[t]).all(-1).numpy()):
                _cross(image, tracks.truth[t, n].numpy(), radius)
        for n in np.flatnonzero(shown[t]):
            _dot(image, xy[t, n], tracks.colours[n].tolist(), bool(visible[t, n]), radius)
        yield image


def _with_trails(
    frame: UInt8[np.ndarray, "h w 3"], t: int, xy: np.ndarray, seen: np.ndarray, colours: np.ndarray, radius: float
) -> UInt8[np.ndarray, "h w 3"]:
    """A copy with the last frames' motion, older strokes fainter and below newer ones."""
    colour, strength = frame.copy(), np.zeros(frame.shape[:2], np.uint8)
    width = max(1, round(radius * 0.7))
    for back in range(min(t, _TRAIL_FRAMES), 0, -1):
        fade = round(255 * (1 - back / (_TRAIL_FRAMES + 1)))
        for n in np.flatnonzero(seen[t - back] & seen[t - back + 1]):
            ends = [_fine(xy[s, n]) for s in (t - back, t - back + 1)]
            cv2.line(colour, *ends, colours[n].tolist(), width + 2, cv2.LINE_8, _FINE)
            cv2.line(strength, *ends, fade, width, cv2.LINE_AA, _FINE)
    share = strength[..., None].astype(np.float32) / 255
    return np.ascontiguousarray((frame + (colour.astype(np.float32) - frame) * share + 0.5).astype(np.uint8))


def _dot(image: np.ndarray, xy: np.ndarray, colour: list[int], filled: bool, radius: float) -> None:
    at, size = _fine(xy), round(radius * 2**_FINE)
    edge = max(1, round(radius / 4))
    if filled:
        cv2.circle(image, at, size + edge * 2**_FINE // 2, (20, 20, 20), cv2.FILLED, cv2.LINE_AA, _FINE)
        cv2.circle(image, at, size, colour, cv2.FILLED, cv2.LINE_AA, _FINE)
    else:
        cv2.circle(image, at, size, (20, 20, 20), edge + 2, cv2.LINE_AA, _FINE)
        cv2.circle(image, at, size, colour, edge, cv2.LINE_AA, _FINE)


def _cross(image: np.ndarray, xy: np.ndarray, radius: float) -> None:
    """A red cross on white, so that it shows on any ground, with arms that stick out from under a dot."""
    reach = radius * 1.6
    for colour, width in (((255, 255, 255), 3), ((220, 0, 0), 1)):
        for dx, dy in ((reach, reach), (reach, -reach)):
            cv2.line(image, _fine(xy - [dx, dy]), _fine(xy + [dx, dy]), colour, width, cv2.LINE_AA, _FINE)


def _fine(xy: np.ndarray) -> tuple[int, int]:
    """Raster position as OpenCV's fixed-point one, in which an integer is a pixel's centre; far outside is cut off."""
    x, y = np.clip((xy - 0.5) * 2**_FINE, -(2**19), 2**19).round()
    return int(x), int(y)


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
