"""What an aligning decoder learns from: clips whose depth is exact, and latents as it will meet them.

Noise on the depth stands in for what is not exact, later. Latents that the model itself restores from a random noise
level are blurred and imagined as generated ones are, but of a truth that is known.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mvtrack.config.decoder import DecoderConfig, DecoderDataConfig
from mvtrack.config.training import TrainConfig
from mvtrack.data.clip import Clip
from mvtrack.data.loader import StepDataset
from mvtrack.data.public.object_renders import ObjectRenders
from mvtrack.data.synthetic.bank import Bank, BankRecipe
from mvtrack.data.synthetic.objects import ObjectBank
from mvtrack.geometry.warp import covisible
from mvtrack.inference.forward_noised import noised_latents
from mvtrack.models.conditioning import Window
from mvtrack.models.decoder.depth import object_depth, stereo_depth
from mvtrack.models.decoder.depth_noise import AMPLITUDES, disturbed, independently_disturbed
from mvtrack.models.decoder.scene import REACH, DecoderScene
from mvtrack.models.diffusion.flow import add_noise, x0_from_velocity
from mvtrack.models.reshoot_model import ReshootModel

_TARGET = 1
_HELD_OUT = 10**7  # numbers of the scenes that are validated on
_TRIES = 20
_KEPT = 256  # objects whose depth was swept


@dataclass(frozen=True)
class ClipBatch:
    """Clips of one micro-batch; the first view of each is known as a picture. index: global sample numbers, which key
    all randomness of a step. scenes: numbers of the clips' scenes."""

    clips: tuple[Clip, ...]
    index: Int[Tensor, "B"]
    keys: tuple[str, ...]
    scenes: tuple[int, ...]


class ClipDataset(StepDataset):
    """Clips with exact depth. Sample n of a run is a pure function of its seed and n, on any number of ranks."""

    def __init__(self, data: DecoderDataConfig, train: TrainConfig, rank: int = 0, world: int = 1) -> None:
        super().__init__([1.0], train.seed, train.batch_size, train.micro_batch_size, rank, world)
        self.data, self.num_scenes, self.renders = data, data.num_scenes, None
        self._swept: dict[int, Clip] = {}
        if data.kind == "renders":
            self.renders = ObjectRenders(data.root, data.size[0], data.ortho_scale, data.views)
            self.num_scenes = min(data.num_scenes, len(self.renders) - train.validate_clips)
            if self.num_scenes < 1:
                raise ValueError(
                    f"{data.root} holds {len(self.renders)} objects, of which train.validate_clips takes "
                    f"{train.validate_clips}: none is left to train on"
                )

    def batch(self, which: int, numbers: list[int], step: int) -> ClipBatch:
        drawn = [self._drawn(number) for number in numbers]
        clips, scenes = zip(*drawn, strict=True)
        return ClipBatch(clips, torch.tensor(numbers), tuple(clip.key for clip in clips), scenes)

    def _drawn(self, number: int) -> tuple[Clip, int]:
        """The first of the scenes drawn for a sample whose depth is known everywhere."""
        rng = np.random.default_rng([self.seed, 2, number])
        for _ in range(_TRIES):
            scene = int(rng.integers(self.num_scenes))
            clip = self.clip(scene)
            if clip is not None:
                return clip, scene
        raise ValueError(f"no scene of {self.data.root} has depth everywhere: take another data.seed or more scenes")

    def clip(self, scene: int) -> Clip | None:
        """Of a scene by its number. None where a camera came to stand below the ground, where depth is negative."""
        data = self.data
        if self.renders is not None:
            return self._render(scene)
        if data.kind != "moving":
            return ObjectBank(data.root, data.kind, data.size[0], data.seed, data.views).clip(scene)
        bank = Bank(data.root, BankRecipe(data.size, data.num_frames, num_views=2, num_points=1, seed=data.seed))
        clip = bank.clip(scene, [0, 1], slice(0, data.num_frames))
        return clip if bool((clip.depth > 0).all()) else None

    def held_out(self, count: int) -> list[tuple[int, Clip]]:
        """Clips that no step draws, and the numbers of their scenes."""
        if self.renders is not None:
            last = range(len(self.renders) - count, len(self.renders))
            return [(number, self.clip(number)) for number in last]
        clips = ((number, self.clip(number)) for number in range(_HELD_OUT, _HELD_OUT + 2 * count))
        return [(number, clip) for number, clip in clips if clip is not None][:count]

    def _render(self, number: int) -> Clip:
        """An object from its files; where these have no depth, planes are swept through its true pictures."""
        if number in self._swept:
            return self._swept[number]
        clip = self.renders.clip(number)
        if clip.depth is None:
            depth = object_depth(clip.video, clip.camera, unit_of(clip))
            clip = replace(clip, depth=torch.where(clip.masks, depth, 0.0))
            if len(self._swept) < _KEPT:
                self._swept[number] = clip
        return clip


def unit_of(clip: Clip) -> float:
    """Length in which reach and noise are tenths: an object's diagonal or longest side, else the median depth."""
    return 1.0 if clip.masks is not None else float(clip.depth.median())


def surface_depth(clip: Clip) -> Float[Tensor, "V T H W"]:
    """The clip's depth; beside an object that of its centre, the origin, so that rays pass it."""
    away = clip.camera.c2w[..., :3, 3].norm(dim=-1)
    return torch.where(clip.depth > 0, clip.depth, away[..., None, None])


def seen_by(clip: Clip, view: int, other: int) -> Bool[Tensor, "T H W"]:
    """Pixels of a view whose surface another one shows, at each moment."""
    depth = torch.where(clip.depth > 0, clip.depth, torch.inf)
    seen = covisible(clip.depth[view], depth[other], clip.camera[view], clip.camera[other])
    return seen & (clip.depth[view] > 0)


def shown_by_first(clip: Clip) -> Bool[Tensor, "V T H W"]:
    """Of every view, see `seen_by`; what the first one shows is known as a picture."""
    return torch.stack([seen_by(clip, view, 0) for view in range(len(clip.video))])


def noisy_depth(clip: Clip, config: DecoderConfig, generator: torch.Generator) -> Float[Tensor, "V T H W"]:
    """A clip's depth, disturbed as the config says."""
    depth, unit, scale = surface_depth(clip), unit_of(clip), config.noise_scale
    if config.noise == "structured":
        return disturbed(depth, unit, generator, amplitudes=tuple(scale * a for a in AMPLITUDES))
    if config.noise == "independent":
        return independently_disturbed(depth, unit, generator, scale * AMPLITUDES[0])
    return depth


def swept_depth(clip: Clip, decoded: Float[Tensor, "V T 3 H W"]) -> Float[Tensor, "V T H W"]:
    """Depth as it is estimated in use: planes swept through the known view and what the codec made of the others."""
    views = torch.cat([clip.video[:1], decoded[1:]])
    if clip.masks is None:
        return stereo_depth(views, clip.camera, clip.scene_depth)
    return object_depth(views, clip.camera, unit_of(clip))


def scene_of(clip: Clip, depth: Float[Tensor, "V T H W"]) -> DecoderScene:
    """A clip as the decoder sees it: its first view a picture."""
    return DecoderScene.of(clip.camera, depth, {0: clip.video[0]}, REACH * unit_of(clip))


def restored_latents(model: ReshootModel, clip: Clip, sigma: float, seed: int) -> Float[Tensor, "V f c h w"]:
    """The reference's own latents; the target's as the model restores them from a noise level."""
    latents = model.encode(clip.video[None])[0].cpu()
    noised = noised_latents(model, latents, Window(clip.camera, clip.scene_depth), seed)
    level, restored = torch.tensor([sigma]), noised.forward(model, sigma).prediction[:, _TARGET].float().cpu()
    if model.config.flow.prediction != "x0":
        noisy = add_noise(latents[None, _TARGET], noised.noise[:, _TARGET], level)
        restored = x0_from_velocity(restored, noisy, level)
    return torch.stack([latents[0], restored[0]])
