import pytest
import torch
import torch.nn.functional as F

from mvtrack.models.decoder.depth_noise import AMPLITUDES, disturbed

V, T, H, W = 2, 5, 46, 62


def seeded(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def depth(generator):
    return 5 + torch.rand(V, T, H, W, generator=generator)


def test_noise_depends_on_the_generator_alone(depth):
    before = depth.clone()
    first = disturbed(depth, 5.3, seeded())
    assert torch.equal(first, disturbed(depth, 5.3, seeded()))
    assert torch.equal(depth, before), "the input stays as it was"
    assert not torch.equal(first, disturbed(depth, 5.3, seeded(4)))
    assert disturbed(depth.double(), 5.3, seeded()).dtype == torch.float64
    for shape in ((H, W), (T, H, W), (V, 3, T, H, W)):
        assert disturbed(torch.full(shape, 5.0), 5.0, seeded()).shape == shape
    with pytest.raises(ValueError, match="zip"):  # an amplitude for each side
        disturbed(depth, 1.0, seeded(), (32, 64), (0.1,))


def test_noise_has_no_mean_and_differs_from_frame_to_frame(depth):
    off = (disturbed(depth.repeat(1, 8, 1, 1), 5.3, seeded()) - depth.repeat(1, 8, 1, 1)).flatten(0, 1).flatten(1)
    assert off.mean().abs() < 0.03 * 5.3 * 0.1
    assert 0.4 < (off > 0).float().mean() < 0.6
    few = off[:: len(off) // 10]
    assert (torch.corrcoef(few) - torch.eye(len(few))).abs().max() < 0.5


def test_noise_stays_within_sum_of_amplitudes(depth):
    off = (disturbed(depth, 5.3, seeded()) - depth).abs()
    bound = 5.3 * sum(AMPLITUDES)
    assert bound / 2 < off.max() <= bound
    assert sum(AMPLITUDES) == pytest.approx(0.1 * 13 / 9)


def test_noise_survives_pooling():
    """What coarse levels are given. Independent noise of single pixels averages out there."""

    def left(noise):
        return noise.std().item(), F.avg_pool2d(noise, 8).std().item()

    depth = torch.full((23, 256, 256), 3.0)
    full, pooled = left(disturbed(depth, 1.0, seeded()) - depth)
    assert full == pytest.approx(0.041, abs=0.003)
    assert pooled == pytest.approx(0.036, abs=0.003)
    independent, independent_pooled = left((torch.rand(depth.shape, generator=seeded()) * 2 - 1) * 0.1)
    assert pooled / full > 6 * independent_pooled / independent


def test_noisy_depth_keeps_a_tenth(generator):
    depth = 0.01 + 0.09 * torch.rand(T, H, W, generator=generator)
    noisy = disturbed(depth, 1.0, seeded())
    assert (noisy >= 0.1 * depth).all()
    kept = noisy == 0.1 * depth
    assert 0.05 < kept.float().mean() < 0.95


def test_noise_scales_with_median_depth(depth):
    one, more = (disturbed(depth, median, seeded()) - depth for median in (1.1, 3.3))
    torch.testing.assert_close(more, 3 * one, atol=1e-5, rtol=0)
    assert one.abs().max() > 0.05


@pytest.mark.parametrize(("side", "cells"), [(32, (4, 16)), (64, (8, 32)), (16, (2, 8)), (8, (2, 4)), (1, (2, 2))])
def test_noise_cells_have_their_size_in_pixels(side, cells):
    """Between the centres of cells, noise is straight: it bends in the two pixels beside each of them."""
    noise = (disturbed(torch.full((1, 32, 128), 2.0).double(), 1.0, seeded(), (side,), (0.3,)) - 2)[0]
    for line, count in ((noise.sum(1), cells[0]), (noise.sum(0), cells[1])):
        assert (line.diff(n=2).abs() > 1e-4).sum() == 2 * count
