"""Photographs of a still scene: files of any sizes and lenses, upright, and where their lens is written in them."""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Int, UInt8

from mvtrack.video.images import DAMAGED, IMAGE_SUFFIXES, ImageVideo, images_in, read_image, resized
from mvtrack.video.resize import fit_to

_FULL_FRAME_DIAGONAL_MM = math.hypot(36, 24)
_EXIF_IFD, _FOCAL_35MM = 0x8769, 0xA405


def find_photos(paths: Sequence[Path]) -> list[Path]:
    """Image files, in the order given; those of a folder by name.

    Raises ValueError for what is no picture, none at all, and names that occur twice, by which cameras are found.
    """
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            found = images_in(path)
            if not found:
                raise ValueError(f"{path} holds no pictures ({', '.join(sorted(IMAGE_SUFFIXES))})")
            files += found
        elif not path.is_file():
            raise ValueError(f"{path} does not exist: give photographs, or a folder of them")
        elif path.suffix.lower() not in IMAGE_SUFFIXES:
            raise ValueError(f"{path} is no picture: `mvtrack reshoot` takes videos; photographs end with .jpg or .png")
        else:
            files.append(path)
    if not files:
        raise ValueError("no photographs are given")
    names = [path.stem for path in files]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"two photographs are named {twice}: cameras are found by names, rename one of them")
    return files


def exif_fov_deg(path: Path, size: tuple[int, int]) -> float | None:
    """Horizontal field of view of an upright picture (H, W) by the focal length of a 35-mm camera that its EXIF names,
    which is for the diagonal; None where it names none."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path) as image:
                focal_mm = float(image.getexif().get_ifd(_EXIF_IFD).get(_FOCAL_35MM) or 0)
    except (*DAMAGED, Image.DecompressionBombError):
        return None
    if not focal_mm > 0 or not math.isfinite(focal_mm):
        return None
    fov = math.degrees(2 * math.atan(0.5 * size[1] / (focal_mm / _FULL_FRAME_DIAGONAL_MM * math.hypot(*size))))
    return fov if 1 <= fov <= 170 else None


@dataclass
class PhotoSequence(ImageVideo):
    """A photograph at each of a series of moments, all at the first one's size: others are cropped to its aspect."""

    sizes: list[tuple[int, int]] = field(default_factory=list)

    @staticmethod
    def showing(files: Sequence[Path], sizes: Sequence[tuple[int, int]], shown: Sequence[int]) -> "PhotoSequence":
        """shown: which file each moment shows."""
        size, index = sizes[0], np.array(shown)
        return PhotoSequence(
            files[0].parent, 1.0, size, index, len(files), [], size, files=list(files), sizes=list(sizes)
        )

    def _read_own(self, index: Int[np.ndarray, "n"], size: tuple[int, int]) -> UInt8[np.ndarray, "n H W 3"]:
        frames = []
        for i in index:
            fit = fit_to(self.sizes[i], self.size, "crop")
            (top, left), (height, width) = fit.cut, fit.content
            image = resized(read_image(self.files[i]), fit.scaled)[top : top + height, left : left + width]
            frames.append(resized(image, size))
        return np.stack(frames)
