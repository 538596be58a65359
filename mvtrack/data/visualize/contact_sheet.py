"""Contact sheets: pictures to judge by eye, one row a clip, titled columns, nothing selected."""

from pathlib import Path

import cv2
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mvtrack.data.visualize.panels import LABEL_PX, title_bar, write_text
from mvtrack.video.writer import to_bytes


def contact_sheet(
    path: Path, rows: dict[str, dict[str, Float[Tensor, "T 3 H W"]]], frames: list[int], scale: int = 2
) -> None:
    """Write a PNG or JPEG. rows: per clip (by its label) the videos by column title, all of one size.

    frames: which frames of each video are shown; negative ones count from the end. scale: cubic magnification.
    """
    pictures = []
    for label, videos in rows.items():
        strip = np.concatenate([_strip(video, frames, scale) for video in videos.values()], 1)
        bar = np.full((LABEL_PX, strip.shape[1], 3), 235, np.uint8)
        write_text(bar, label, 4)
        pictures += [bar, strip]
    first = next(iter(rows.values()))
    width = next(iter(first.values())).shape[-1] * scale * len(frames)
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.concatenate([title_bar(list(first), width), *pictures])[..., ::-1])


def strip_grid(path: Path, strips: dict[str, Float[Tensor, "T 3 H W"]], width: int = 320, gap: int = 8) -> None:
    """Write a PNG of labelled strips, two a row: the pictures of each from left to right, `width` pixels wide; an even
    number of strips of one shape."""
    tiles = []
    for label, video in strips.items():
        height = max(1, round(video.shape[-2] * width / video.shape[-1]))
        images = [cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA) for image in to_bytes(video)]
        edge = np.full((height, gap // 2, 3), 255, np.uint8)
        strip = np.concatenate([part for image in images for part in (image, edge)][:-1], 1)
        bar = title_bar([label], strip.shape[1])
        tiles.append(np.concatenate([bar, strip]))
    tiles = [np.pad(tile, ((gap, gap), (gap, gap), (0, 0)), constant_values=255) for tile in tiles]
    rows = [np.concatenate(pair, 1) for pair in zip(tiles[::2], tiles[1::2], strict=True)]
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.concatenate(rows)[..., ::-1])


def _strip(video: Tensor, frames: list[int], scale: int) -> np.ndarray:
    images = to_bytes(video[torch.tensor(frames)])
    size = (images.shape[2] * scale, images.shape[1] * scale)
    return np.concatenate([cv2.resize(image, size, interpolation=cv2.INTER_CUBIC) for image in images], 1)
