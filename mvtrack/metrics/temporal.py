"""How steady a video is from frame to frame: VBench's flickering score, and its score of features over time."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor


def temporal_flickering(frames: UInt8[Tensor, "T 3 H W"]) -> float:
    """VBench's temporal flickering in [0, 1], 1 for a still picture: from the mean absolute difference of neighbouring
    frames of 8-bit values. Exact; no weights. Raises ValueError for fewer than two frames."""
    if len(frames) < 2:
        raise ValueError(f"flickering needs at least 2 frames, got {len(frames)}")
    steps = [(a.float() - b.float()).abs().mean() for a, b in zip(frames[:-1], frames[1:], strict=True)]
    return (255.0 - float(torch.stack(steps).double().mean())) / 255.0


def feature_steadiness(features: Float[Tensor, "T C"]) -> float:
    """Mean over frames of the cosine to the frame before and to the first one, each at least 0, averaged: VBench's
    subject and background consistency, which differ in the features."""
    if len(features) < 2:
        raise ValueError(f"consistency needs at least 2 frames, got {len(features)}")
    unit = F.normalize(features, dim=-1)
    before, first = (unit[1:] * unit[:-1]).sum(-1), (unit[1:] * unit[:1]).sum(-1)
    return float(((before.clamp_min(0) + first.clamp_min(0)) / 2).double().mean())
