"""Videos that exist, at any noise level: what the transformer sees of them in training, for looking into it."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mvtrack.correspondence.probe import probe_rows
from mvtrack.correspondence.probe_scores import ProbeSums, sum_scores
from mvtrack.correspondence.targets import CorrespondenceTargets
from mvtrack.models.backbone import DiTOutput
from mvtrack.models.conditioning import Conditioning, Window, encode_conditioning
from mvtrack.models.diffusion.flow import keep_references
from mvtrack.models.prompts import make_prompts
from mvtrack.models.reshoot_model import ReshootModel


@dataclass(frozen=True)
class NoisedVideos:
    """One scene's views with one draw of noise for all levels; the conditioning says which latent frames stay clean."""

    latents: Float[Tensor, "1 V f c h w"]
    noise: Float[Tensor, "1 V f c h w"]
    conditioning: Conditioning

    @torch.no_grad()
    def forward(self, model: ReshootModel, sigma: float, tap_layers: tuple[int, ...] = ()) -> DiTOutput:
        """Run the transformer once with all but the references at noise level `sigma`."""
        level = torch.tensor([sigma])
        noisy = model.process.add_noise(self.latents, self.noise, level)
        state = keep_references(self.latents, noisy, self.conditioning.reference)
        return model.run(state, level, self.conditioning, tap_layers)


@torch.no_grad()
def noised_videos(
    model: ReshootModel, video: Float[Tensor, "V T 3 H W"], window: Window, seed: int = 0,
    reference: Bool[Tensor, "1 V f"] | None = None,
) -> NoisedVideos:  # fmt: skip
    """Encode videos (RGB in [-1, 1], 4n + 1 frames) and their window. reference: which latent frames stay clean; None:
    the first view."""
    if window.prompts is None:
        window = replace(window, prompts=make_prompts(model.config, video[0, 0], device=model.device))
    latents = model.encode(video[None])[0].cpu()
    return noised_latents(model, latents, window, seed, reference)


@torch.no_grad()
def noised_latents(
    model: ReshootModel, latents: Float[Tensor, "V f c h w"], window: Window, seed: int = 0,
    reference: Bool[Tensor, "1 V f"] | None = None,
) -> NoisedVideos:  # fmt: skip
    """The same from clean latents, as generating leaves them.

    Raises ValueError for a model with an image branch that gets no prompts: latents show no picture.
    """
    if window.prompts is None:
        window = replace(window, prompts=make_prompts(model.config, None, device=model.device))
    noise = torch.randn((1, *latents.shape), generator=torch.Generator().manual_seed(seed))
    return NoisedVideos(latents[None], noise, encode_conditioning(model.config, window, reference))


@torch.no_grad()
def probe_layer(
    model: ReshootModel, videos: NoisedVideos, targets: CorrespondenceTargets, layer: int,
    sigmas: Float[Tensor, "levels"],
) -> list[ProbeSums]:  # fmt: skip
    """What one block (counted from 0) attends to at each noise level; a match counts within one token.

    targets: of a batch of one.
    """
    token_px, reference = model.config.token_px(layer), videos.conditioning.reference
    reference = 1 if reference is None else reference
    sums = []
    for sigma in sigmas.tolist():
        [tap] = videos.forward(model, sigma, tap_layers=(layer,)).taps
        rows = probe_rows(*tap, targets, token_px)
        sums.append(sum_scores(rows, targets, float(token_px), reference=reference))
    return sums
