"""Pictures that lie as encoded bytes in a dataset's own files, as a video."""

from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Int, UInt8

from mvtrack.video.images import resized
from mvtrack.video.video import Video


@dataclass
class EncodedImages(Video):
    """One encoded picture (png, jpeg, webp) a frame. path: of the file that they lie in. over: the grey that what is
    transparent lies over."""

    images: list[bytes] = field(default_factory=list, repr=False)
    over: int = 0

    @staticmethod
    def of(path: Path, images: list[bytes], fps: float, over: int = 0) -> "EncodedImages":
        """Raises ValueError where there is none, or the first cannot be decoded."""
        if not images:
            raise ValueError(f"{path} holds no pictures")
        count, size = len(images), _decoded(images[0], path, 0, over).shape[:2]
        return EncodedImages(path, fps, size, np.arange(count), count, stored_size=size, images=images, over=over)

    def _read_own(self, index: Int[np.ndarray, "n"], size: tuple[int, int]) -> UInt8[np.ndarray, "n H W 3"]:
        frames = [_decoded(self.images[i], self.path, i, self.over) for i in index.tolist()]
        odd = next((i for i, frame in zip(index, frames, strict=True) if frame.shape[:2] != self.size), None)
        if odd is not None:
            raise ValueError(f"{self.path}: picture {odd} has another size than the first, {self.size}")
        return np.stack([resized(frame, size) for frame in frames])


def _decoded(image: bytes, path: Path, number: int, over: int) -> UInt8[np.ndarray, "H W 3"]:
    raw = np.frombuffer(image, np.uint8)
    decoded = cv2.imdecode(raw, cv2.IMREAD_UNCHANGED) if raw.size else None
    if decoded is None or decoded.dtype != np.uint8:
        raise ValueError(f"{path}: picture {number} cannot be decoded as 8 bits a channel: it is empty or damaged")
    if decoded.ndim == 2:
        decoded = np.repeat(decoded[..., None], 3, 2)
    if decoded.shape[2] == 4:
        alpha = decoded[..., 3:].astype(np.uint16)
        decoded = ((decoded[..., :3] * alpha + over * (255 - alpha) + 127) // 255).astype(np.uint8)
    return np.ascontiguousarray(decoded[..., ::-1])
