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
    which (1: exists). radius: see `REACH`, in the cameras' unit. neighbours: of each view the others, nearest first;
    None: as the cameras of these moments stand. Of a whole video N is T; `at` picks moments.
    """

    camera: Camera
    depth: Float[Tensor, "V N H W"]
    pixels: Float[Tensor, "V N 4 H W"]
    radius: float
    neighbours: tuple[tuple[int, ...], ...] | None = None

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
        radius = REACH * float(depth.median()) if radius is None else radius
        neighbours = tuple(nearest_views(camera, view) for view in range(len(depth)))
        return DecoderScene(camera, depth, pixels, radius, neighbours)

    def at(self, frames: list[int], size: tuple[int, int]) -> "DecoderScene":
        """Moments of a feature map of `size` (h, w): cameras for its cells, depth and pictures averaged over them."""
        depth, pixels = self.depth[:, frames], self.pixels[:, frames]
        if size != tuple(self.camera.size):
            depth = F.adaptive_avg_pool2d(depth, size)
            pixels = F.adaptive_avg_pool2d(pixels.flatten(0, 1), size).unflatten(0, pixels.shape[:2])
        return replace(self, camera=self.camera[:, frames].resized(size), depth=depth, pixels=pixels)

    def moments(self, span: slice) -> "DecoderScene":
        """Some of the moments."""
        return replace(self, camera=self.camera[:, span], depth=self.depth[:, span], pixels=self.pixels[:, span])

    def cropped(self, left: int, top: int, size: tuple[int, int]) -> "DecoderScene":
        """A part of all pictures, of a `size` (H, W) at (left, top)."""
        part = (..., slice(top, top + size[0]), slice(left, left + size[1]))
        camera = self.camera.cropped(left, top, size)
        return replace(self, camera=camera, depth=self.depth[part], pixels=self.pixels[part])

    def to(self, device: torch.device | str) -> "DecoderScene":
        """The same on a device."""
        return replace(self, camera=self.camera.to(device), depth=self.depth.to(device), pixels=self.pixels.to(device))

    def nearest(self, view: int) -> tuple[int, ...]:
        """The other views, the nearest first."""
        return nearest_views(self.camera, view) if self.neighbours is None else self.neighbours[view]

    def seen_from(self, view: int) -> Camera:
        """All cameras relative to one view's at each moment, lengths in units of ten radii (the median depth)."""
        relative = relative_pose(self.camera.c2w[view][None].double(), self.camera.c2w.double()).to(self.camera.c2w)
        return replace(self.camera, c2w=relative).scaled(REACH / self.radius)


def nearest_views(camera: Camera, view: int) -> tuple[int, ...]:
    """The other views, the nearest first: by the mean distance of their centres, then by their number."""
    centre = camera.c2w[..., :3, 3].double()
    away = (centre - centre[view]).norm(dim=-1).mean(-1).tolist()
    return tuple(sorted((v for v in range(len(away)) if v != view), key=lambda v: (round(away[v], 9), v)))
