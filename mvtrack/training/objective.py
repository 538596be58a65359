"""One training step's losses: rectified flow on the target views, correspondence on a tapped layer's attention."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from mvtrack.backbone.codec import VideoCodec
from mvtrack.backbone.dit import DiTOutput
from mvtrack.backbone.model import model_cameras
from mvtrack.backbone.ray_encoder import ray_maps
from mvtrack.config import RunConfig
from mvtrack.correspondence.loss import correspondence_loss
from mvtrack.correspondence.targets import CorrespondenceTargets, targets_from_depth
from mvtrack.data.loader import Batch
from mvtrack.diffusion.flow import add_noise, draw_sigma, training_weight


@dataclass(frozen=True)
class Prepared:
    """A batch as the network takes it; all randomness is already drawn."""

    latents: Float[Tensor, "B V f c h w"]  # clean
    noise: Float[Tensor, "B V f c h w"]
    sigma: Float[Tensor, "B"]
    rays: Float[Tensor, "B V f r hr wr"]
    targets: CorrespondenceTargets | None

    def num_tokens(self, config: RunConfig) -> int:
        """Tokens of one sample, all its views."""
        patch = config.model.dit.patch_size
        return self.latents[0, :, :, 0].numel() // (patch[1] * patch[2])

    def to(self, device: torch.device) -> "Prepared":
        moved = {name: getattr(self, name).to(device) for name in ("latents", "noise", "sigma", "rays")}
        return replace(self, **moved, targets=None if self.targets is None else self.targets.to(device))


@torch.no_grad()
def prepare(batch: Batch, codec: VideoCodec, config: RunConfig) -> Prepared:
    """Encode a batch and draw its noise, keyed by (seed, global sample number)."""
    latents = codec.encode(batch.video)
    camera, _ = model_cameras(batch.camera, config.model.rays, batch.depth)
    noise, sigma = [], []
    for number in batch.index.tolist():
        generator = torch.Generator().manual_seed(hash_seed(config.train.seed, number))
        sigma.append(draw_sigma(config.model.flow, generator))
        noise.append(torch.randn(latents.shape[1:], generator=generator))
    targets = None
    if config.loss.correspondence > 0:
        targets = targets_from_depth(batch.depth, batch.camera, config.model.rays.token_px)
    return Prepared(latents, torch.stack(noise), torch.stack(sigma), ray_maps(camera, config.model.rays), targets)


def hash_seed(seed: int, number: int) -> int:
    """Well-mixed 63-bit seed of one sample (SplitMix64's finaliser)."""
    x = (seed * 0x9E3779B97F4A7C15 + number * 0xBF58476D1CE4E5B9 + 1) & 0xFFFFFFFFFFFFFFFF
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
    return (x ^ (x >> 31)) >> 1


def losses(dit: Callable[..., DiTOutput], step: Prepared, config: RunConfig) -> dict[str, Float[Tensor, ""]]:
    """Loss parts, `total` among them. Reference latents stay clean; the flow loss is on target views only."""
    noisy = add_noise(step.latents, step.noise, step.sigma)
    noisy = torch.cat([step.latents[:, :1], noisy[:, 1:]], 1)
    tap = (config.model.tap_layer,) if step.targets is not None else ()
    output = dit(noisy, 1000 * step.sigma, step.rays, tap_layers=tap)
    predicted = output.prediction[:, 1:].float()
    if config.model.flow.prediction == "x0":
        error = predicted - step.latents[:, 1:]
    else:
        error = predicted - (step.noise[:, 1:] - step.latents[:, 1:])
    per_sample = error.square().flatten(1).mean(1)
    if config.model.flow.weighting == "wan":
        per_sample = per_sample * training_weight(step.sigma, config.model.flow.shift).to(per_sample.device)
    parts = {"flow": per_sample.mean()}
    if step.targets is not None:
        parts["correspondence"] = correspondence_loss(*output.taps[0], step.targets)
    total = parts["flow"]
    if step.targets is not None:
        total = total + config.loss.correspondence * parts["correspondence"]
    return parts | {"total": total}
