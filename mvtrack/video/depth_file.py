"""Depth of a video from a file, fitted to the model's picture as the video itself is."""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mvtrack.video.resize import Fit
from mvtrack.video.video import Video

_SUFFIXES = (".npy", ".npz")


class DepthFile:
    """z-depth maps from a file, one per frame or one for all, at any resolution of the source's aspect."""

    def __init__(self, path: Path, footage: Video) -> None:
        self.maps = _load(path)
        if self.maps.ndim == 2:
            self.maps = self.maps[None]
        if self.maps.ndim != 3 or len(self.maps) not in (1, footage.own_frames, len(footage)):
            raise ValueError(
                f"{path} must hold depth (H, W) or ({len(footage)}, H, W), one map a frame; got "
                f"{tuple(self.maps.shape)}"
            )
        count = len(self.maps)
        self._map_of = np.zeros(len(footage), int) if count == 1 else footage.of_ticks(count, str(path))
        aspect = self.maps.shape[2] / self.maps.shape[1] / (footage.size[1] / footage.size[0])
        if abs(aspect - 1) > 0.02:
            raise ValueError(f"{path} is {self.maps.shape[2]}x{self.maps.shape[1]}: another aspect than the video's")
        if not (np.isfinite(self.maps) & (self.maps > 0)).any():
            raise ValueError(f"{path} holds no depth that is positive and finite")

    def read(self, frame: int, fit: Fit) -> Float[Tensor, "H W"]:
        """The map of a frame, fitted as the picture is (nearest pixel: depths do not blend)."""
        depth = torch.from_numpy(np.array(self.maps[self._map_of[frame]], dtype=np.float32))
        scaled = torch.nn.functional.interpolate(depth[None, None], fit.scaled, mode="nearest-exact")[0, 0]
        (top, left), (height, width), (above, before) = fit.cut, fit.content, fit.place
        inner = scaled[top : top + height, left : left + width]
        out = torch.full(fit.model, torch.nan)
        out[above : above + height, before : before + width] = inner
        return out


def _load(path: Path) -> np.ndarray:
    if not path.is_file():
        raise ValueError(f"depth file {path} does not exist")
    try:
        loaded = np.load(path, allow_pickle=False, mmap_mode="r" if path.suffix == ".npy" else None)
        if isinstance(loaded, np.ndarray):
            return loaded
        with loaded:
            names = list(loaded.files)
            if "depth" in names or len(names) == 1:
                return loaded["depth" if "depth" in names else names[0]]
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"cannot read {path} as .npy or .npz: {error}") from error
    raise ValueError(f"{path} holds several arrays ({', '.join(names)}); name one of them `depth`")


def is_depth_file(depth: Path | str | None) -> bool:
    """Whether --depth names a file with depth, not a depth network."""
    return depth is not None and (Path(depth).is_file() or Path(depth).suffix in _SUFFIXES)
