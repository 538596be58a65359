"""Matches that cameras and points would give, without pictures."""

import pytest
import torch

from mvtrack.geometry.camera import Camera, intrinsics_from_fov, project
from mvtrack.inference.camera_estimation.matches import PairMatches

SIZE = (120, 160)


@pytest.fixture
def exact_matches():
    """Matches between all frames of cameras (T,) of points that lie in front of them; with some matches spoilt."""

    def make(c2w: torch.Tensor, fov: float = 55.0, spoilt: float = 0.0, points: int = 61) -> PairMatches:
        g = torch.Generator().manual_seed(5)
        frames = len(c2w)
        K = intrinsics_from_fov(fov, SIZE).double()
        camera = Camera(c2w.double(), K.expand(frames, 3, 3), SIZE)
        world = torch.rand(points, 3, generator=g, dtype=torch.float64) * 2 - 1
        world = world * torch.tensor([2.5, 1.5, 2.0]) + torch.tensor([0.0, 0.0, 6.0])
        xy, _ = project(world, camera)
        pairs = [(i, j) for i in range(frames) for j in range(i + 1, frames)]
        first, second = (torch.tensor(ends) for ends in zip(*pairs, strict=True))
        of_pair = torch.arange(len(pairs)).repeat_interleave(points)
        to = xy[second].flatten(0, 1)
        wrong = torch.rand(len(to), generator=g) < spoilt
        to[wrong] += 20 * torch.randn(int(wrong.sum()), 2, generator=g, dtype=torch.float64)
        return PairMatches(first, second, of_pair, xy[first].flatten(0, 1), to)

    return make
