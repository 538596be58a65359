"""What one layer of a model attends to on a ground-truth clip at given noise levels, for training and evaluation."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mvtrack.correspondence.probe import probe_rows
from mvtrack.correspondence.probe_scores import ProbeSums, sum_scores
from mvtrack.correspondence.targets import CorrespondenceTargets
from mvtrack.data.clip import Clip
from mvtrack.inference.forward_noised import noised_videos
from mvtrack.models.reshoot_model import ReshootModel


@torch.no_grad()
def probe_layer(
    model: ReshootModel,
    clip: Clip,
    targets: CorrespondenceTargets,
    layer: int,
    sigmas: Float[Tensor, "levels"],
    seed: int = 0,
    reference: Bool[Tensor, "1 V f"] | None = None,
) -> list[ProbeSums]:
    """Probe one block (counted from 0) at each noise level; a match counts within one token.

    clip: with depth, where the model's scale needs it. targets: of a batch of one. seed: draws the noise, which is the
    same at every level. reference: which latent frames stay clean; None: the first view.
    """
    token_px, found = model.config.rays.token_px, []
    videos = noised_videos(model, clip.video, clip.camera, clip.depth, seed=seed, reference=reference)
    for sigma in sigmas.tolist():
        [tap] = videos.forward(model, sigma, tap_layers=(layer,)).taps
        rows = probe_rows(*tap, targets, token_px)
        found.append(sum_scores(rows, targets, float(token_px), reference=reference))
    return found
