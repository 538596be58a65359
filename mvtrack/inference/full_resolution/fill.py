"""What no frame of the source shows, in colours that go on from what is shown, and soft.

The model's picture is misplaced in detail and off in colour there. What it is off by, where the source shows the truth,
is carried over the border by push-pull (Gortler et al. 1996), and it is blurred as far as nothing else is seen.
"""

from dataclasses import replace

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from mvtrack.inference.full_resolution.compose import Mixture

_SHARE = 0.5  # of the difference in colour that is carried over
_BLUR_PX = 2.0  # at the blend's size
_SURE = 0.15  # share of a cell that must be known for it to count


def softly_filled(mixture: Mixture, generated: Float[Tensor, "3 p q"]) -> Mixture:
    """The mixture with another residual. generated: what that is added to, enlarged."""
    enlarged = F.interpolate(generated[None], mixture.residual.shape[-2:], mode="bicubic", align_corners=False)[0]
    enlarged, residual, weights, warped = (
        part.movedim(-3, -1).numpy() for part in (enlarged, mixture.residual, mixture.weights, mixture.warped)
    )
    made, from_source = enlarged + residual, 1 - weights[..., 2:]
    seen = (weights[..., :1] * warped[0] + weights[..., 1:2] * warped[1]) / np.maximum(from_source, 1e-3)
    off = push_pull(seen - made, (2 * from_source - 1).clip(0, 1))
    made = made + _SHARE * off
    soft = cv2.GaussianBlur(made, (0, 0), _BLUR_PX, borderType=cv2.BORDER_REPLICATE)
    filled = made + weights[..., 2:] * (soft - made) - enlarged
    return replace(mixture, residual=torch.from_numpy(np.ascontiguousarray(filled)).movedim(-1, 0))


def push_pull(values: Float[np.ndarray, "h w 3"], known: Float[np.ndarray, "h w 1"]) -> Float[np.ndarray, "h w 3"]:
    """Weighted means over larger and larger cells: each place takes the smallest in which enough is known."""
    levels = [np.concatenate([values * known, known], -1).astype(np.float32)]
    while max(levels[-1].shape[:2]) > 1:
        smaller = tuple(-(-n // 2) for n in levels[-1].shape[1::-1])
        levels.append(cv2.resize(levels[-1], smaller, interpolation=cv2.INTER_AREA).reshape(*smaller[::-1], 4))
    out = np.zeros_like(levels[-1][..., :3])
    for level in reversed(levels):
        size = level.shape[1::-1]
        out = cv2.resize(out, size, interpolation=cv2.INTER_LINEAR).reshape(*size[::-1], 3)
        share = level[..., 3:]
        out += (share / _SURE).clip(0, 1) * (level[..., :3] / np.maximum(share, 1e-6) - out)
    return out
