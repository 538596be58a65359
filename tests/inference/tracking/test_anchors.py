"""Queries between anchors: carried along with what they lie on."""

import numpy as np
import pytest
import torch

from mvtrack.inference.tracking.anchors import move_to_anchors
from mvtrack.video.video import Video

T, H, W = 9, 60, 80
SPEED = torch.tensor([1.5, -1.0])
EVERYWHERE = (0.0, 0.0, float(W), float(H))


class Sliding(Video):
    """A smooth random texture that slides evenly; from frame `cut` on it is another one."""

    cut = T
    contrast = 40.0  # of 255

    def _read_own(self, index, size):
        assert size == self.size
        frames = []
        for t in index.tolist():
            texture = torch.randn(1, 3, 20, 26, generator=torch.Generator().manual_seed(int(t >= self.cut)))
            y, x = torch.meshgrid(torch.arange(H) + 0.5, torch.arange(W) + 0.5, indexing="ij")
            at = torch.stack([x, y], -1) - t * SPEED
            grid = 2 * (at + 12) / torch.tensor([W + 24.0, H + 24.0]) - 1
            picture = torch.nn.functional.grid_sample(texture, grid[None], mode="bicubic", align_corners=False)[0]
            frames.append((picture * self.contrast + 128).clamp(0, 255).to(torch.uint8))
        return torch.stack(frames).permute(0, 2, 3, 1).numpy()


@pytest.fixture
def footage(tmp_path) -> Sliding:
    return Sliding(tmp_path / "x", 24.0, (H, W), np.arange(T), T)


def test_points_move_with_the_picture_to_the_nearest_anchor(footage):
    txy = torch.tensor([[0.0, 40.0, 30.0], [1.0, 40.0, 30.0], [2.0, 30.0, 25.0], [3.0, 50.0, 35.0]])
    moved = move_to_anchors(footage, txy, [0, 4, 8], EVERYWHERE)
    assert moved.frame.tolist() == [0, 0, 0, 4]
    assert moved.shift.tolist() == [0, -1, -2, 1]
    assert not moved.kept.any()
    expected = txy[:, 1:] + moved.shift[:, None] * SPEED
    torch.testing.assert_close(moved.xy, expected, atol=0.15, rtol=0)
    assert torch.equal(moved.xy[0], txy[0, 1:])  # at an anchor: untouched


def test_an_anchor_at_which_the_point_is_gone_is_passed_over(footage):
    """At frame 2 both anchors are two frames away; what is seen at 2 is gone at 0, so 4 is taken."""
    footage.cut = 1
    txy = torch.tensor([[2.0, 40.0, 30.0], [2.0, 30.0, 25.0]])
    moved = move_to_anchors(footage, txy, [0, 4, 8], EVERYWHERE)
    assert moved.frame.tolist() == [4, 4]
    torch.testing.assert_close(moved.xy, txy[:, 1:] + 2 * SPEED, atol=0.15, rtol=0)


def test_a_surface_of_a_few_grey_levels_is_followed(footage):
    """At OpenCV's default threshold these points are given up, though flow carries them well."""
    footage.contrast = 1.5
    txy = torch.tensor([[1.0, 40.0, 30.0], [2.0, 30.0, 25.0], [3.0, 50.0, 35.0]])
    moved = move_to_anchors(footage, txy, [0, 4, 8], EVERYWHERE)
    assert not moved.kept.any()
    torch.testing.assert_close(moved.xy, txy[:, 1:] + moved.shift[:, None] * SPEED, atol=0.15, rtol=0)


def test_a_point_that_cannot_be_followed_keeps_its_place(footage):
    footage.cut = 3
    moved = move_to_anchors(footage, torch.tensor([[3.0, 79.0, 1.0]]), [0, 4], (0.0, 10.0, float(W), float(H)))
    assert moved.frame.tolist() == [4]
    assert moved.kept.tolist() == [True]
    assert moved.xy.tolist() == [[79.0, 1.0]]
    assert moved.shift.tolist() == [1]


def test_what_the_way_back_does_not_confirm_is_carried_all_the_same(footage, monkeypatch):
    monkeypatch.setattr("mvtrack.inference.tracking.anchors._ROUND_TRIP", -1.0)
    txy = torch.tensor([[3.0, 50.0, 35.0], [1.0, 40.0, 30.0]])
    moved = move_to_anchors(footage, txy, [0, 4], EVERYWHERE)
    assert moved.kept.all()
    assert moved.frame.tolist() == [4, 0]
    torch.testing.assert_close(moved.xy, txy[:, 1:] + moved.shift[:, None] * SPEED, atol=0.15, rtol=0)


def test_frames_without_an_anchor_nearby_are_an_error(footage):
    with pytest.raises(ValueError, match="no anchor within 3 frames of frame 8"):
        move_to_anchors(footage, torch.tensor([[8.0, 5.0, 5.0]]), [0, 4], EVERYWHERE)
