"""Estimated depth made smooth within surfaces, and how strongly it is."""

import numpy as np
import pytest
import torch

from mvtrack.geometry.camera import Camera
from mvtrack.inference.full_resolution import piecewise_smooth as module
from mvtrack.inference.full_resolution.geometry import FileGeometry, LearnedGeometry, Moments
from mvtrack.inference.full_resolution.piecewise_smooth import piecewise_smooth
from mvtrack.metrics.image import gaussian_blur
from mvtrack.models.refiner.cost_volume import ViewPair

H, W = 37, 53


@pytest.fixture
def scene():
    """Two surfaces of one colour each, side by side, noisy depth that is little trusted, and a patch that is wrong."""
    generator = torch.Generator().manual_seed(1)
    picture = torch.full((3, H, W), -0.5)
    picture[:, :, 23:] = 0.5
    truth = torch.full((H, W), 0.5)
    truth[:, 23:] = 1.2
    depth = truth + 0.05 * torch.randn(H, W, generator=generator)
    depth[11:18, 5:12] = 1.1
    return picture, truth, torch.stack([depth, torch.full((H, W), 0.5)])


def test_surfaces_become_smooth_and_their_steps_stay(scene):
    picture, truth, maps = scene
    smooth = piecewise_smooth(maps, picture, 20.0)
    assert (smooth[0] - truth).abs().max() < 0.1
    for side in (slice(0, 23), slice(23, W)):
        assert smooth[0, :, side].std() < 0.2 * maps[0, :, side].std()
    assert smooth[0, 11:18, 5:12].mean() < 0.6
    assert (smooth[0, :, 24] - smooth[0, :, 22]).min() > 0.55
    assert torch.equal(smooth[1], maps[1])
    assert torch.equal(piecewise_smooth(maps, picture, 0.0), maps)


def test_what_is_trusted_stays(scene):
    picture, _, maps = scene
    before = piecewise_smooth(maps, picture, 2.0)[0, 11:18, 5:12].mean()
    maps[1, 11:18, 5:12] = 1.0
    assert piecewise_smooth(maps, picture, 2.0)[0, 11:18, 5:12].mean() > before + 0.1


def test_turned_maps_give_the_turned_result(scene):
    """Mirroring commutes; so do rows and columns, but for their order in a pass."""
    picture, _, maps = scene
    straight = piecewise_smooth(maps, picture, 5.0)
    mirrored = piecewise_smooth(maps.flip(-1), picture.flip(-1), 5.0).flip(-1)
    torch.testing.assert_close(straight, mirrored, atol=1e-6, rtol=0)
    turned = piecewise_smooth(maps.mT, picture.mT, 5.0).mT
    assert (straight - turned).abs().mean() < 0.01


def test_rows_are_solved_exactly():
    generator = np.random.default_rng(2)
    maps, coupling = generator.normal(size=(2, 3, 7)), generator.uniform(0, 40, (3, 6))
    solved = module._diffused(maps, coupling)
    for row in range(3):
        difference = np.diff(np.eye(7), axis=0)
        system = np.eye(7) + difference.T @ np.diag(coupling[row]) @ difference
        np.testing.assert_allclose(solved[:, row], np.linalg.solve(system, maps[:, row].T).T, atol=1e-12)


def test_the_less_there_is_to_match_the_more_is_smoothed(refiner):
    generator = torch.Generator().manual_seed(3)
    source = torch.rand(3, 3, H, W, generator=generator) * 2 - 1
    still = Camera(torch.eye(4).expand(2, 3, 4, 4).clone(), torch.eye(3).expand(2, 3, 3, 3), (H, W))
    learned = LearnedGeometry(refiner.depth, motion_known=False)

    def moments(result: torch.Tensor | None, camera: Camera = still) -> Moments:
        return Moments(ViewPair(source, result, camera), source, camera, range(3))

    def strength(*given) -> float:
        return learned.smoothing(moments(*given), 1)

    sharp, soft, softer = (strength(x) for x in (source, gaussian_blur(source, 0.5), gaussian_blur(source, 2.0)))
    assert 1 < sharp < soft < softer == 100
    assert strength(None) == 8  # from one picture, which is smooth by itself
    moved = still.c2w.clone()
    moved[0, 2, 0, 3] = 0.1  # of the source, so that it shows depth by itself
    assert strength(gaussian_blur(source, 2.0), Camera(moved, still.K, (H, W))) == 1
    assert FileGeometry(lambda t: torch.ones(H, W), 1.0, "a file").smoothing(moments(source), 0) == 0
