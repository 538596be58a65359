import numpy as np
import pytest
import torch

from mvtrack.video.reader import open_video
from mvtrack.video.writer import VideoWriter, from_bytes, to_bytes, write_video

T, H, W = 7, 46, 62


def moving_square() -> torch.Tensor:
    video = -torch.ones(T, 3, H, W)
    for t in range(T):
        video[t, 0, 10:26, 4 + 6 * t : 20 + 6 * t] = 1
    return video


def test_round_trip_keeps_length_rate_size_and_picture(tmp_path):
    footage = open_video(write_video(tmp_path / "a b ü.mp4", moving_square(), fps=12.0))
    assert (len(footage), footage.size) == (T, (H, W))
    assert footage.fps == pytest.approx(12.0)
    assert footage.notes == []
    assert (from_bytes(footage.read(0, T)) - moving_square()).abs().mean() < 0.06


def test_odd_sizes_are_padded_not_refused(tmp_path):
    path = write_video(tmp_path / "odd.mp4", moving_square()[..., :45, :61], fps=24.0)
    assert open_video(path).size == (46, 62)


def test_bytes_round_trip(generator):
    video = torch.randint(0, 256, (T, 3, H, W), generator=generator).to(torch.uint8)
    assert np.array_equal(to_bytes(from_bytes(video)), video.permute(0, 2, 3, 1).numpy())


def test_a_failed_write_leaves_nothing(tmp_path):
    def frames():
        yield np.zeros((H, W, 3), np.uint8)
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        write_video(tmp_path / "x.mp4", frames(), fps=10.0)
    assert list(tmp_path.iterdir()) == []


def test_an_older_file_survives_a_failed_write(tmp_path):
    path = write_video(tmp_path / "x.mp4", moving_square(), fps=10.0)
    before = path.read_bytes()
    writer = VideoWriter(path, 10.0)
    writer.__enter__()
    writer.append(np.zeros((H, W, 3), np.uint8))
    writer.__exit__(RuntimeError, RuntimeError(), None)
    assert path.read_bytes() == before


def test_impossible_rates_are_refused(tmp_path):
    with pytest.raises(ValueError, match="at 0 frames per second"):
        VideoWriter(tmp_path / "x.mp4", 0)


def test_lossless_keeps_every_value_at_any_size(tmp_path, generator):
    noise = torch.randint(0, 256, (T, 3, 13, 17), generator=generator, dtype=torch.uint8)
    path = write_video(tmp_path / "exact.mp4", from_bytes(noise), fps=24.0, lossless=True)
    assert torch.equal(open_video(path).read(0, T), noise)
