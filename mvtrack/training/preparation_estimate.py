"""What a preparation will take, before it is begun: disk by the shapes, time by encoding a view of the first clip."""

import shutil
import time
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch

from mvtrack.config.data import LatentsConfig
from mvtrack.config.run import RunConfig
from mvtrack.data.latents import LATENT_DTYPE, EncodedClip
from mvtrack.training.clip_sources import Source
from mvtrack.training.encode_clips import ClipEncoder

_TIMED_VIEWS = 2  # the first one warms up what the second is timed with
GIB = 1 << 30


@dataclass(frozen=True)
class PreparationEstimate:
    """clips, views: how many, the views of all as the first clip has them. disk: bytes. read_s, encode_s: seconds that
    one view takes to be decoded by the CPU, and encoded in all directions by the device."""

    clips: int
    views: int
    disk: int
    read_s: float
    encode_s: float
    captions: int

    @property
    def device_hours(self) -> float:
        return self.views * self.encode_s / 3600

    @property
    def hours(self) -> float:
        """Of one process, which reads and encodes in turns."""
        return self.views * (self.read_s + self.encode_s) / 3600

    def lines(self, device: torch.device, root: Path) -> list[str]:
        """For people."""
        free = free_bytes(root)
        what = "GPU" if device.type == "cuda" else "CPU"
        room = "" if free >= self.disk else f": {root} has only {free / GIB:.1f} GiB left"
        return [
            f"{self.clips} clips with {self.views // max(1, self.clips)} views each, as the first has; "
            f"{self.captions} captions",
            f"disk: {self.disk / GIB:.2f} GiB{room}",
            f"time: {self.hours:.2f} hours of one process, of these {self.device_hours:.2f} {what} hours "
            f"({self.read_s:.2f} s to read a view, {self.encode_s:.2f} s to encode it); n processes with --shard i/n "
            "share them",
        ]


def estimate_preparation(
    config: RunConfig, entry: LatentsConfig, sources: list[Source], device: torch.device
) -> PreparationEstimate:
    """Encode two views of the first clip that can be read; nothing is written.

    Raises ValueError, the first clip's, where none of the first ten can be read.
    """
    directions = 2 if config.data.reverse and config.data.num_frames > 1 else 1
    encoder, problem = ClipEncoder(config, device), None
    for source in sources[:10]:
        try:
            count, read_s, encode_s, made = _timed(source, encoder, directions)
        except ValueError as error:
            problem = problem or error
            continue
        view = sum(x[:, :1].numel() for x in (made.latents, made.image) if x is not None) * LATENT_DTYPE.itemsize
        view += 0 if made.depth is None else made.depth[:1].numel() * LATENT_DTYPE.itemsize
        captions = {caption for each in sources for caption in each.captions}
        clips = len(sources)
        return PreparationEstimate(clips, clips * count, clips * count * view, read_s, encode_s, len(captions))
    raise problem or ValueError("there is no clip to prepare")


def _timed(source: Source, encoder: ClipEncoder, directions: int) -> tuple[int, float, float, EncodedClip]:
    """A clip's number of views, the least time to read and to encode one, and one encoded."""
    read, encode, made, views = [], [], None, source.views()
    for _ in range(_TIMED_VIEWS):
        start = time.perf_counter()
        view = list(islice(views, 1))
        if not view:
            break
        between = time.perf_counter()
        made = encoder(iter(view), directions)
        read.append(between - start)
        encode.append(time.perf_counter() - between)
    return source.num_views(), min(read), min(encode), made


def free_bytes(path: Path) -> int:
    """Of the disk that a folder is or will be on."""
    there = next(parent for parent in (path.absolute(), *path.absolute().parents) if parent.exists())
    return shutil.disk_usage(there).free
