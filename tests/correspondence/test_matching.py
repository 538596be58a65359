"""Matching points by attention, against maps whose answer is known."""

import math

import pytest
import torch

from mvtrack.correspondence.matching import match_frame, sample_around, sample_tokens

H, W, PX = 7, 11, 4


def smooth_maps(shift_px: tuple[float, float], heads: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys of two frames in which a place is known by its position; the second frame's content is moved by shift_px."""
    y, x = torch.meshgrid((torch.arange(H) + 0.5) * PX, (torch.arange(W) + 0.5) * PX, indexing="ij")

    def encode(x, y):
        angle = [x / s for s in (9.0, 17.0)] + [y / s for s in (9.0, 17.0)]
        code = torch.stack([f(a) for a in angle for f in (torch.sin, torch.cos)], -1)
        return 6 * torch.stack([code, code.roll(1, -1)], -2)[..., :heads, :]

    return encode(x, y), encode(x - shift_px[0], y - shift_px[1])


def test_samples_between_tokens_are_bilinear():
    tokens = torch.arange(H * W * 2.0).view(H, W, 1, 2)
    xy = torch.tensor([[6.0, 10.0], [8.0, 12.0], [0.5, 0.5]])
    got = sample_tokens(tokens, xy, PX)[:, 0]
    torch.testing.assert_close(got[0], tokens[2, 1, 0])  # a centre
    torch.testing.assert_close(got[1], tokens[2:4, 1:3, 0].mean((0, 1)))  # a corner of four
    torch.testing.assert_close(got[2], tokens[0, 0, 0])  # the border repeats


@pytest.mark.parametrize("shift", [(0.0, 0.0), (4.0, -4.0), (2.7, 1.3)])
def test_matches_follow_content(shift):
    home, there = smooth_maps(shift)
    xy = torch.tensor([[19.0, 14.0], [22.3, 11.9], [25.1, 15.6]])
    found = match_frame(sample_around(home, xy, PX), home, xy, there, there, PX)
    error = (found.xy - xy - torch.tensor(shift)).norm(dim=-1)
    assert error.max() < 0.15 * PX
    assert found.cycle_px.max() < 0.3 * PX
    assert (found.confidence > 0.2).all()
    assert (found.confidence <= 1).all()


def test_match_rows_equal_obvious_softmax(generator, monkeypatch):
    """The nearest token of the match is the argmax of the mean over heads of the softmax, in blocks of few rows too."""
    monkeypatch.setattr("mvtrack.correspondence.probe._BLOCK", 3 * 2 * H * W)
    home, q, k = torch.randn(3, H, W, 2, 5, generator=generator).unbind(0)
    xy = torch.rand(13, 2, generator=generator) * torch.tensor([W * PX, H * PX])
    query = sample_around(home, xy, PX)
    found = match_frame(query, home, xy, q, k, PX)
    corners = PX / 4 * torch.tensor([[-1.0, -1.0], [1.0, -1.0], [-1.0, 1.0], [1.0, 1.0]])
    torch.testing.assert_close(query[:, 2], sample_tokens(home, xy + corners[2], PX))
    rows = torch.einsum("nshd,chd->nshc", query, k.flatten(0, 1)).div(math.sqrt(5)).softmax(-1).mean(2)
    best = rows.argmax(-1)
    centre = (torch.stack([best % W, best // W], -1) + 0.5) * PX - corners
    # each peak lies at most half a token from its token's centre, and half of the miss is taken off
    distance = (found.xy - centre.mean(1)).abs().max(-1).values
    assert (distance <= PX / 2 + found.cycle_px / 2 + 1e-4).all()
    assert found.xy.isfinite().all()


def test_missing_point_fails_cycle(generator):
    home, _ = smooth_maps((0.0, 0.0))
    noise = 3 * torch.randn(H, W, 2, 8, generator=generator)
    xy = torch.tensor([[19.0, 14.0], [9.0, 9.0], [35.0, 20.0], [30.0, 6.0]])
    found = match_frame(sample_around(home, xy, PX), home, xy, noise, noise, PX)
    assert found.cycle_px.median() > 2 * PX


def test_no_points_give_no_matches():
    home, _ = smooth_maps((0.0, 0.0))
    found = match_frame(home.new_zeros(0, 4, 2, 8), home, torch.zeros(0, 2), home, home, PX)
    assert found.xy.shape == (0, 2)
    assert found.confidence.shape == (0,)
