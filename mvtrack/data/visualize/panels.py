"""Videos side by side with titles, large enough to look at."""

from collections.abc import Iterator

import cv2
import numpy as np
from jaxtyping import Shaped
from torch import Tensor

from mvtrack.video.writer import to_bytes

LABEL_PX = 24
_LEAST_HEIGHT = 256


def side_by_side(videos: dict[str, Shaped[Tensor, "T 3 H W"]], gap_px: int = 8) -> Iterator[np.ndarray]:
    """8-bit RGB frames of all videos in a row under their titles, magnified to at least 256 pixels of height.
    videos: RGB in [-1, 1], or bytes."""
    arrays = [to_bytes(video) for video in videos.values()]
    height, width = arrays[0].shape[1:3]
    scale = max(1, -(-_LEAST_HEIGHT // height))
    bar = title_bar(list(videos), width * scale, gap_px)
    gap = np.full((height * scale, gap_px, 3), 255, np.uint8)
    for frames in zip(*arrays, strict=True):
        row = []
        for frame in frames:
            row += [cv2.resize(frame, (width * scale, height * scale), interpolation=cv2.INTER_CUBIC), gap]
        yield np.concatenate([bar, np.concatenate(row[:-1], 1)])


def title_bar(titles: list[str], width: int, gap_px: int = 0) -> np.ndarray:
    """A white strip with one title above each of several columns of equal width."""
    bar = np.full((LABEL_PX, len(titles) * (width + gap_px) - gap_px, 3), 255, np.uint8)
    for i, title in enumerate(titles):
        write_text(bar, title, i * (width + gap_px) + 4)
    return bar


def write_text(image: np.ndarray, text: str, left: int) -> None:
    """Dark text on one line of a strip."""
    cv2.putText(image, text, (left, LABEL_PX - 8), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (20, 20, 20), 1, cv2.LINE_AA)
