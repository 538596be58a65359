"""VBench's scores that rest on features of single frames: subject and background consistency, aesthetic quality.

The same networks, resizing (bilinear or bicubic without antialiasing, rounded to 8 bit) and formulas as VBench 0.1.5,
so that the numbers may bear its names; they need the same weight files.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from mvtrack.metrics.temporal import feature_steadiness
from mvtrack.metrics.vision_transformer import VisionTransformer

_SIDE = 224
_IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_CLIP = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
_BATCH = 16


def subject_consistency(frames: UInt8[Tensor, "T 3 H W"], dino: VisionTransformer) -> float:
    """VBench's subject consistency in [0, 1] from DINO ViT-B/16's class token; higher is better."""
    return feature_steadiness(_features(dino, dino_input(frames)))


def background_consistency(frames: UInt8[Tensor, "T 3 H W"], clip_b32: VisionTransformer) -> float:
    """VBench's background consistency in [0, 1] from CLIP ViT-B/32 of whole frames (nothing is masked)."""
    return feature_steadiness(_features(clip_b32, clip_input(frames)))


def aesthetic_quality(
    frames: UInt8[Tensor, "T 3 H W"],
    clip_l14: VisionTransformer,
    weight: Float[Tensor, "1 768"],
    bias: Float[Tensor, "1"],
) -> float:
    """VBench's aesthetic quality: LAION's linear head on unit features of CLIP ViT-L/14, over ten, mean over frames."""
    features = F.normalize(_features(clip_l14, clip_input(frames)), dim=-1)
    return float((F.linear(features, weight, bias) / 10).double().mean())


def dino_input(frames: UInt8[Tensor, "T 3 H W"]) -> Float[Tensor, "T 3 h w"]:
    """Shorter side 224, bilinear; nothing is cropped."""
    return _normalised(_shorter_side(frames, "bilinear"), _IMAGENET)


def clip_input(frames: UInt8[Tensor, "T 3 H W"]) -> Float[Tensor, "T 3 224 224"]:
    """Shorter side 224, bicubic, then the middle square."""
    small = _shorter_side(frames, "bicubic")
    top, left = (round((side - _SIDE) / 2) for side in small.shape[-2:])
    return _normalised(small[..., top : top + _SIDE, left : left + _SIDE], _CLIP)


def _shorter_side(frames: UInt8[Tensor, "T 3 H W"], mode: str) -> Float[Tensor, "T 3 h w"]:
    height, width = frames.shape[-2:]
    short = min(height, width)
    size = [int(_SIDE * side / short) for side in (height, width)]
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
