"""The lens: forward by hand, and back."""

import pytest
import torch

from mvtrack.geometry.pose_files import Distortion
from mvtrack.geometry.pose_files.distortion import distort, distort_pixels, undistort, undistort_pixels

N, T = 7, 5
LENS = Distortion(torch.tensor([-0.2, 0.05, 0.003, -0.004, 0.01], dtype=torch.float64))


def test_one_point_by_hand():
    # r2 = 0.25; radial = 1 + 0.25 k1 + 0.0625 k2 + 0.015625 k3; x' = x radial + 2 p1 x y + p2 (r2 + 2 x2)
    xy = torch.tensor([[0.3, 0.4]], dtype=torch.float64)
    radial = 1 - 0.05 + 0.003125 + 0.00015625
    x = 0.3 * radial + 2 * 0.003 * 0.12 - 0.004 * (0.25 + 0.18)
    y = 0.4 * radial + 0.003 * (0.25 + 0.32) + 2 * -0.004 * 0.12
    assert distort(xy, LENS)[0].tolist() == pytest.approx([x, y], abs=1e-15)


def test_undistort_inverts_distort(generator):
    xy = (torch.rand(T, N, 2, generator=generator, dtype=torch.float64) - 0.5) * 1.6
    for lens in (LENS, Distortion(LENS.coefficients * torch.linspace(0, 1, T).double()[:, None])):
        back, found = undistort(distort(xy, lens), lens)
        assert found.all()
        torch.testing.assert_close(back, xy, atol=1e-12, rtol=0)


def test_pixels_follow_their_frames_lens(generator):
    K = torch.tensor([[53.0, 0.4, 31], [0, 51, 23], [0, 0, 1]], dtype=torch.float64).repeat(T, 1, 1)
    lens = Distortion(LENS.coefficients * torch.arange(T).double()[:, None])
    xy = torch.rand(T, N, 2, generator=generator, dtype=torch.float64) * torch.tensor([62.0, 46.0])
    moved = distort_pixels(xy, K, lens)
    torch.testing.assert_close(moved[0], xy[0])
    assert (moved[4] - xy[4]).abs().max() > 0.5
    back, found = undistort_pixels(moved, K, lens)
    torch.testing.assert_close(back[found], xy[found], atol=1e-9, rtol=0)
    assert found[:2].all()


def test_points_beyond_the_fold_are_said_to_have_no_ideal_point():
    strong = Distortion(torch.tensor([-1.0, 0, 0, 0, 0], dtype=torch.float64))  # r (1 - r2) is at most 0.385
    xy, found = undistort(torch.tensor([[0.2, 0.0], [0.6, 0.0]], dtype=torch.float64), strong)
    assert found.tolist() == [True, False]
    assert xy[1].isnan().all()
