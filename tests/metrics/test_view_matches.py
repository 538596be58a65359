"""Matches between views: shifted copies have nearly all, others hardly any, blur and misalignment cost some."""

import numpy as np
import torch

from mvtrack.geometry.camera import pixel_grid
from mvtrack.metrics.image import gaussian_blur
from mvtrack.metrics.view_matches import count_matches, count_true, matched_points, pixel_matches


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


def test_matches_to_the_pixel_know_odd_shifts_too():
    """On a grid of every second pixel a shift by an odd number of them lies between points, and few stand out."""
    one, seen = texture(1), torch.ones(53, 53, dtype=torch.bool)
    counts = {}
    for shift in (2, 3):
        place = pixel_grid((53, 53)) + torch.tensor([float(shift), 0.0])
        for name, match in (("grid", matched_points), ("pixel", pixel_matches)):
            there, found = match(one, one.roll(shift, 2))
            counts[name, shift] = count_true(there, found, place, seen, 0.5)
    assert counts["pixel", 3] > 0.9 * counts["pixel", 2] > 300
    assert counts["grid", 3] < 0.2 * counts["grid", 2]
    assert len(pixel_matches(one, texture(2))[0]) < 0.3 * counts["pixel", 2]
    assert len(pixel_matches(torch.ones(3, 53, 53), one)[0]) == 0


def test_truth_is_taken_where_a_match_is_and_within_what_is_asked():
    """Of places between pixel centres the truth moves along; a match 1.5 px off is near it, not right to the pixel."""
    place, seen = pixel_grid((11, 13)) + torch.tensor([3.0, 1.0]), torch.ones(11, 13, dtype=torch.bool)
    there = np.array([[4.9, 6.1], [7.5, 2.5], [1.2, 8.5]])
    assert count_true(there, there + [3.0, 1.0], place, seen, 1e-5) == 3
    off = there + [[4.5, 1.0], [3.0, 1.9], [5.1, 1.0]]
    assert [count_true(there, off, place, seen, px) for px in (2.0, 1.0)] == [2, 1]
