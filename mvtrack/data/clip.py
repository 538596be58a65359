"""A clip and the rules that tie video frames to latent frames."""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from mvtrack.geometry.camera import Camera
from tracking_head import Tracks

TEMPORAL_STRIDE = 4  # video frames in one latent frame, the first excepted


@dataclass(frozen=True)
class Clip:
    """V synchronised views of the same T moments. View 0 is the reference.

    video: RGB in [-1, 1]. camera: leading shape (V, T). fps: frames per second.
    depth: z-depth in the camera's unit. point_map: world coordinates of each pixel. masks: what is annotated, or moves.
    domain: the kind of pictures, such as rendered or photo.
    """

    video: Float[Tensor, "V T 3 H W"]
    camera: Camera
    fps: float = 30.0
    caption: str = ""
    key: str = ""
    tracks: Tracks | None = None
    depth: Float[Tensor, "V T H W"] | None = None
    point_map: Float[Tensor, "V T 3 H W"] | None = None
    masks: Bool[Tensor, "V T H W"] | None = None
    domain: str = ""

    def __post_init__(self) -> None:
        if self.video.ndim != 5 or self.video.shape[2] != 3:
            raise ValueError(f"video must be (V, T, 3, H, W), got {tuple(self.video.shape)}")
        if tuple(self.camera.shape) != tuple(self.video.shape[:2]):
            raise ValueError(
                f"camera must have leading shape {tuple(self.video.shape[:2])}, got {tuple(self.camera.shape)}"
            )
        if self.camera.size != tuple(self.video.shape[-2:]):
            raise ValueError(f"camera is for images of {self.camera.size}, video is {tuple(self.video.shape[-2:])}")

    @property
    def num_frames(self) -> int:
        return self.video.shape[1]

    @property
    def scene_depth(self) -> float | None:
        """Median z-depth of the reference's first frame where it has some, in the camera's unit; None without depth."""
        known = [] if self.depth is None else self.depth[0, 0][self.depth[0, 0] > 0]
        return float(known.median()) if len(known) else None

    def frames(self, index: slice | Tensor) -> "Clip":
        """The same clip at a selection of frames."""
        return replace(
            self,
            video=self.video[:, index],
            camera=self.camera[:, index],
            tracks=None if self.tracks is None else self.tracks.frames(index),
            depth=None if self.depth is None else self.depth[:, index],
            point_map=None if self.point_map is None else self.point_map[:, index],
            masks=None if self.masks is None else self.masks[:, index],
        )

    def views(self, order: list[int]) -> "Clip":
        """The same clip with a selection of views, in the order given; the first becomes the reference."""
        return replace(
            self,
            video=self.video[order],
            camera=self.camera[order],
            tracks=None if self.tracks is None else self.tracks.views(order),
            depth=None if self.depth is None else self.depth[order],
            point_map=None if self.point_map is None else self.point_map[order],
            masks=None if self.masks is None else self.masks[order],
        )

    def cropped(self, left: int, top: int, size: tuple[int, int]) -> "Clip":
        """Crop images to size (H, W) at (left, top); intrinsics, tracks and depth follow."""
        rows, columns = slice(top, top + size[0]), slice(left, left + size[1])
        if left < 0 or top < 0 or left + size[1] > self.video.shape[-1] or top + size[0] > self.video.shape[-2]:
            raise ValueError(f"crop {size} at ({left}, {top}) leaves the image {tuple(self.video.shape[-2:])}")
        return replace(
            self,
            video=self.video[..., rows, columns],
            camera=self.camera.cropped(left, top, size),
            tracks=None if self.tracks is None else self.tracks.cropped(left, top, size),
            depth=None if self.depth is None else self.depth[..., rows, columns],
            point_map=None if self.point_map is None else self.point_map[..., rows, columns],
            masks=None if self.masks is None else self.masks[..., rows, columns],
        )

    def resized(self, size: tuple[int, int]) -> "Clip":
        """Scale images to size (H, W) with antialiasing; depth and point maps take the nearest pixel."""
        height, width = self.video.shape[-2:]
        return replace(
            self,
            video=resize_frames(self.video, size),
            camera=self.camera.resized(size),
            tracks=None if self.tracks is None else self.tracks.resized(size[1] / width, size[0] / height),
            depth=None if self.depth is None else _nearest(self.depth[:, :, None], size)[:, :, 0],
            point_map=None if self.point_map is None else _nearest(self.point_map, size),
            masks=None if self.masks is None else _nearest(self.masks[:, :, None].float(), size)[:, :, 0] > 0,
        )


def resize_frames(video: Float[Tensor, "*B 3 H W"], size: tuple[int, int]) -> Float[Tensor, "*B 3 h w"]:
    """Bilinear resize with antialiasing, any leading shape."""
    flat = video.reshape(-1, *video.shape[-3:])
    out = F.interpolate(flat, size, mode="bilinear", antialias=True, align_corners=False)
    return out.reshape(*video.shape[:-2], *size)


def _nearest(maps: Tensor, size: tuple[int, int]) -> Tensor:
    flat = maps.reshape(-1, *maps.shape[-3:])
    return F.interpolate(flat, size, mode="nearest-exact").reshape(*maps.shape[:-2], *size)


def num_latent_frames(num_frames: int) -> int:
    """Latent frames of a video of 4n + 1 frames. Raises ValueError on any other length."""
    if num_frames < 1 or (num_frames - 1) % TEMPORAL_STRIDE:
        lower = max(1, (num_frames - 1) // TEMPORAL_STRIDE * TEMPORAL_STRIDE + 1)
        raise ValueError(
            f"a video must have 4n + 1 frames, got {num_frames}; nearest are {lower} and {lower + TEMPORAL_STRIDE}"
        )
    return (num_frames - 1) // TEMPORAL_STRIDE + 1


def padded_length(num_frames: int) -> int:
    """The smallest 4n + 1 that is not below num_frames."""
    return -(-(num_frames - 1) // TEMPORAL_STRIDE) * TEMPORAL_STRIDE + 1


def anchor_frames(latent_frames: int) -> Tensor:
    """The video frame at which ground truth of each latent frame is read: 4i."""
    return torch.arange(latent_frames) * TEMPORAL_STRIDE
