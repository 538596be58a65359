"""Files of datasets as arrays: pictures, depth, archives and names, each refused with its path when it is bad."""

import re
import zipfile
import zlib
from pathlib import Path

import cv2
import numpy as np
import torch
from jaxtyping import Float, Shaped, UInt16
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from mvtrack.geometry.camera import pixel_grid

_NAME = re.compile(r"[\w][\w .+=@-]{0,199}", re.ASCII)


def safe_name(name: str, where: Path) -> str:
    """A name out of a dataset that becomes a file's name. Raises ValueError for one that leads elsewhere."""
    if not _NAME.fullmatch(name) or ".." in name:
        raise ValueError(f"{where}: {name!r} cannot be a scene's name: letters, digits and . _ - + = @ only, no ..")
    return name


def inside(root: Path, relative: str, where: Path) -> Path:
    """A path that a dataset's own file names, which must stay in its folder. where: that file, for the error."""
    path = Path(relative)
    if path.is_absolute() or ".." in path.parts or "\\" in relative or "\0" in relative:
        raise ValueError(f"{where} names the file {relative!r}, which leads out of {root}")
    return root / path


def read_map(path: Path, dtype: type | None = None) -> Shaped[np.ndarray, "H W"]:
    """One value a pixel of a png, tiff or exr file, as it is stored. dtype: the type that it must have."""
    try:
        raw = np.frombuffer(path.read_bytes(), np.uint8)
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from None
    return decode_map(raw, path, dtype)


def decode_map(raw: bytes | np.ndarray, where: Path, dtype: type | None = None) -> Shaped[np.ndarray, "H W"]:
    """The same of a file's bytes."""
    raw = np.frombuffer(raw, np.uint8) if isinstance(raw, bytes) else raw
    array = cv2.imdecode(raw, cv2.IMREAD_UNCHANGED) if raw.size else None
    if array is None:
        raise ValueError(f"{where} holds no image that can be decoded: it is empty or damaged")
    if array.ndim != 2 or (dtype is not None and array.dtype != dtype):
        wanted = "" if dtype is None else f" of {np.dtype(dtype)}"
        raise ValueError(f"{where} is {array.dtype} of shape {array.shape}, expected one value{wanted} a pixel")
    return array


def decode_colours(raw: bytes, where: Path) -> UInt16[np.ndarray, "H W 3"]:
    """Three 16-bit values a pixel of a png's bytes, in the file's order."""
    array = cv2.imdecode(np.frombuffer(raw, np.uint8), cv2.IMREAD_UNCHANGED) if raw else None
    if array is None or array.dtype != np.uint16 or array.ndim != 3 or array.shape[2] != 3:
        raise ValueError(f"{where} holds an image that is not three 16-bit values a pixel")
    return np.ascontiguousarray(array[..., ::-1])


def read_index_image(path: Path) -> np.ndarray:
    """A mask file (H, W) of 8-bit values: palette numbers or grey levels as they are in the file."""
    try:
        with Image.open(path) as image:
            array = np.array(image.convert("L") if image.mode in ("1", "RGB", "RGBA", "LA") else image)
    except (OSError, UnidentifiedImageError, SyntaxError) as error:
        raise ValueError(f"cannot read the mask {path}: {' '.join(str(error).split())}") from None
    if array.ndim != 2:
        raise ValueError(f"the mask {path} has shape {array.shape}, expected one value a pixel")
    return array


def read_arrays(path: Path, *names: str) -> list[np.ndarray]:
    """Arrays of an .npz by name. ValueError names a file that is damaged or lacks one."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return [arrays[name] for name in names]
    except (OSError, ValueError, EOFError, KeyError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"cannot read {', '.join(names)} from {path}: {' '.join(str(error).split())}") from None


def read_depth(path: Path) -> Float[Tensor, "H W"]:
    """A .npy of z-depth, (H, W) or (H, W, 1); zero is unknown."""
    try:
        with path.open("rb") as file:
            array = np.lib.format.read_array(file, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"cannot read the depth {path}: {' '.join(str(error).split())}") from None
    array = array[..., 0] if array.ndim == 3 and array.shape[-1] == 1 else array
    if array.ndim != 2 or array.dtype.kind != "f":
        raise ValueError(f"the depth {path} is {array.dtype} of shape {array.shape}, expected floats (H, W)")
    return torch.from_numpy(array.astype(np.float32))


def z_from_distance(distance: Float[Tensor, "*T H W"], K: Float[Tensor, "*any 3 3"]) -> Float[Tensor, "*T H W"]:
    """z-depth of Euclidean distances from the camera's centre, at pixel centres. K: (3, 3), or one a map."""
    size = tuple(distance.shape[-2:])
    grid = pixel_grid(size).to(K)
    x = (grid[..., 0] - K[..., 0, 2, None, None]) / K[..., 0, 0, None, None]
    y = (grid[..., 1] - K[..., 1, 2, None, None]) / K[..., 1, 1, None, None]
    return (distance / (1 + x**2 + y**2).sqrt()).to(distance.dtype)


def same_size(maps: list[np.ndarray], size: tuple[int, int], where: Path) -> Tensor:
    """Maps of all frames as one tensor. Raises ValueError for one of another size (H, W) than the pictures."""
    odd = next((each.shape for each in maps if each.shape != size), None)
    if odd is not None:
        raise ValueError(f"{where} holds a map of {odd[1]}x{odd[0]}, the pictures are {size[1]}x{size[0]}")
    return torch.from_numpy(np.stack(maps))
