"""VBench's scores of single videos: flickering, subject and background consistency, aesthetic quality.

The same networks, resizing (bilinear or bicubic without antialiasing, rounded to 8 bit) and formulas as VBench 0.1.5,
so that the numbers may bear its names; they need the same weight files.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from mvtrack.metrics.vision_transformer import VisionTransformer

_SIDE = 224
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_CLIP = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
_BATCH = 16


def temporal_flickering(frames: UInt8[Tensor, "T 3 H W"]) -> float:
    """Temporal flickering in [0, 1], 1 for a still picture: from the mean absolute difference of neighbouring frames
    of 8-bit values. Exact; no weights. Raises ValueError for fewer than two frames."""
    if len(frames) < 2:
        raise ValueError(f"flickering needs at least 2 frames, got {len(frames)}")
    steps = [(a.float() - b.float()).abs().mean() for a, b in zip(frames[:-1], frames[1:], strict=True)]
    return (255.0 - float(torch.stack(steps).double().mean())) / 255.0


def subject_consistency(frames: UInt8[Tensor, "T 3 H W"], dino: VisionTransformer) -> float:
    """Subject consistency in [0, 1] from DINO ViT-B/16's class token; higher is better."""
    return feature_steadiness(_features(dino, dino_input(frames)))


def background_consistency(frames: UInt8[Tensor, "T 3 H W"], clip_b32: VisionTransformer) -> float:
    """Background consistency in [0, 1] from CLIP ViT-B/32 of whole frames (nothing is masked)."""
    return feature_steadiness(_features(clip_b32, clip_input(frames)))


def feature_steadiness(features: Float[Tensor, "T C"]) -> float:
    """Mean over frames of the cosine to the frame before and to the first one, each at least 0, averaged."""
    if len(features) < 2:
        raise ValueError(f"consistency needs at least 2 frames, got {len(features)}")
    unit = F.normalize(features, dim=-1)
    before, first = (unit[1:] * unit[:-1]).sum(-1), (unit[1:] * unit[:1]).sum(-1)
    return float(((before.clamp_min(0) + first.clamp_min(0)) / 2).double().mean())


def aesthetic_quality(
    frames: UInt8[Tensor, "T 3 H W"],
    clip_l14: VisionTransformer,
    weight: Float[Tensor, "1 768"],
    bias: Float[Tensor, "1"],
) -> float:
    """Aesthetic quality: LAION's linear head on unit features of CLIP ViT-L/14, over ten, mean over frames."""
    features = F.normalize(_features(clip_l14, clip_input(frames)), dim=-1)
    return float((F.linear(features, weight, bias) / 10).double().mean())


def dino_input(frames: UInt8[Tensor, "T 3 H W"]) -> Float[Tensor, "T 3 h w"]:
    """Shorter side 224, bilinear; nothing is cropped."""
    return _normalised(_shorter_side(frames, "bilinear"), IMAGENET)


def clip_input(frames: UInt8[Tensor, "T 3 H W"]) -> Float[Tensor, "T 3 224 224"]:
    """Shorter side 224, bicubic, then the middle square."""
    small = _shorter_side(frames, "bicubic")
    top, left = (round((side - _SIDE) / 2) for side in small.shape[-2:])
    return _normalised(small[..., top : top + _SIDE, left : left + _SIDE], _CLIP)


def _shorter_side(frames: UInt8[Tensor, "T 3 H W"], mode: str) -> Float[Tensor, "T 3 h w"]:
    height, width = frames.shape[-2:]
    size = [int(_SIDE * side / min(height, width)) for side in (height, width)]
    if [height, width] == size:
        return frames.float()
    return F.interpolate(frames.float(), size, mode=mode, align_corners=False).clamp(0, 255).round()


def _normalised(frames: Float[Tensor, "T 3 h w"], statistics: tuple) -> Float[Tensor, "T 3 h w"]:
    mean, spread = (frames.new_tensor(values)[:, None, None] for values in statistics)
    return (frames / 255 - mean) / spread


def _features(network: VisionTransformer, images: Float[Tensor, "T 3 h w"]) -> Float[Tensor, "T C"]:
    device = next(network.parameters()).device
    with torch.no_grad():
        return torch.cat([network(part.to(device)).cpu() for part in images.split(_BATCH)])
