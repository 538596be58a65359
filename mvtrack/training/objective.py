"""One training step's objective: a batch noised and conditioned, and the weighted sum of its losses."""

from collections.abc import Callable
from dataclasses import replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mvtrack.config.backbones import DOMAINS
from mvtrack.config.run import RunConfig
from mvtrack.data.loader import Batch
from mvtrack.models.backbone import DiTOutput
from mvtrack.models.conditioning import Window, encode_conditioning
from mvtrack.models.diffusion.flow import keep_references
from mvtrack.models.diffusion.process import process_of
from mvtrack.models.pca_codec import VideoCodec
from mvtrack.models.prompts import Prompts
from mvtrack.training.losses import LOSSES
from mvtrack.training.losses.base import Loss, TrainingBatch
from mvtrack.training.losses.distillation import DistillationLoss


class Objective:
    """The losses of a run that have a weight, with their targets. distillation: the one that asks a teacher, if any; it
    also says at which noise levels."""

    def __init__(self, config: RunConfig) -> None:
        self.config, self.process = config, process_of(config.model)
        self.losses: list[Loss] = [loss for loss in (kind(config) for kind in LOSSES) if loss.weight > 0]
        self.distillation = next((loss for loss in self.losses if isinstance(loss, DistillationLoss)), None)
        self.tap_layers = tuple(sorted({layer for loss in self.losses for layer in loss.tap_layers}))

    @torch.no_grad()
    def prepare(self, batch: Batch, codec: VideoCodec, device: torch.device | None = None) -> TrainingBatch:
        """Encode a batch, unless it was encoded before, and draw its noise, keyed by (seed, global sample number).

        device: where the codec lies; None: the CPU. Raises ValueError for clips that lack what the losses need.
        """
        self._check(batch)
        model, index = self.config.model, batch.index
        latents = self._encode(batch, codec, device) if batch.latents is None else batch.latents
        noise, sigma = [], []
        for seed in self._seeds(0, index):
            generator = torch.Generator().manual_seed(seed)
            sigma.append(self.process.draw(generator))
            noise.append(torch.randn(latents.shape[1:], generator=generator))
        if any(loss.sees_pictures for loss in self.losses):
            video = codec.decode(latents.to(device)) if batch.video is None else batch.video.to(device)
            batch = replace(batch, video=video)
        targets = {loss.name: loss.targets(batch, self._seeds(loss.seed_offset, index)) for loss in self.losses}
        reference = None if model.views is None else self.draw_references(index, tuple(latents.shape[1:3]))
        prompts = Prompts(batch.text, image=batch.image)
        window = Window(batch.camera, batch.scene_depth, prompts, domain=self._labels(batch))
        conditioning = encode_conditioning(model, window, reference)
        if model.ray_drop > 0:
            conditioning = conditioning.without_cameras(~self.keeps_camera(index))
        levels = torch.stack(sigma)
        if self.distillation:
            levels = self.distillation.starts(targets[self.distillation.name])
        targets = {name: target for name, target in targets.items() if target is not None}
        return TrainingBatch(latents, torch.stack(noise), levels, conditioning, targets)

    def __call__(self, network: Callable[..., DiTOutput], batch: TrainingBatch) -> dict[str, Float[Tensor, ""]]:
        """Every loss, parts of losses for the log, and `total`, their weighted sum. Reference latents stay clean.

        network: the transformer, or the engine around it.
        """
        noisy = self.process.add_noise(batch.latents, batch.noise, batch.sigma)
        noisy = keep_references(batch.latents, noisy, batch.conditioning.reference)
        if self.distillation:
            batch = self.distillation.taught(batch, noisy)
        output = network(noisy, self.process.timestep(batch.sigma), batch.conditioning, self.tap_layers)
        taps = dict(zip(self.tap_layers, output.taps, strict=True))
        parts, total = {}, 0.0
        for loss in self.losses:
            parts |= loss(network, batch, output, taps)
            total = total + loss.weight * parts[loss.name]
        return parts | {"total": total}

    def keeps_camera(self, index: Int[Tensor, "B"]) -> Bool[Tensor, "B"]:
        """False for the samples that learn without cameras, drawn by (seed, global sample number), or by (seed, step)
        for all samples of a step."""
        model = self.config.model
        if model.dit is None and model.backbone.rays.drop_per == "batch":
            index = index // self.config.train.batch_size
        return torch.tensor([_uniform(seed) for seed in self._seeds(3, index)]) >= model.ray_drop

    def draw_references(self, index: Int[Tensor, "B"], shape: tuple[int, int]) -> Bool[Tensor, "B V f"]:
        """How many of each sample's views are references, drawn by (seed, global sample number). They come first.

        shape: (V, f), F views of one latent frame or one path of F latent frames.
        """
        choices = self.config.model.views.references
        counts = torch.tensor([choices[int(_uniform(seed) * len(choices))] for seed in self._seeds(4, index)])
        return (torch.arange(shape[0] * shape[1]) < counts[:, None]).unflatten(1, shape)

    def _seeds(self, offset: int, index: Int[Tensor, "B"]) -> list[int]:
        """One for each sample; every kind of randomness has an offset of its own."""
        return [hash_seed(self.config.train.seed + offset, number) for number in index.tolist()]

    def _encode(self, batch: Batch, codec: VideoCodec, device: torch.device | None) -> Float[Tensor, "B V f c h w"]:
        """Latents of a batch's pictures; a codec with a posterior samples it, by (seed, global sample number)."""
        video = batch.video.to(device)
        if self.config.model.codec.kind != "sd_vae":
            return codec.encode(video)
        generators = (torch.Generator().manual_seed(seed) for seed in self._seeds(5, batch.index))
        return torch.cat([codec.encode(one[None], g) for one, g in zip(video, generators, strict=True)])

    def _labels(self, batch: Batch) -> Int[Tensor, "B"] | None:
        """Of each scene's data, for a network that takes some."""
        if self.config.model.cat3d is None:
            return None
        return torch.tensor([DOMAINS.index(x if x in DOMAINS else DOMAINS[-1]) for x in batch.domains])

    def _check(self, batch: Batch) -> None:
        loss = self.config.loss
        known = batch.depth is not None or (loss.correspondence_targets == "points" and batch.points is not None)
        if loss.correspondence > 0 and loss.correspondence_targets != "tracks" and not known:
            raise ValueError(
                f"{batch.keys[0]} has no depth, which loss.correspondence_targets: {loss.correspondence_targets} asks: "
                "name point maps in data.latents (points: FOLDER; `mvtrack prepare --points vggt` makes them), or set "
                "loss.correspondence: 0"
            )
        needed = loss.tracking > 0 or (loss.correspondence > 0 and loss.correspondence_targets == "tracks")
        if batch.tracks is None and needed:
            raise ValueError(
                f"{batch.keys[0]} has no point tracks: put tracks.npz beside its videos (docs/data.md), or set "
                "loss.correspondence: 0, loss.tracking: 0 and model.tracking: null"
            )
        model = self.config.model
        if model.dit and batch.scene_depth is None and model.rays.scale == "median_depth":
            raise ValueError(
                f"{batch.keys[0]} has no depth, which model.rays.scale: median_depth needs: set it to path_extent "
                "(or none)"
            )


def _uniform(seed: int) -> float:
    """A number in [0, 1)."""
    return torch.rand((), generator=torch.Generator().manual_seed(seed)).item()


def hash_seed(seed: int, number: int) -> int:
    """Well-mixed 63-bit seed of one sample (SplitMix64's finaliser)."""
    x = (seed * 0x9E3779B97F4A7C15 + number * 0xBF58476D1CE4E5B9 + 1) & 0xFFFFFFFFFFFFFFFF
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
    return (x ^ (x >> 31)) >> 1
