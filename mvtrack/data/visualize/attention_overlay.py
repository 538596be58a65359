"""Where a query looks, laid over the frames of both views: a sheet to judge attention by eye (MVTrack4Gen, Fig. 15)."""

from dataclasses import dataclass

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from mvtrack.data.visualize.panels import LABEL_PX, write_text
from mvtrack.video.writer import to_bytes

_WIDTH = 256  # of one picture on the sheet
_GAP = 6
_SHOWN = 6  # frames side by side
_QUERY, _TRUTH, _PEAK = (255, 40, 200), (60, 255, 60), (255, 255, 255)  # RGB
_STRENGTH = 0.85  # of the colour where attention is highest


@dataclass(frozen=True)
class Looks:
    """One query's attention on n frames of V views.

    frames: RGB in [-1, 1]. heat: as large as the frames, any scale: each frame shows its own extremes. peak: raster
    position of each frame's most attended token. share: part of the whole attention that each frame gets. query: (view,
    which of the n frames, x, y). truth: where the query's point really is, NaN where it is hidden or unknown.
    """

    frames: Float[Tensor, "V n 3 H W"]
    heat: Float[Tensor, "V n H W"]
    peak: Float[Tensor, "V n 2"]
    share: Float[Tensor, "V n"]
    query: tuple[int, int, float, float]
    truth: Float[Tensor, "V n 2"] | None = None


def token_heat(maps: Float[Tensor, "*b h w"], size: tuple[int, int]) -> Float[Tensor, "*b H W"]:
    """Attention on a token grid, spread smoothly over the pixels of pictures of `size` (H, W)."""
    flat = maps.reshape(-1, 1, *maps.shape[-2:])
    out = F.interpolate(flat, size, mode="bicubic", align_corners=False).clamp_min(0)
    return out.reshape(*maps.shape[:-2], *size)


def token_centres(index: Int[Tensor, "*b 2"], token_px: int) -> Float[Tensor, "*b 2"]:
    """Raster (x, y) of tokens given as (row, column)."""
    return (index.flip(-1) + 0.5) * token_px


def shown_frames(count: int, wanted: int) -> list[int]:
    """At most six of `count` latent frames, evenly spread, `wanted` among them."""
    if count <= _SHOWN:
        return list(range(count))
    even = torch.linspace(0, count - 1, _SHOWN).round().long()
    even[(even - wanted).abs().argmin()] = wanted
    return even.tolist()


def frame_titles(view_names: list[str], frame_numbers: list[int]) -> list[list[str]]:
    """For `attention_sheet`, by view and frame."""
    return [[f"{name}, frame {number}" for number in frame_numbers] for name in view_names]


def attention_sheet(title: str, looks: Looks, titles: list[list[str]]) -> UInt8[np.ndarray, "h w 3"]:
    """RGB picture: per view a row of frames and a row of the same with attention, titled with each frame's share.

    titles: of the frames of each view, see `frame_titles`. Ring: the query. Square: the most attended token of a frame.
    Green ring: the truth, where it is known.
    """
    height, width = looks.frames.shape[-2:]
    scale = _WIDTH / width
    size = (_WIDTH, round(height * scale))
    rows = []
    for v, names in enumerate(titles):
        plain, overlaid = [], []
        for n, name in enumerate(names):
            frame = _resized(to_bytes(looks.frames[v, n][None])[0], size)
            heat = _overlay(frame, looks.heat[v, n].numpy(), size)
            _square(heat, looks.peak[v, n].numpy() * scale)
            if looks.truth is not None and looks.truth[v, n].isfinite().all():
                _ring(heat, looks.truth[v, n].numpy() * scale, _TRUTH)
            if (v, n) == looks.query[:2]:
                for image in (frame, heat):
                    _ring(image, np.array(looks.query[2:]) * scale, _QUERY)
            plain.append(_titled(frame, name))
            overlaid.append(_titled(heat, _share(float(looks.share[v, n]))))
        rows += [_row(plain), _row(overlaid)]
    legend = "ring: query; square: most attended token; bright: much attention, each frame by its own scale"
    if looks.truth is not None:
        legend += "; green: the truth"
    return np.concatenate([*(_bar(text, rows[0].shape[1]) for text in (title, legend)), *rows])


def _bar(text: str, width: int) -> np.ndarray:
    bar = np.full((LABEL_PX, width, 3), 235, np.uint8)
    write_text(bar, text, 4)
    return bar


def _share(part: float) -> str:
    return f"{100 * part:.1f} % of the attention" if part >= 5e-4 else "under 0.1 % of the attention"


def _resized(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    shrinks = size[0] < image.shape[1]
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)


def _overlay(frame: np.ndarray, heat: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A dimmed grey frame with the heat in colour, as strong as it is high."""
    heat = np.clip(_resized(np.float32(heat / max(float(heat.max()), 1e-12)), size), 0, 1)
    colours = cv2.applyColorMap(np.uint8(255 * heat), cv2.COLORMAP_INFERNO)[..., ::-1]
    grey = 0.75 * frame.mean(-1, keepdims=True)
    weight = _STRENGTH * np.sqrt(heat)[..., None]
    return np.uint8((1 - weight) * grey + weight * colours)


def _titled(image: np.ndarray, title: str) -> np.ndarray:
    bar = np.full((LABEL_PX, image.shape[1], 3), 255, np.uint8)
    write_text(bar, title, 2)
    return np.concatenate([bar, image])


def _row(images: list[np.ndarray]) -> np.ndarray:
    gap = np.full((images[0].shape[0], _GAP, 3), 255, np.uint8)
    parts = [part for image in images for part in (image, gap)]
    return np.concatenate(parts[:-1], 1)


def _ring(image: np.ndarray, xy: np.ndarray, colour: tuple[int, int, int], radius: int = 8) -> None:
    for ink, thickness in (((0, 0, 0), 4), (colour, 2)):
        cv2.circle(image, tuple(int(round(x)) for x in xy), radius, ink, thickness, cv2.LINE_AA)


def _square(image: np.ndarray, xy: np.ndarray, half: int = 8) -> None:
    x, y = (int(round(c)) for c in xy)
    for ink, thickness in (((0, 0, 0), 3), (_PEAK, 1)):
        cv2.rectangle(image, (x - half, y - half), (x + half, y + half), ink, thickness)
