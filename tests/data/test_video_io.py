import numpy as np
import pytest
import torch

from mvtrack.data.video_io import from_bytes, probe, read_video, to_bytes, write_video

T, H, W = 7, 46, 62


def moving_square() -> torch.Tensor:
    video = -torch.ones(T, 3, H, W)
    for t in range(T):
        video[t, 0, 10:26, 4 + 6 * t : 20 + 6 * t] = 1
    return video


@pytest.fixture
def file(tmp_path):
    return write_video(tmp_path / "a b ü.mp4", moving_square(), fps=12.0)


def test_round_trip_keeps_length_rate_size_and_picture(file):
    info = probe(file)
    assert (info.num_frames, info.size) == (T, (H, W))
    assert info.fps == pytest.approx(12.0)
    video, fps = read_video(file)
    assert fps == pytest.approx(12.0)
    assert (from_bytes(video) - moving_square()).abs().mean() < 0.06


def test_reading_a_range_and_a_size(file):
    part, _ = read_video(file, size=(23, 31), frames=range(2, 5))
    assert part.shape == (3, 3, 23, 31)
    lit = (from_bytes(part)[0, 0, 8] > 0).nonzero().float().mean().item() + 0.5
    assert lit == pytest.approx((16 + 32) / 2 / 2, abs=0.6)  # frame 2's square, at half the size
    with pytest.raises(ValueError, match="has 7 frames"):
        read_video(file, frames=range(4, 9))


def test_odd_sizes_are_padded_not_refused(tmp_path):
    path = write_video(tmp_path / "odd.mp4", moving_square()[..., :45, :61], fps=24.0)
    assert probe(path).size == (46, 62)


def test_bytes_round_trip(generator):
    video = torch.randint(0, 256, (T, 3, H, W), generator=generator).to(torch.uint8)
    assert np.array_equal(to_bytes(from_bytes(video)), video.permute(0, 2, 3, 1).numpy())


@pytest.mark.parametrize("kind", ["missing", "empty", "text", "truncated", "folder", "audio"])
def test_bad_files_are_named(tmp_path, file, kind):
    path = tmp_path / f"{kind}.mp4"
    if kind == "empty":
        path.touch()
    elif kind == "text":
        path.write_text("not a video at all\n" * 50)
    elif kind == "truncated":
        path.write_bytes(file.read_bytes()[:900])
    elif kind == "folder":
        path.mkdir()
    elif kind == "audio":
        import wave

        path = tmp_path / "audio.wav"
        with wave.open(str(path), "wb") as sound:
            sound.setparams((1, 2, 8000, 0, "NONE", ""))
            sound.writeframes(bytes(16000))
    with pytest.raises(ValueError, match=path.name):
        read_video(path)


def test_a_failed_write_leaves_nothing(tmp_path):
    def frames():
        yield np.zeros((H, W, 3), np.uint8)
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        write_video(tmp_path / "x.mp4", frames(), fps=10.0)
    assert list(tmp_path.iterdir()) == []
