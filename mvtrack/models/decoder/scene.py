"""What an aligning decoder knows of a scene: where every view is, how far what it shows is away, and real pictures."""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from mvtrack.geometry.camera import Camera, relative_pose

REACH = 0.1  # of the clip's median depth: how far before and behind a surface points lie (Depth Guided Decoder §3.4)


@dataclass(frozen=True)
class DecoderScene:
    """Views of one scene. camera: (V, N). depth: z-depth in the cameras' unit, of what each view shows.

    pixels: RGB in [-1, 1] of views that exist as pictures, zeros for those that are being made, and a channel that says
    which (1: exists). radius: see `REACH`, in the cameras' unit. Of a whole video N is T; `at` picks moments.
    """

    camera: Camera
    depth: Float[Tensor, "V N H W"]
    pixels: Float[Tensor, "V N 4 H W"]
    radius: float

    @staticmethod
    def of(
        camera: Camera,
        depth: Float[Tensor, "V T H W"],
        known: dict[int, Float[Tensor, "T 3 H W"]] | None = None,
        radius: float | None = None,
    ) -> "DecoderScene":
        """Of all frames. known: the real pictures, by view. radius: of an object that is seen from afar or by
        orthographic cameras, a tenth of its size; None: a tenth of the median depth.

        Raises ValueError for depth that is not finite and positive, or of another size than the cameras.
        """
        if depth.shape[:2] != camera.shape or tuple(depth.shape[-2:]) != tuple(camera.size):
            wanted = (*camera.shape, *camera.size)
            raise ValueError(f"depth must be (V, T, H, W) = {wanted} as the cameras say, got {tuple(depth.shape)}")
        if not (depth.isfinite() & (depth > 0)).all():
            bad = int((~(depth.isfinite() & (depth > 0))).sum())
            raise ValueError(f"depth must be finite and positive everywhere; {bad} of {depth.numel()} values are not")
        pixels = depth.new_zeros(*depth.shape[:2], 4, *depth.shape[-2:])
        for view, video in (known or {}).items():
            if len(video) != depth.shape[1]:
                raise ValueError(f"the pictures of view {view} are {len(video)} frames, the cameras {depth.shape[1]}")
            pixels[view] = torch.cat([video, torch.ones_like(video[:, :1])], 1)
        return DecoderScene(camera, depth, pixels, REACH * float(depth.median()) if radius is None else radius)

    def at(self, frames: list[int], size: tuple[int, int]) -> "DecoderScene":
        """Moments of a feature map of `size` (h, w): cameras for its cells, depth and pictures averaged over them."""
        depth, pixels = self.depth[:, frames], self.pixels[:, frames]
        if size != tuple(self.camera.size):
            depth = F.adaptive_avg_pool2d(depth, size)
            pixels = F.adaptive_avg_pool2d(pixels.flatten(0, 1), size).unflatten(0, pixels.shape[:2])
        return DecoderScene(self.camera[:, frames].resized(size), depth, pixels, self.radius)

    def moments(self, span: slice) -> "DecoderScene":
        """Some of the moments."""
        return replace(self, camera=self.camera[:, span], depth=self.depth[:, span], pixels=self.pixels[:, span])

    def to(self, device: torch.device | str) -> "DecoderScene":
        """The same on a device."""
        return DecoderScene(self.camera.to(device), self.depth.to(device), self.pixels.to(device), self.radius)

    def seen_from(self, view: int) -> Camera:
        """All cameras relative to one view's at each moment, lengths in units of ten radii (the median depth)."""
        relative = relative_pose(self.camera.c2w[view][None].double(), self.camera.c2w.double()).to(self.camera.c2w)
        return replace(self.camera, c2w=relative).scaled(REACH / self.radius)
