"""Matches between views: shifted copies have nearly all, others hardly any, blur and misalignment cost some."""

import torch

from mvtrack.geometry.camera import pixel_grid
from mvtrack.metrics.image import gaussian_blur
from mvtrack.metrics.view_matches import count_matches, count_true, matched_points


def texture(seed: int, size: int = 53) -> torch.Tensor:
    noise = torch.rand(3, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return gaussian_blur(noise, 1.0) * 3


def test_shifted_picture_matches_and_another_does_not():
    one = texture(1)
    shifted = one.roll((2, 4), (1, 2))
    alike, unlike = count_matches(one, shifted), count_matches(one, texture(2))
    assert alike > 0.7 * count_matches(one, one) > 100
    assert unlike < 0.2 * alike
    assert count_matches(one, shifted) == count_matches(shifted, one)


def test_noise_costs_matches():
    one = texture(3)
    noisy = [one + scale * texture(4) for scale in (0.2, 0.6, 2.0)]
    counts = [count_matches(one, other) for other in noisy]
    assert counts == sorted(counts, reverse=True)
    assert counts[-1] < 0.3 * counts[0]


def test_flat_pictures_have_none():
    assert count_matches(torch.ones(3, 53, 53), texture(5)) == 0
    assert count_matches(torch.ones(3, 31, 37), torch.ones(3, 31, 37)) == 0


def test_true_matches_follow_geometry():
    """All of a shifted copy by its own shift, none by another one; none where the second picture shows them no more."""
    one = texture(1)
    there, found = matched_points(one, one.roll((2, 4), (1, 2)))
    assert len(there) == count_matches(one, one.roll((2, 4), (1, 2)))
    seen, own = torch.ones(53, 53, dtype=torch.bool), pixel_grid((53, 53))
    true = count_true(there, found, own + torch.tensor([4.0, 2.0]), seen)
    assert true > 0.9 * len(there)
    assert count_true(there, found, own - torch.tensor([4.0, 2.0]), seen) < 0.1 * true
    assert count_true(there, found, own + torch.tensor([4.0, 2.0]), ~seen) == 0
