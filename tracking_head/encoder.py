"""A small convolutional encoder of pictures, for trackers that stand on no video model (MV-TAP's, from CoTracker)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tracking_head.shapes import Float

STRIDE = 4  # pixels of one token


class ConvEncoder(nn.Module):
    """Four stages of two residual blocks at strides 2, 4, 8 and 16, brought together at stride 4. width: channels out.

    Normalised per picture and channel, without weights of its own, so that a frame's features are its alone.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        widths = (width // 2, width // 4 * 3, width, width)
        self.stem = nn.Conv2d(3, widths[0], 7, stride=2, padding=3)
        before = (widths[0], *widths)
        self.stages = nn.ModuleList(
            nn.Sequential(_ResidualBlock(before[i], out, 1 if i == 0 else 2), _ResidualBlock(out, out))
            for i, out in enumerate(widths)
        )
        self.merge = nn.Conv2d(sum(widths), 2 * width, 3, padding=1)
        self.project = nn.Conv2d(2 * width, width, 1)

    def forward(self, pictures: Float[Tensor, "G 3 H W"]) -> Float[Tensor, "G C h w"]:
        """pictures: RGB in [-1, 1]; height and width are cut to multiples of 4."""
        size = (pictures.shape[-2] // STRIDE, pictures.shape[-1] // STRIDE)
        x, stages = F.relu(F.instance_norm(self.stem(pictures))), []
        for stage in self.stages:
            x = stage(x)
            stages.append(F.interpolate(x, size, mode="bilinear", align_corners=True))
        return self.project(F.relu(F.instance_norm(self.merge(torch.cat(stages, 1)))))


class _ResidualBlock(nn.Module):
    def __init__(self, before: int, width: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, width, 3, stride, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.shortcut = nn.Conv2d(before, width, 1, stride) if stride > 1 else None

    def forward(self, x: Float[Tensor, "G c H W"]) -> Float[Tensor, "G C h w"]:
        y = F.relu(F.instance_norm(self.conv1(x)))
        y = F.relu(F.instance_norm(self.conv2(y)))
        return F.relu(y + (x if self.shortcut is None else F.instance_norm(self.shortcut(x))))
