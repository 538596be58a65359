"""Depth of single frames for what reads them one by one, as a depth file is read: previews."""

from functools import lru_cache

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from mvtrack.geometry.camera import Camera
from mvtrack.inference.full_resolution.geometry import GeometrySource, Moments
from mvtrack.inference.full_resolution.piecewise_smooth import piecewise_smooth
from mvtrack.inference.full_resolution.region import resized
from mvtrack.inference.full_resolution.stream import COST_SIDE, size_of_side
from mvtrack.inference.full_resolution.warp import guided_enlarged
from mvtrack.models.refiner.cost_volume import ViewPair
from mvtrack.video.resize import Fit
from mvtrack.video.video import Video

_KEPT = 4  # maps, for whoever warps a frame again and again


class FrameDepth:
    """camera: (2, T) of the model's picture. subject_distance: in the cameras' unit, and so is the depth."""

    def __init__(self, geometry: GeometrySource, footage: Video, camera: Camera, subject_distance: float) -> None:
        self.geometry, self.footage, self.distance = geometry, footage, subject_distance
        self.camera = camera.scaled(1 / subject_distance)
        self._kept = lru_cache(_KEPT)(self._estimated)

    def read(self, frame: int, fit: Fit) -> Float[Tensor, "H W"]:
        """z-depth of a frame, fitted as the picture is; the last few are kept."""
        return self._kept(frame, fit)

    def _estimated(self, frame: int, fit: Fit) -> Float[Tensor, "H W"]:
        image = fit.apply(self.footage.read(frame, frame + 1, fit.scaled))[0]
        cost_size = size_of_side(fit.model, COST_SIDE)
        size = (2 * cost_size[0], 2 * cost_size[1])
        picture, camera = resized(image, size), self.camera[:, frame : frame + 1]
        pair = ViewPair(resized(picture, cost_size)[None], None, camera.resized(cost_size))
        moments = Moments(pair, picture[None], camera.resized(size), [frame])
        maps = self.geometry.maps(moments, 0)
        maps = F.interpolate(maps[None], size, mode="bilinear", align_corners=False)[0]
        maps = piecewise_smooth(maps, picture, self.geometry.smoothing(moments, 0))
        return self.distance / guided_enlarged(maps, picture, image)[0].clamp_min(1e-3)
