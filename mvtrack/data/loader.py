"""From banks to training batches. Sample n of a run is a pure function of (seed, n), on any number of ranks."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mvtrack.config.data import DataConfig
from mvtrack.config.views import ViewsConfig
from mvtrack.data.clip import Clip
from mvtrack.data.synthetic.bank import Bank, BankRecipe
from mvtrack.data.synthetic.camera_rig import RigStyle
from mvtrack.data.synthetic.scene import SceneStyle
from mvtrack.geometry.camera import Camera
from tracking_head import Tracks


@dataclass(frozen=True)
class Batch:
    """Clips of one size; view 0 of each is the reference, or the first one. Videos, or what was made of them.

    depth: of every pixel. distance: else the median depth of the reference's first frame, in the cameras' unit.
    text: features of the captions. image: CLIP's tokens of the reference's first frame. domains: of what data each is.
    points: in 3D, in any one frame and unit, of a grid of each picture, where they do not come from depth.
    """

    camera: Camera  # (B, V, T)
    tracks: Tracks | None
    index: Int[Tensor, "B"]  # global sample numbers, which key all randomness of a training step
    keys: tuple[str, ...]
    video: Float[Tensor, "B V T 3 H W"] | None = None
    depth: Float[Tensor, "B V T H W"] | None = None
    latents: Float[Tensor, "B V f c h w"] | None = None
    distance: Float[Tensor, "B"] | None = None
    text: Float[Tensor, "B L t"] | None = None
    image: Float[Tensor, "B M e"] | None = None
    domains: tuple[str, ...] = ()
    points: Float[Tensor, "B V T 3 y x"] | None = None

    @property
    def scene_depth(self) -> Float[Tensor, "B"] | None:
        """Median z-depth of the reference's first frame, in the cameras' unit; None where it is not known."""
        if self.distance is not None or self.depth is None:
            return self.distance
        return self.depth[:, 0, 0].flatten(1).median(-1).values

    @staticmethod
    def stack(clips: list[Clip], index: list[int]) -> "Batch":
        return Batch(
            Camera.stack([clip.camera for clip in clips]),
            Tracks.stack([clip.tracks for clip in clips]),
            torch.tensor(index),
            tuple(clip.key for clip in clips),
            torch.stack([clip.video for clip in clips]),
            torch.stack([clip.depth for clip in clips]),
            domains=tuple(clip.domain for clip in clips),
        )


def open_banks(config: DataConfig) -> list[Bank]:
    """The banks of a config. Their folders are created; nothing is rendered yet."""
    return [
        Bank(
            bank.root,
            BankRecipe(
                size=bank.size,
                num_frames=bank.num_frames,
                num_views=bank.num_views,
                num_points=bank.num_points,
                seed=bank.seed,
                scenes=bank.scenes,
                scene=SceneStyle(static=bank.static),
                rig=RigStyle(max_angle_deg=bank.max_angle_deg, above_ground=bank.above_ground),
            ),
        )
        for bank in config.banks
    ]


class StepDataset(Dataset, ABC):
    """Item `step` is this rank's list of micro-batches of that step.

    shares: how often a step comes from each source of data, relative to the others.
    """

    def __init__(
        self, shares: list[float], seed: int, batch_size: int, micro_batch_size: int, rank: int = 0, world: int = 1
    ) -> None:
        per_rank, rest = divmod(batch_size, world)
        if rest or per_rank % micro_batch_size:
            raise ValueError(
                f"train.batch_size {batch_size} must be a multiple of {world} ranks x "
                f"train.micro_batch_size {micro_batch_size}: change one of them, or the number of ranks"
            )
        self.seed, self.batch_size, self.micro = seed, batch_size, micro_batch_size
        self.first, self.per_rank = rank * per_rank, per_rank
        self.share = np.array(shares) / np.sum(shares)

    def __getitem__(self, step: int) -> list[Any]:
        which = int(np.random.default_rng([self.seed, 1, step]).choice(len(self.share), p=self.share))
        numbers = range(step * self.batch_size + self.first, step * self.batch_size + self.first + self.per_rank)
        return [self.batch(which, list(numbers[i : i + self.micro]), step) for i in range(0, self.per_rank, self.micro)]

    @abstractmethod
    def batch(self, which: int, numbers: list[int], step: int) -> Any:
        """Samples of the source `which`, by their global numbers, which it has as `index`, and their `keys`."""


class BatchDataset(StepDataset):
    """Clips of rendered banks.

    A sample is two synchronised views; with `views` it is that many views of a still scene, or one path through it.
    text: features of the empty caption, which all of them have, for a model with a text branch.
    """

    def __init__(
        self, config: DataConfig, seed: int, batch_size: int, micro_batch_size: int, rank: int = 0, world: int = 1,
        views: ViewsConfig | None = None,
    ) -> None:  # fmt: skip
        super().__init__([bank.share for bank in config.banks], seed, batch_size, micro_batch_size, rank, world)
        self.config, self.views = config, views
        self.banks = open_banks(config)
        self.text: Float[Tensor, "L t"] | None = None

    def batch(self, which: int, numbers: list[int], step: int) -> Batch:
        batch = Batch.stack([self._clip(which, number, step) for number in numbers], numbers)
        return batch if self.text is None else replace(batch, text=self.text.expand(len(numbers), -1, -1))

    def _clip(self, which: int, number: int, step: int) -> Clip:
        rng = np.random.default_rng([self.seed, 2, number])
        bank, settings = self.banks[which], self.config.banks[which]
        oldest = int(step * settings.new_scenes_per_step)
        scene = oldest + int(rng.integers(settings.num_scenes))
        views = self._draw_views(rng, settings.num_views)
        start = int(rng.integers(settings.num_frames - self.config.num_frames + 1))
        clip = bank.clip(scene, views, slice(start, start + self.config.num_frames))
        return augment(clip, rng, self.config)

    def _draw_views(self, rng: np.random.Generator, num_views: int) -> list[int]:
        if self.views is not None and self.views.encoding == "path":
            return [int(rng.integers(1, num_views))]  # view 0 may stand still
        count = 2 if self.views is None else self.views.count
        return [int(v) for v in rng.permutation(num_views)[:count]]


def augment(clip: Clip, rng: np.random.Generator, config: DataConfig) -> Clip:
    """Exact augmentations: time reversed, left-right mirrored, colours remapped; cameras and tracks follow."""
    if config.reverse and rng.uniform() < 0.5:
        clip = clip.frames(torch.arange(clip.num_frames - 1, -1, -1))
    if config.mirror and rng.uniform() < 0.5:
        clip = mirrored(clip)
    if config.palette:
        order = torch.from_numpy(rng.permutation(3))
        sign = -1.0 if rng.uniform() < 0.25 else 1.0
        clip = replace(clip, video=clip.video[:, :, order] * sign)
    if config.hue_deg or config.gain:
        clip = replace(clip, video=_recoloured(clip.video, rng, config))
    return clip


def _recoloured(
    video: Float[Tensor, "V T 3 H W"], rng: np.random.Generator, config: DataConfig
) -> Float[Tensor, "V T 3 H W"]:
    """Colours turned about the grey axis, and made brighter or darker, the same way in all views."""
    angle = np.radians(config.hue_deg) * rng.uniform(-1, 1)
    across = (1 - np.cos(angle)) / 3
    turned, ahead, behind = np.cos(angle) + across, across - np.sin(angle) / 3**0.5, across + np.sin(angle) / 3**0.5
    matrix = np.array([[turned, ahead, behind], [behind, turned, ahead], [ahead, behind, turned]])
    matrix = torch.from_numpy(matrix * (1 + config.gain * rng.uniform(-1, 1))).float()
    unit = torch.einsum("dc,vtchw->vtdhw", matrix, (video + 1) / 2)
    return unit.clamp(0, 1) * 2 - 1


def mirrored(clip: Clip) -> Clip:
    """The clip of the left-right mirrored world: images flip, and so do the x axes of world and cameras."""
    width = clip.video.shape[-1]
    flip = torch.diag(torch.tensor([-1.0, 1, 1, 1]))
    K = clip.camera.K.clone()
    K[..., 0, 2] = width - K[..., 0, 2]
    K[..., 0, 1] = -K[..., 0, 1]
    tracks = clip.tracks
    if tracks is not None:
        xy = tracks.xy * tracks.xy.new_tensor([-1, 1]) + tracks.xy.new_tensor([width, 0])
        tracks = replace(tracks, xy=xy)
    return replace(
        clip,
        video=clip.video.flip(-1),
        camera=replace(clip.camera, c2w=flip @ clip.camera.c2w @ flip, K=K),
        tracks=tracks,
        depth=None if clip.depth is None else clip.depth.flip(-1),
        point_map=None
        if clip.point_map is None
        else clip.point_map.flip(-1) * clip.point_map.new_tensor([-1, 1, 1])[:, None, None],
        masks=None if clip.masks is None else clip.masks.flip(-1),
    )


def batches(dataset: StepDataset, first_step: int, last_step: int, workers: int) -> Iterator[list[Any]]:
    """This rank's micro-batches of every step in order, prefetched by worker processes."""
    loader = DataLoader(
        dataset,
        batch_size=None,
        sampler=range(first_step, last_step),
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        multiprocessing_context="forkserver" if workers else None,
        worker_init_fn=_single_thread if workers else None,
    )
    yield from loader


def _single_thread(_worker: int) -> None:
    torch.set_num_threads(1)
