import pytest
import torch

from mvtrack.inference.tracking.windows import Windows, aligned_windows, without_padding


def test_windows_share_anchors_and_cover_the_video():
    windows = aligned_windows(81, 17)
    assert windows.spans[0] == (0, 17)
    assert windows.spans[-1] == (64, 81)
    assert all(b[0] < a[1] for a, b in zip(windows.spans, windows.spans[1:], strict=False))
    assert windows.all_anchors() == list(range(0, 81, 4))
    assert aligned_windows(81, 81).spans == ((0, 81),)
    assert aligned_windows(200, 81).spans == ((0, 81), (60, 141), (119, 200))


def test_an_anchor_belongs_where_it_is_most_central():
    windows = Windows(((0, 17), (12, 29)))
    assert windows.central_window(12) == (0, 3)
    assert windows.central_window(16) == (1, 1)
    assert windows.central_window(28) == (1, 4)
    with pytest.raises(ValueError, match="frame 13 is not an anchor"):
        windows.central_window(13)


def test_a_short_video_is_padded_to_its_last_frame():
    windows = aligned_windows(7, 17)
    assert windows.spans == ((0, 7),)
    assert windows.anchors(0).tolist() == [0, 4, 6]
    assert windows.central_window(6) == (0, 2)


def test_windows_that_leave_a_gap_are_refused():
    with pytest.raises(ValueError, match="must share at least one frame"):
        Windows(((0, 5), (5, 10)))


@pytest.mark.parametrize("frames", [1, 2, 3, 5, 6, 7, 8, 9])
def test_padding_is_undone_in_time(frames):
    """A point that moves evenly through the real frames and rests in the padded ones comes out as it moved."""
    real = torch.arange(frames, dtype=torch.float32)
    length = -(-(frames - 1) // 4) * 4 + 1
    padded = real[torch.arange(length).clamp_max(frames - 1)]
    anchors = padded[::4]
    rate = torch.arange(length) / 4
    left = rate.floor().long().clamp_max(max(0, len(anchors) - 2))
    right = (left + 1).clamp_max(len(anchors) - 1)
    interpolated = anchors[left] + (rate - left) * (anchors[right] - anchors[left])
    values = interpolated[None, :, None, None].expand(2, -1, 3, 2)
    got = without_padding(values, frames)
    assert got.shape == (2, frames, 3, 2)
    torch.testing.assert_close(got[0, :, 0, 0], real)
