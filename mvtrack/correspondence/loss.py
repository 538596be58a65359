"""Cross-entropy between a layer's attention and ground-truth correspondences (MVTrack4Gen eq. 20, method §6)."""

import math

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from mvtrack.correspondence.targets import CorrespondenceTargets


def correspondence_loss(
    q: Float[Tensor, "B V f h w heads d"], k: Float[Tensor, "B V f h w heads d"], targets: CorrespondenceTargets
) -> Float[Tensor, ""]:
    """Weighted mean of -log p(label), p the per-frame softmax over the h w keys, averaged over heads.

    The mean is taken per sample, then over the batch, so that it does not depend on how a batch is split. float32
    inside. A sample without any weight counts as 0. Raises ValueError for targets of another token grid.
    """
    grid = tuple(q.shape[3:5])
    if grid != targets.grid:
        raise ValueError(f"targets are for a token grid of {targets.grid}, features have {grid}")
    views, frames = q.shape[1:3]
    queries = rearrange(q, "b v f h w n d -> b (v f h w) n d")
    keys = rearrange(k, "b v f h w n d -> b v f n d (h w)")
    total = q.new_zeros((), dtype=torch.float32)
    for b in range(len(q)):
        sample = q.new_zeros((), dtype=torch.float32)
        for v in range(views):
            for j in range(frames):
                asked = targets.weight[b, :, v, j].nonzero()[:, 0]
                if len(asked) == 0:
                    continue
                selected = queries[b, targets.query[b, asked]].float()
                logits = torch.einsum("snd,ndc->nsc", selected, keys[b, v, j].float()) / q.shape[-1] ** 0.5
                label = targets.label[b, asked, v, j].expand(len(logits), -1)
                log_p = logits.log_softmax(-1).gather(-1, label[..., None])[..., 0]
                log_mean = torch.logsumexp(log_p, 0) - math.log(len(log_p))
                sample = sample - (targets.weight[b, asked, v, j] * log_mean).sum()
        total = total + sample / targets.weight[b].sum().clamp_min(1e-6)
    return total / len(q)
