"""How a video of any size meets a model of a few sizes: cropped, padded or stretched, and brought back."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped, UInt8
from torch import Tensor

from mvtrack.config.checked import check
from mvtrack.config.model import ModelConfig
from mvtrack.config.sizes import FitMode
from mvtrack.geometry.camera import Camera, intrinsics_from_fov
from mvtrack.video.writer import from_bytes

_MOST_LOST = 0.1  # of the picture, that `auto` cuts off


@dataclass(frozen=True)
class Fit:
    """Scale a source, cut `content` out of it, and lay that into the model's picture, borders repeated around it.

    All sizes are (H, W), offsets (top, left): `cut` in the scaled source, `place` in the model's picture.
    """

    mode: FitMode
    source: tuple[int, int]
    scaled: tuple[int, int]
    cut: tuple[int, int]
    content: tuple[int, int]
    place: tuple[int, int]
    model: tuple[int, int]

    @property
    def notes(self) -> list[str]:
        """What becomes of the picture, where a pixel or more of it is lost, added or distorted."""
        shares = [1 - inner / whole for inner, whole in zip(self.content, self.scaled, strict=True)]
        if max(shares) > 0.005:
            sides = "left and right" if shares[1] > shares[0] else "above and below"
            return [f"{100 * max(shares):.0f} % of the picture is cut off {sides} (--fit pad keeps it)"]
        if self.mode == "pad" and (self.model[0] - self.content[0] > 1 or self.model[1] - self.content[1] > 1):
            (height, width), model = self.content, self.model
            return [f"the picture fills {height}x{width} of the model's {model[0]}x{model[1]} (--fit crop fills all)"]
        change = (self.scaled[1] / self.scaled[0]) / (self.source[1] / self.source[0])
        return [f"the picture is stretched to {change:.2f} times its aspect"] if abs(change - 1) > 0.02 else []

    def apply(self, frames: UInt8[Tensor, "T 3 H W"]) -> Float[Tensor, "T 3 h w"]:
        """Frames that were scaled while decoding, as the model's picture in [-1, 1]."""
        return from_bytes(self.apply_bytes(frames))

    def apply_bytes(self, frames: UInt8[Tensor, "T 3 H W"]) -> UInt8[Tensor, "T 3 h w"]:
        """The same as 8-bit RGB, a view of `frames` where nothing is added around them."""
        if tuple(frames.shape[-2:]) != self.scaled:
            raise ValueError(f"frames must be scaled to {self.scaled} first, got {tuple(frames.shape[-2:])}")
        (height, width), (top, left) = self.content, self.cut
        inner = frames[..., top : top + height, left : left + width]
        above, before = self.place
        borders = (before, self.model[1] - before - width, above, self.model[0] - above - height)
        return F.pad(inner, borders, mode="replicate") if any(borders) else inner

    def camera(self, camera: Camera) -> Camera:
        """Cameras of the source, for the model's picture."""
        left, top = self.cut[1] - self.place[1], self.cut[0] - self.place[0]
        return camera.resized(self.scaled).cropped(left, top, self.model)

    def nearest(self, maps: Shaped[Tensor, "T H W"]) -> Shaped[Tensor, "T h w"]:
        """Masks or depth of the source, each pixel the nearest one; nothing (zero, False) where borders were added."""
        if tuple(maps.shape[-2:]) != self.source:
            raise ValueError(f"maps must be of the source's size {self.source}, got {tuple(maps.shape[-2:])}")
        rows, columns = (
            ((torch.arange(n) + 0.5) * (old / n)).long() for n, old in zip(self.scaled, self.source, strict=True)
        )
        (height, width), (top, left) = self.content, self.cut
        out = maps.new_zeros(len(maps), *self.model)
        (above, before), inner = self.place, maps[:, rows[top : top + height]][:, :, columns[left : left + width]]
        out[:, above : above + height, before : before + width] = inner
        return out

    def to_picture(self, xy: Float[Tensor, "*n 2"]) -> Float[Tensor, "*n 2"]:
        """Raster coordinates of the source, in the model's picture (outside `content` for what was cut off)."""
        factor, shift = self._map(xy)
        return xy * factor + shift

    def to_source(self, xy: Float[Tensor, "*n 2"]) -> Float[Tensor, "*n 2"]:
        """Raster coordinates of the model's picture, in the source."""
        factor, shift = self._map(xy)
        return (xy - shift) / factor

    def _map(self, like: Tensor) -> tuple[Tensor, Tensor]:
        factor = like.new_tensor([self.scaled[1] / self.source[1], self.scaled[0] / self.source[0]])
        return factor, like.new_tensor([self.place[1] - self.cut[1], self.place[0] - self.cut[0]])

    def undo(self, frames: Float[Tensor, "*any h w"]) -> Float[Tensor, "*any H W"]:
        """Generated frames, or maps as large, without what was padded."""
        (height, width), (top, left) = self.content, self.place
        return frames[..., top : top + height, left : left + width]


def plan_fit(
    source: tuple[int, int], config: ModelConfig, mode: FitMode = "auto", size: tuple[int, int] | None = None
) -> Fit:
    """Choose the model's size of nearest aspect, or `size` padded up to whole tokens, and how to meet it.

    crop: cover the picture and cut off what sticks out, evenly. pad: fit inside and repeat the border around it; the
    result is trimmed back. stretch: change the aspect. auto: crop where no more than a tenth is lost; for that a size
    may be turned on its side (portrait). Else pad.
    """
    token = config.size_unit_px
    if size is None:
        size = min(config.sizes, key=lambda s: _cut_off(source, s))
        if mode == "auto" and _cut_off(source, size) > _MOST_LOST:
            turned = min((s[::-1] for s in config.sizes), key=lambda s: _cut_off(source, s))
            size = turned if _cut_off(source, turned) <= _MOST_LOST else size
    elif min(size) < token:
        raise ValueError(f"size {size[0]}x{size[1]} is smaller than one token of {token} pixels")
    return fit_to(source, size, mode, token)


def _cut_off(source: tuple[int, int], size: tuple[int, int]) -> float:
    """Share of the picture that cropping it to another aspect loses."""
    ratio = (source[1] / source[0]) / (size[1] / size[0])
    return 1 - min(ratio, 1 / ratio)


def fit_to(source: tuple[int, int], size: tuple[int, int], mode: FitMode = "auto", token: int = 1) -> Fit:
    """How a source meets one size (H, W), which is padded up to whole tokens of `token` pixels."""
    check(FitMode, mode, "fit")
    if mode == "auto":
        mode = "crop" if _cut_off(source, size) <= _MOST_LOST else "pad"
    model = (-(-size[0] // token) * token, -(-size[1] // token) * token)
    scaled = _scaled(source, size, mode)
    content = (min(scaled[0], size[0]), min(scaled[1], size[1]))
    cut = ((scaled[0] - content[0]) // 2, (scaled[1] - content[1]) // 2)
    place = ((model[0] - content[0]) // 2, (model[1] - content[1]) // 2)
    return Fit(mode, source, scaled, cut, content, place, model)


def _scaled(source: tuple[int, int], size: tuple[int, int], mode: FitMode) -> tuple[int, int]:
    if mode == "stretch":
        return size
    factors = size[0] / source[0], size[1] / source[1]
    factor = max(factors) if mode == "crop" else min(factors)
    height, width = max(1, round(source[0] * factor)), max(1, round(source[1] * factor))
    bound = max if mode == "crop" else min  # rounding must not leave a gap, nor stick out
    return bound(height, size[0]), bound(width, size[1])


def still_camera(fov_deg: float, size: tuple[int, int], num_frames: int) -> Camera:
    """A source camera that does not move: horizontal field of view in degrees, square pixels, centred."""
    K = intrinsics_from_fov(fov_deg, size).expand(num_frames, 3, 3)
    return Camera(torch.eye(4).expand(num_frames, 4, 4), K, size)
