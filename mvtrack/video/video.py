"""A moving picture of any kind as one thing: a length, a rate, a size, and frames that are read in pieces."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor


@dataclass
class Video(ABC):
    """Frames on an even grid of ticks, as players show them: upright, square pixels, BT.709.

    size: (H, W). frame_of: the file's own frame that each tick shows; own_frames: how many it has. stored_size: (H, W)
    upright, before pixels were made square. start_s: when the picture begins on the file's clock. notes: what had to be
    done to read it.
    """

    path: Path
    fps: float
    size: tuple[int, int]
    frame_of: Int[np.ndarray, "T"]
    own_frames: int
    notes: list[str] = field(default_factory=list)
    stored_size: tuple[int, int] | None = None
    start_s: float = 0.0
    has_sound: bool = False

    def __len__(self) -> int:
        return len(self.frame_of)

    @property
    def times(self) -> Float[np.ndarray, "T"]:
        """Of every tick, in seconds from the first."""
        return np.arange(len(self)) / self.fps

    def read(self, start: int, stop: int, size: tuple[int, int] | None = None) -> UInt8[Tensor, "T 3 H W"]:
        """Ticks [start, stop), resized to `size` (H, W) while decoding. Cheap when starts ascend.

        Raises ValueError that names the file when a frame cannot be decoded.
        """
        if not 0 <= start < stop <= len(self):
            raise ValueError(f"{self.path} has {len(self)} frames, asked for {start}..{stop}")
        own, at = np.unique(self.frame_of[start:stop], return_inverse=True)
        frames = self._read_own(own, size or self.size)
        frames = frames if len(own) == len(at) else frames[at]
        return torch.from_numpy(frames).permute(0, 3, 1, 2)

    @abstractmethod
    def _read_own(self, index: Int[np.ndarray, "n"], size: tuple[int, int]) -> UInt8[np.ndarray, "n H W 3"]:
        """The file's own frames of ascending numbers."""

    def of_ticks(self, count: int, what: str) -> Int[np.ndarray, "T"]:
        """Which entry of a per-frame file belongs to each tick: what belongs to the file's own frame that it shows.

        count: entries. Raises ValueError that names `what` when they are neither one an own frame nor one a tick.
        """
        if count == self.own_frames:
            return self.frame_of
        if count == len(self):
            return np.arange(count)
        own = "" if self.own_frames == len(self) else f" ({self.own_frames} in the file, at uneven times)"
        raise ValueError(f"{what} is for {count} frames, {self.path} has {len(self)}{own}: one a frame is needed")

    def tick_of(self, own_frame: int) -> int:
        """The first tick that shows an own frame, or the next one where none does."""
        return int(min(np.searchsorted(self.frame_of, own_frame), len(self) - 1))
