"""A whole clip in memory brought to full resolution: rendered scenes, whose cameras are known."""

import torch
from jaxtyping import Float
from torch import Tensor

from mvtrack.geometry.camera import Camera
from mvtrack.inference.full_resolution.geometry import GeometrySource
from mvtrack.inference.full_resolution.region import plan_region
from mvtrack.inference.full_resolution.stream import FullResolution
from mvtrack.models.refiner.blend import Blend
from mvtrack.video.resize import fit_to
from mvtrack.video.writer import from_bytes, to_bytes


def refined_clip(
    blend: Blend, geometry: GeometrySource, source: Float[Tensor, "T 3 H W"], camera: Camera, distance: float,
    generated: Float[Tensor, "T 3 h w"],
) -> Float[Tensor, "T 3 H W"]:  # fmt: skip
    """The result at the source's size. camera: (2, T) of that size. distance: of the subject, in the cameras' unit."""
    model_size = tuple(generated.shape[-2:])
    region = plan_region(fit_to(camera.size, model_size), "source")
    frames = torch.from_numpy(to_bytes(source)).movedim(-1, 1)
    full = FullResolution(blend, geometry, region, camera.resized(model_size), distance, frames.__getitem__)
    return from_bytes(torch.stack([frame.result for frame in full.stream([generated])]))
