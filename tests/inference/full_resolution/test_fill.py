import numpy as np
import pytest
import torch

from mvtrack.inference.full_resolution.compose import Mixture, mixed
from mvtrack.inference.full_resolution.fill import push_pull, softly_filled

H, W = 22, 34


def test_push_pull_keeps_what_is_known_and_spreads_it():
    values = np.random.default_rng(0).standard_normal((H, W, 3)).astype(np.float32)
    known = np.zeros((H, W, 1), np.float32)
    known[:, :11] = 1
    out = push_pull(np.where(known > 0, values, 99.0), known)
    np.testing.assert_allclose(out[:, :11], values[:, :11], atol=1e-5)
    assert np.abs(out).max() <= np.abs(values).max() + 1e-5  # what is not known has no part in it
    constant = push_pull(np.full((H, W, 3), 0.3, np.float32), known)
    np.testing.assert_allclose(constant, 0.3, atol=1e-5)
    np.testing.assert_array_equal(push_pull(values, np.zeros_like(known)), 0)


@pytest.mark.parametrize("cast", [-0.2, 0.3])
def test_half_of_a_colour_cast_is_taken_off_and_what_is_seen_stays(cast):
    """A generated picture that is right but for its colour: the source shows the left, and nothing the right."""
    truth = torch.linspace(-0.5, 0.5, W).expand(3, H, W)
    generated = truth[:, ::2, ::2] + cast
    weights = torch.zeros(3, H, W)
    weights[0, :, : W // 2], weights[2, :, W // 2 :] = 1, 1
    before = Mixture(weights, torch.zeros(3, H, W), truth.expand(2, 3, H, W), weights[:2])
    after = mixed(softly_filled(before, generated), generated)
    torch.testing.assert_close(after[:, :, : W // 2], truth[:, :, : W // 2])
    inner = (slice(None), slice(4, -4), slice(W // 2 + 2, -9))
    error = (after - truth)[inner] / cast
    assert 0.4 < error.mean() < 0.65
    assert (mixed(before, generated) - truth)[inner].mean() / cast == pytest.approx(1, abs=0.1)
