"""From folders of encoded clips to training batches. Sample n of a run is a pure function of (seed, n)."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mvtrack.config.data import DataConfig
from mvtrack.config.views import ViewsConfig
from mvtrack.data.latents import LatentClip, LatentFolder
from mvtrack.data.loader import Batch, StepDataset
from mvtrack.geometry.camera import Camera
from tracking_head import Tracks

NO_CAPTION = ""


class LatentDataset(StepDataset):
    """Two views of an encoded clip in either order, forward or reversed in time, with or without its caption.

    text_length: tokens of a caption's features; None: the model takes none. views: a sample is that many views of a
    still set, or one path.
    """

    def __init__(
        self, config: DataConfig, seed: int, batch_size: int, micro_batch_size: int, rank: int = 0, world: int = 1,
        text_length: int | None = None, views: ViewsConfig | None = None,
    ) -> None:  # fmt: skip
        super().__init__([each.share for each in config.latents], seed, batch_size, micro_batch_size, rank, world)
        self.config, self.text_length, self.views = config, text_length, views
        self.folders = [LatentFolder(each, config.num_frames) for each in config.latents]

    def batch(self, which: int, numbers: list[int], step: int) -> Batch:
        folder = self.folders[which]
        clips, texts = zip(*(self._sample(folder, number) for number in numbers), strict=True)
        return stack(list(clips), list(texts), numbers)

    def _sample(self, folder: LatentFolder, number: int) -> tuple[LatentClip, Tensor | None]:
        rng = np.random.default_rng([self.seed, 2, number])
        name = folder.training[int(rng.integers(len(folder.training)))]
        views = self._draw_views(rng, folder, name)
        reverse = bool(self.config.reverse and folder.directions == 2 and rng.uniform() < 0.5)
        dropped = rng.uniform() < self.config.caption_drop
        clip = folder.clip(name, views, reverse)
        if self.text_length is None:
            return clip, None
        return clip, folder.text(NO_CAPTION if dropped else clip.caption, self.text_length)

    def _draw_views(self, rng: np.random.Generator, folder: LatentFolder, name: str) -> list[int]:
        there, first = folder.num_views(name), 0
        if self.views is not None and self.views.encoding == "path":
            return [int(rng.integers(there))]
        count = 2 if self.views is None else self.views.count
        if folder.view_window is not None and folder.view_window < there:
            first, there = int(rng.integers(there - folder.view_window + 1)), folder.view_window
        if there < count:
            raise ValueError(f"{folder.root}: clip {name} offers {there} views, a sample has {count}: leave it out")
        return [first + int(view) for view in rng.permutation(there)[:count]]


def stack(clips: list[LatentClip], texts: list[Float[Tensor, "L t"] | None], index: list[int]) -> Batch:
    """Clips as one batch; where they have different numbers of point tracks, points without a meaning are added."""
    return Batch(
        Camera.stack([clip.camera for clip in clips]),
        _stacked_tracks([clip.tracks for clip in clips]),
        torch.tensor(index),
        tuple(clip.key for clip in clips),
        latents=torch.stack([clip.latents for clip in clips]),
        distance=_stacked([clip.distance for clip in clips]),
        text=_stacked(texts),
        image=_stacked([clip.image for clip in clips]),
        depth=_stacked([clip.depth for clip in clips]),
        domains=tuple(clip.domain for clip in clips),
        points=_stacked([clip.points for clip in clips]),
    )


def _stacked(values: list[Tensor | None]) -> Tensor | None:
    return None if any(value is None for value in values) else torch.stack(values)


def _stacked_tracks(tracks: list[Tracks | None]) -> Tracks | None:
    if any(each is None for each in tracks):
        return None
    most = max(each.valid.shape[-1] for each in tracks)
    return Tracks.stack([_with_points(each, most) for each in tracks])


def _with_points(tracks: Tracks, count: int) -> Tracks:
    more = count - tracks.valid.shape[-1]
    pad = torch.nn.functional.pad
    return Tracks(pad(tracks.xy, (0, 0, 0, more)), pad(tracks.visible, (0, more)), pad(tracks.valid, (0, more)))
