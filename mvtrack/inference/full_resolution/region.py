"""Which part of the source a result at full resolution shows, at which size, and how the model's picture lies in it."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped, UInt8
from torch import Tensor

from mvtrack.geometry.camera import Camera, pixel_grid
from mvtrack.geometry.inverse_depth import sample
from mvtrack.video.resize import Fit

Resolution = Literal["source", "model"] | tuple[int, int]

MAX_PIXELS = 3840 * 2160  # of a result whose size was not asked for; larger sources are made smaller
_WHOLE = 0.9  # share of the source in the model's picture from which on the result shows all of it


@dataclass(frozen=True)
class Region:
    """box: (top, left, height, width) of the source, in its pixels. size: (H, W) of the result. fit: of the model's
    picture, whose border is repeated where the box is larger."""

    fit: Fit
    box: tuple[int, int, int, int]
    size: tuple[int, int]

    def camera(self, camera: Camera) -> Camera:
        """Cameras of the model's picture, for the result."""
        (cut_top, cut_left), (top, left) = self.fit.cut, self.fit.place
        source = camera.cropped(left - cut_left, top - cut_top, self.fit.scaled).resized(self.fit.source)
        return source.cropped(self.box[1], self.box[0], self.box[2:]).resized(self.size)

    def model_camera(self, camera: Camera) -> Camera:
        """Cameras of the result, for the model's picture: the inverse of `camera`."""
        source = camera.resized(self.box[2:]).cropped(-self.box[1], -self.box[0], self.fit.source)
        return self.fit.camera(source)

    def result_fit(self) -> Fit:
        """How a video of the result lies in the model's picture."""
        scale = [self.fit.scaled[i] / self.fit.source[i] for i in (0, 1)]
        scaled = [max(1, round(self.box[2 + i] * scale[i])) for i in (0, 1)]
        offset = [round(self.fit.cut[i] - self.box[i] * scale[i]) for i in (0, 1)]  # of the content, in the result
        cut = [max(0, o) for o in offset]
        place = [self.fit.place[i] + max(0, -offset[i]) for i in (0, 1)]
        content = [min(scaled[i] - cut[i], self.fit.model[i] - place[i]) for i in (0, 1)]
        parts = (tuple(x) for x in (scaled, cut, content, place))
        return Fit(self.fit.mode, self.size, *parts, self.fit.model)

    def picture(self, frame: UInt8[Tensor, "3 H W"]) -> UInt8[Tensor, "3 h w"]:
        """A frame of the source, as large as the result."""
        top, left, height, width = self.box
        return resized(frame[:, top : top + height, left : left + width], self.size)

    def generated(
        self, frame: Float[Tensor, "3 h w"], size: tuple[int, int], mode: str = "bicubic"
    ) -> Float[Tensor, "3 H W"]:
        """A picture of the model, laid out as the result is at some size. mode: of `grid_sample`."""
        shrink = self.fit.model[0] * self.box[2] / self.fit.source[0] / size[0]
        if shrink > 1.5:
            frame = resized(frame, tuple(max(1, round(n / shrink)) for n in self.fit.model))
        rows, columns = _resampling(self, tuple(frame.shape[-2:]), size, mode)
        return rows @ (frame @ columns.T)


@lru_cache(maxsize=8)
def _resampling(
    region: Region, old: tuple[int, int], new: tuple[int, int], mode: str
) -> tuple[Float[Tensor, "H h"], Float[Tensor, "W w"]]:
    """Weights of the model's rows and columns, of a picture of `old` size, in those of the result at a size."""
    top, left, height, width = region.box
    steps = pixel_grid(new) * torch.tensor([width / new[1], height / new[0]]) + torch.tensor([float(left), float(top)])
    xy = region.fit.to_picture(steps) * torch.tensor([n / m for n, m in zip(old, region.fit.model, strict=True)][::-1])
    axes = []
    for length, place in ((old[0], xy[:, :1, 1]), (old[1], xy[:1, :, 0].T)):
        points = torch.stack([torch.full_like(place, 0.5), place], -1)
        axes.append(sample(torch.eye(length)[None, :, :, None], points[None], mode=mode)[0, :, :, 0].T.contiguous())
    return axes[0], axes[1]


def plan_region(fit: Fit, resolution: Resolution) -> Region | None:
    """None for "model": the model's own picture. Raises ValueError for a size that cannot be met."""
    if resolution == "model":
        return None
    factors = [fit.source[i] / fit.scaled[i] for i in (0, 1)]
    shown = [min(fit.source[i], round(fit.content[i] * factors[i])) for i in (0, 1)]
    start = [min(fit.source[i] - shown[i], round(fit.cut[i] * factors[i])) for i in (0, 1)]
    if shown[0] * shown[1] >= _WHOLE * fit.source[0] * fit.source[1]:
        start, shown = [0, 0], list(fit.source)
    if resolution == "source":
        scale = min(1.0, (MAX_PIXELS / (shown[0] * shown[1])) ** 0.5)
        size = (max(2, round(shown[0] * scale)), max(2, round(shown[1] * scale)))
    else:
        size = resolution
        if min(size) < 16 or max(size) > 8192:
            raise ValueError(f"--resolution {size[0]}x{size[1]} must have sides of 16 to 8192 pixels")
        if fit.mode != "stretch":
            aspect = size[1] / size[0]
            height = min(shown[0], round(shown[1] / aspect))
            width = min(shown[1], round(shown[0] * aspect))
            start = [start[0] + (shown[0] - height) // 2, start[1] + (shown[1] - width) // 2]
            shown = [height, width]
    return Region(fit, (*start, *shown), size)


def resized(picture: Shaped[Tensor, "*B 3 H W"], size: tuple[int, int]) -> Shaped[Tensor, "*B 3 h w"]:
    """Averaged over larger pixels, or interpolated; bytes stay bytes."""
    if tuple(picture.shape[-2:]) == tuple(size):
        return picture
    flat = picture.reshape(-1, *picture.shape[-3:])
    out = F.interpolate(flat, size, mode="bilinear", antialias=True, align_corners=False)
    return out.reshape(*picture.shape[:-2], *size)
