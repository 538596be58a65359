"""Still and animated images, and folders of them, as videos; alpha lies over black, EXIF's orientation is applied."""

import re
import struct
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Int, UInt8

from mvtrack.video.probe import MAX_SIDE, Orientation
from mvtrack.video.ticks import DEFAULT_FPS, even_ticks
from mvtrack.video.video import Video

IMAGE_SUFFIXES = {".png", ".apng", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"}
ANIMATED_SUFFIXES = {".gif", ".webp", ".png", ".apng"}
# what Pillow raises on damaged files
DAMAGED = (OSError, EOFError, SyntaxError, ValueError, IndexError, KeyError, TypeError, OverflowError, struct.error)
_SHORTEST_S, _USUAL_S = 0.011, 0.1  # browsers show frames of 10 ms or less for 100 ms
_EXIF = {
    2: Orientation(False, True, False), 3: Orientation(False, True, True), 4: Orientation(False, False, True),
    5: Orientation(True, False, False), 6: Orientation(True, True, False), 7: Orientation(True, True, True),
    8: Orientation(True, False, True),
}  # fmt: skip


def is_hidden(path: Path) -> bool:
    """Files that systems keep beside the real ones, such as ._clip.mp4 of macOS."""
    return path.name.startswith(".")


def images_in(folder: Path) -> list[Path]:
    """Image files of a folder in natural order."""
    files = (path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES and not is_hidden(path))
    return sorted(files, key=lambda path: [int(p) if p.isdigit() else p.lower() for p in re.split(r"(\d+)", path.name)])


@dataclass
class ImageVideo(Video):
    """One image file a frame."""

    files: list[Path] = field(default_factory=list, repr=False)

    @staticmethod
    def of(path: Path, files: list[Path], fps: float | None) -> "ImageVideo":
        """Files as consecutive frames; one file may stand for many."""
        size, count = read_image(files[0]).shape[:2], len(files)
        notes = [f"one image shown for {count} frames"] if path.is_file() else []
        if fps is None and path.is_dir() and count > 1:
            notes.append(f"images do not say their frame rate: {DEFAULT_FPS:g} is taken (--fps says another)")
        return ImageVideo(path, fps or DEFAULT_FPS, size, np.arange(count), count, notes, size, files=files)

    def _read_own(self, index: Int[np.ndarray, "n"], size: tuple[int, int]) -> UInt8[np.ndarray, "n H W 3"]:
        frames, last = [], (None, None)
        for file in (self.files[i] for i in index):
            if file != last[0]:
                image = read_image(file)
                if image.shape[:2] != self.size:
                    shown = f"{image.shape[1]}x{image.shape[0]}, the first image is {self.size[1]}x{self.size[0]}"
                    raise ValueError(f"{file} is {shown}: images of one video must have one size")
                last = (file, resized(image, size))
            frames.append(last[1])
        return np.stack(frames)


@dataclass
class AnimatedImage(Video):
    """GIF, animated WebP or APNG. Frames build upon each other, so going back begins at the front."""

    def _read_own(self, index: Int[np.ndarray, "n"], size: tuple[int, int]) -> UInt8[np.ndarray, "n H W 3"]:
        from PIL import Image

        frames, number = [], 0
        try:
            with Image.open(self.path) as image:
                for number in index.tolist():
                    image.seek(number)
                    frames.append(resized(_over_black(np.array(image.convert("RGBA"))), size))
        except DAMAGED as error:
            raise ValueError(f"{self.path} is damaged: frame {number} cannot be decoded") from error
        return np.stack(frames)


def open_animated(path: Path, fps: float | None) -> AnimatedImage | None:
    """None for an image that does not move. fps: one tick a frame at this rate, instead of the file's own times."""
    from PIL import Image

    starts, at = [], 0.0
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on the number of pixels, which is checked below
            with Image.open(path) as image:
                count, size = getattr(image, "n_frames", 1), image.size[::-1]
                if count < 2 and path.suffix.lower() != ".gif":
                    return None
                _check_size(path, size)
                for number in range(count):
                    image.seek(number)
                    image.load()  # the duration of some formats is known only then
                    stays = (image.info.get("duration") or 0) / 1000
                    stays = stays if stays >= _SHORTEST_S else _USUAL_S
                    starts.append(at)
                    at += stays
    except (*DAMAGED, Image.DecompressionBombError) as error:
        if starts:
            raise ValueError(f"{path} is damaged: only its first {len(starts)} frames can be decoded") from error
        return None
    if fps is not None:
        return AnimatedImage(path, fps, size, np.arange(count), count, [], size)
    try:
        ticks = even_ticks(np.array(starts), (), stays)
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    return AnimatedImage(path, ticks.fps, size, ticks.frame_of, count, [ticks.note] if ticks.note else [], size)


def resized(image: UInt8[np.ndarray, "h w 3"], size: tuple[int, int]) -> UInt8[np.ndarray, "H W 3"]:
    """Area averages when it gets smaller, bicubic when it gets larger."""
    import cv2

    if image.shape[:2] == size:
        return image
    smaller = size[0] * size[1] < image.shape[0] * image.shape[1]
    return cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA if smaller else cv2.INTER_CUBIC)


def read_image(path: Path) -> UInt8[np.ndarray, "H W 3"]:
    """An image file of 8 or 16 bits as upright 8-bit RGB."""
    import cv2

    try:
        raw = np.frombuffer(path.read_bytes(), np.uint8)
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from error
    image = cv2.imdecode(raw, cv2.IMREAD_UNCHANGED) if raw.size else None
    if image is None:
        raise ValueError(f"cannot read {path} as an image: it is empty, damaged or of an unknown format")
    if image.dtype == np.uint16:
        image = (image / 257).round().astype(np.uint8)
    if image.dtype != np.uint8:
        raise ValueError(f"{path} has values of type {image.dtype}; only 8 and 16 bit images are read")
    _check_size(path, image.shape[:2])
    if image.ndim == 2:
        image = np.repeat(image[..., None], 3, 2)
    elif image.shape[2] == 4:
        image = _over_black(image)
    return np.ascontiguousarray(_exif_orientation(path).apply(image)[..., ::-1])


def _over_black(image: UInt8[np.ndarray, "H W 4"]) -> UInt8[np.ndarray, "H W 3"]:
    alpha = image[..., 3:].astype(np.uint16)
    return ((image[..., :3] * alpha + 127) // 255).astype(np.uint8)


def _exif_orientation(path: Path) -> Orientation:
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path) as image:
                return _EXIF.get(image.getexif().get(0x0112), Orientation())
    except (*DAMAGED, Image.DecompressionBombError):
        return Orientation()


def _check_size(path: Path, size: tuple[int, int]) -> None:
    if not (1 <= size[0] <= MAX_SIDE and 1 <= size[1] <= MAX_SIDE):
        raise ValueError(f"{path} is {size[1]}x{size[0]} pixels; up to {MAX_SIDE} a side are read")
