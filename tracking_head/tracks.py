"""The one type for point tracks, shared by the renderer, the losses and the tracking head."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tracking_head.shapes import Bool, Float


@dataclass(frozen=True)
class Tracks:
    """Image positions of N physical points in V views over T frames.

    xy: raster pixels (the centre of the first pixel is (0.5, 0.5)), finite also where the point is hidden.
    visible: the point is inside the image and nothing stands in front of it.
    valid: the point has a meaning in this view at all (a point behind the camera in every frame has none).
    A leading batch axis B may stand in front of every field.
    """

    xy: Float[Tensor, "*B V T N 2"]
    visible: Bool[Tensor, "*B V T N"]
    valid: Bool[Tensor, "*B V N"]

    def __post_init__(self) -> None:
        if self.xy.shape[-1] != 2 or self.xy.ndim < 4:
            raise ValueError(f"xy must be (..., V, T, N, 2), got {tuple(self.xy.shape)}")
        if self.visible.shape != self.xy.shape[:-1]:
            raise ValueError(f"visible must be {tuple(self.xy.shape[:-1])} like xy, got {tuple(self.visible.shape)}")
        for name in ("visible", "valid"):
            if getattr(self, name).dtype != torch.bool:
                raise ValueError(
                    f"{name} must be a mask of torch.bool, got {getattr(self, name).dtype}: use {name} > 0.5"
                )
        expected = (*self.xy.shape[:-3], self.xy.shape[-2])
        if self.valid.shape != expected:
            raise ValueError(f"valid must be {tuple(expected)} (views, points), got {tuple(self.valid.shape)}")

    def resized(self, scale_x: float, scale_y: float) -> "Tracks":
        """Tracks of the same clip after its images were scaled by these factors."""
        return replace(self, xy=self.xy * self.xy.new_tensor([scale_x, scale_y]))

    def cropped(self, left: float, top: float, size: tuple[int, int]) -> "Tracks":
        """Tracks after cropping to size (H, W) at (left, top); points outside the crop turn invisible."""
        height, width = size
        xy = self.xy - self.xy.new_tensor([left, top])
        inside = (xy >= 0).all(-1) & (xy[..., 0] < width) & (xy[..., 1] < height)
        return replace(self, xy=xy, visible=self.visible & inside)

    def frames(self, index: slice | Tensor) -> "Tracks":
        """The same points at a selection of frames (a slice or integer indices)."""
        return replace(self, xy=self.xy[..., index, :, :], visible=self.visible[..., index, :])

    def views(self, index: slice | list[int] | Tensor) -> "Tracks":
        """The same points in a selection of views, in the order given (unbatched tracks)."""
        if self.xy.ndim != 4:
            raise ValueError(f"views() takes unbatched tracks (V, T, N, 2), got {tuple(self.xy.shape)}")
        return Tracks(self.xy[index], self.visible[index], self.valid[index])

    def to(self, device: torch.device) -> "Tracks":
        """The same on another device."""
        return Tracks(self.xy.to(device), self.visible.to(device), self.valid.to(device))

    @staticmethod
    def stack(items: list["Tracks"]) -> "Tracks":
        """Batch clips that have the same number of views, frames and points."""
        return Tracks(
            torch.stack([t.xy for t in items]),
            torch.stack([t.visible for t in items]),
            torch.stack([t.valid for t in items]),
        )
