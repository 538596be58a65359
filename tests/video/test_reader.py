"""Everything that moves can be read, in pieces, and what cannot says why."""

import subprocess
import sys
import time
import wave
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from mvtrack.video import reader
from mvtrack.video.decode import Decoder
from mvtrack.video.images import AnimatedImage
from mvtrack.video.reader import AvVideo, DecordVideo, ffmpeg, open_video
from mvtrack.video.sound import copy_audio
from mvtrack.video.ticks import even_ticks
from mvtrack.video.writer import write_video

T, H, W = 11, 46, 62


def numbered_video(count: int = T) -> torch.Tensor:
    """Frame t is grey of level 20 t / count, with a bright bar on the left that tells orientation."""
    video = -torch.ones(count, 3, H, W) + 1.6 * torch.arange(count).view(-1, 1, 1, 1) / count
    video[..., :10] = 1
    return video


def levels(frames: torch.Tensor) -> list[float]:
    """Mean level of each frame's right half, in units of frames."""
    return (frames[..., frames.shape[-1] // 2 :].float().mean((1, 2, 3)) / 127.5 / 1.6 * T).tolist()


def run_ffmpeg(*arguments) -> None:
    subprocess.run([ffmpeg(), "-y", "-loglevel", "error", *map(str, arguments)], check=True, capture_output=True)


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Path:
    return write_video(tmp_path_factory.mktemp("plain") / "plain.mp4", numbered_video(), fps=10.0)


SUFFIX = {"alpha": "webm", "gif": "gif", "avi": "avi"}


def convert(plain: Path, kind: str) -> Path:
    out = plain.with_name(f"{kind}.{SUFFIX.get(kind, 'mp4')}")
    options = {
        "ten_bit": ["-c:v", "libx264", "-pix_fmt", "yuv420p10le"],
        "av1": ["-c:v", "libaom-av1", "-cpu-used", "8"],
        "alpha": ["-c:v", "libvpx-vp9", "-pix_fmt", "yuva420p"],
        "gif": [],
        "avi": ["-c:v", "mjpeg", "-q:v", "2"],
    }
    if kind == "rotated":
        run_ffmpeg("-display_rotation", "90", "-i", plain, "-c", "copy", out)
    elif kind != "plain":
        run_ffmpeg("-i", plain, *options[kind], out)
    return out


READER = {"av1": AvVideo, "ten_bit": AvVideo, "alpha": AvVideo, "avi": AvVideo, "gif": AnimatedImage}


@pytest.mark.parametrize("kind", ["plain", "ten_bit", "av1", "alpha", "gif", "avi"])
def test_every_kind_of_video_reads_the_same_frames(plain, kind):
    footage = open_video(convert(plain, kind))
    assert (len(footage), footage.size) == (T, (H, W))
    assert footage.fps == pytest.approx(10.0, rel=1e-3)
    assert isinstance(footage, READER.get(kind, DecordVideo))
    np.testing.assert_allclose(levels(footage.read(0, T)), np.arange(T), atol=0.3)
    np.testing.assert_allclose(levels(footage.read(4, 7)), [4, 5, 6], atol=0.3)
    assert footage.read(2, 5, (23, 31)).shape == (3, 3, 23, 31)


def test_rotation_metadata_is_applied(plain):
    """Turned by 90 degrees the bar on the left comes to lie at the bottom."""
    footage = open_video(convert(plain, "rotated"))
    assert footage.size == (W, H)
    frame = footage.read(0, 1, (W // 2, H // 2))[0].float()
    assert frame[:, -4:].mean() > 200
    assert frame[:, :20].mean() < 60


@pytest.mark.parametrize("width", [8, 12, 16, 22, 24, 48, 72])
def test_narrow_videos_keep_their_values_and_can_be_made(plain, tmp_path, width):
    """Widths at which decord miscounts the channels of a padded row, as stored and as asked for."""
    video = torch.randint(0, 256, (5, 28, width, 3), generator=torch.Generator().manual_seed(width), dtype=torch.uint8)
    path = write_video(tmp_path / "narrow.mp4", video.numpy(), fps=10.0, lossless=True)
    assert torch.equal(open_video(path).read(0, 5), video.permute(0, 3, 1, 2))
    resized = open_video(plain).read(0, T, (28, width))
    assert resized.shape == (T, 3, 28, width)
    assert levels(resized) == pytest.approx(range(T), abs=0.3)


def test_windows_of_a_pipe_overlap_and_start_again(plain):
    footage = open_video(convert(plain, "av1"))
    for start, stop in ((0, 5), (3, 8), (7, T), (1, 3)):
        np.testing.assert_allclose(levels(footage.read(start, stop, (H, W))), np.arange(start, stop), atol=0.3)


def test_the_way_back_holds_few_frames_and_seldom_begins_again(plain, monkeypatch):
    begun, begin = [], Decoder._begin
    monkeypatch.setattr(reader, "_BACK", 3)
    monkeypatch.setattr(Decoder, "_begin", lambda self, index: (begun.append(index), begin(self, index)))
    footage = open_video(convert(plain, "av1"))
    for t in range(T - 1, -1, -1):
        np.testing.assert_allclose(levels(footage.read(t, t + 1, (H, W))), [t], atol=0.3)
        assert len(footage._kept) <= 3
    assert begun == [10, 7, 4, 1, 0]


def test_uneven_frame_times_become_even(tmp_path):
    """Frames 0-4 last 0.1 s each, 5-9 last 0.2 s: half of the second part's ticks repeat a frame."""
    for i in range(10):
        cv2.imwrite(str(tmp_path / f"{i}.png"), np.full((H, W, 3), 20 * i, np.uint8))
    entries = "".join(f"file {tmp_path}/{i}.png\nduration {0.1 if i < 5 else 0.2}\n" for i in range(10))
    (tmp_path / "list.txt").write_text(entries + f"file {tmp_path}/9.png\n")
    out = tmp_path / "uneven.mp4"
    run_ffmpeg(
        "-f", "concat", "-safe", "0", "-i", tmp_path / "list.txt", "-fps_mode", "vfr", "-pix_fmt", "yuv420p", out
    )
    footage = open_video(out)
    assert "uneven frame times" in footage.notes[0]
    duration = len(footage) / footage.fps
    assert duration == pytest.approx(1.5, abs=0.25)
    shown = (footage.read(0, len(footage)).float().mean((1, 2, 3)) / 20).round()
    at = lambda seconds: shown[min(int(seconds * footage.fps), len(shown) - 1)].item()  # noqa: E731
    for second, frame in ((0.05, 0), (0.25, 2), (0.45, 4), (0.8, 6), (1.25, 8)):
        assert at(second) == pytest.approx(frame, abs=1)


def test_even_ticks():
    even = even_ticks(np.arange(7) / 30 + 0.4, (30.0,))
    assert (even.fps, even.frame_of.tolist(), even.note) == (30.0, list(range(7)), None)
    assert even_ticks(np.arange(7) / 30 + 0.002, (30.0,)).note is None  # a little jitter is even
    assert even_ticks(np.round(np.arange(200) / 30, 3)).fps == 30.0  # so are times rounded to milliseconds
    uneven = even_ticks(np.array([0.0, 0.1, 0.2, 0.5, 0.6]))
    assert (uneven.fps, uneven.frame_of.tolist()) == (10.0, [0, 1, 2, 2, 2, 3, 4])


def test_a_pause_does_not_change_the_rate():
    times = np.arange(20) / 30
    times[10:] += 20 / 30
    ticks = even_ticks(times)
    assert ticks.fps == 30.0
    assert ticks.frame_of.tolist() == [*range(10), *[9] * 20, *range(10, 20)]


def test_times_rounded_to_milliseconds_keep_the_rate_beside_a_pause():
    """Matroska rounds: 16.67 ms are 16 or 17."""
    times = np.delete(np.arange(14), [6, 7]) / 60
    ticks = even_ticks(times.round(3), (60.0,), 0.016, resolution_s=0.001)
    assert ticks.fps == 60
    assert ticks.frame_of.tolist() == [0, 1, 2, 3, 4, 5, 5, 5, 6, 7, 8, 9, 10, 11]


def test_a_time_stamp_of_the_next_frame_is_no_pause_in_a_program_stream():
    times = np.arange(13) / 25 + (np.arange(13) >= 7) / 25
    assert len(even_ticks(times, (25.0,), 0.04).frame_of) == 14
    assert even_ticks(times, (25.0,), 0.04, stray=1.25).frame_of.tolist() == list(range(13))


def test_frames_shorter_than_a_tick_are_shown_where_others_leave_room():
    """Delays of 100, 20 and 20 ms: the grid is of 100 ms by the median of 5, and no frame is lost."""
    ticks = even_ticks(np.array([0.0, 0.2, 0.22, 0.42, 0.52]), (), 0.1)
    assert ticks.fps == 10.0
    assert ticks.frame_of.tolist() == [0, 0, 1, 2, 3, 4]


def test_broken_times_are_refused():
    with pytest.raises(ValueError, match=r"frame 1 stays for 1e\+06 s"):
        even_ticks(np.array([0.0, 0.1, 1e6, 1e6 + 0.1, 1e6 + 0.2]))


def test_image_folders_gifs_and_stills(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for i in (1, 2, 10):  # natural order, not alphabetical
        cv2.imwrite(str(folder / f"f{i}.png"), np.full((H, W, 3), 10 * i, np.uint8))
    footage = open_video(folder, fps=12.5)
    assert (len(footage), footage.fps, footage.size) == (3, 12.5, (H, W))
    assert footage.read(0, 3).float().mean((1, 2, 3)).tolist() == [10, 20, 100]
    still = open_video(folder / "f2.png", still_frames=5)
    assert still.read(0, 5, (23, 31)).float().mean().item() == 20
    assert still.notes == ["one image shown for 5 frames"]
    cv2.imwrite(str(folder / "f3.png"), np.zeros((H, W + 2, 3), np.uint8))
    with pytest.raises(ValueError, match="f3.png is 64x46, the first image is 62x46"):
        open_video(folder).read(0, 4)


def test_alpha_depth_and_grey_images(tmp_path):
    half = np.dstack([np.full((H, W, 3), 200, np.uint8), np.full((H, W, 1), 128, np.uint8)])
    cv2.imwrite(str(tmp_path / "alpha.png"), half)
    cv2.imwrite(str(tmp_path / "deep.png"), np.full((H, W), 257 * 77, np.uint16))
    blue = np.zeros((H, W, 3), np.uint8)
    blue[..., 0] = 250  # OpenCV writes BGR
    cv2.imwrite(str(tmp_path / "blue.png"), blue)
    assert open_video(tmp_path / "alpha.png").read(0, 1).unique().tolist() == [100]
    assert open_video(tmp_path / "deep.png").read(0, 1).unique().tolist() == [77]
    assert open_video(tmp_path / "blue.png").read(0, 1)[0, :, 0, 0].tolist() == [0, 0, 250]


def test_sound_is_carried_over(plain, tmp_path):
    with wave.open(str(tmp_path / "tone.wav"), "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes((np.sin(np.arange(16000) / 3) * 9000).astype("<i2").tobytes())
    run_ffmpeg("-i", plain, "-i", tmp_path / "tone.wav", "-c:v", "copy", "-c:a", "aac", tmp_path / "loud.mp4")
    assert copy_audio(plain, open_video(tmp_path / "loud.mp4"), tmp_path / "out.mp4") == "copied"
    assert len(open_video(tmp_path / "out.mp4")) == T
    probe = subprocess.run([ffmpeg(), "-hide_banner", "-i", str(tmp_path / "out.mp4")], capture_output=True, text=True)
    assert "Audio: aac" in probe.stderr
    assert copy_audio(plain, open_video(plain), tmp_path / "none.mp4") == "none: the input has no sound"
    assert not (tmp_path / "none.mp4").exists()


@pytest.mark.parametrize("kind", ["missing", "empty", "text", "cut", "binary", "audio", "no_images", "image", "fifo"])
def test_what_cannot_be_read_is_named(plain, tmp_path, kind):
    path = tmp_path / f"{kind} ü%d.mp4"
    whole = plain.read_bytes()
    if kind == "empty":
        path.touch()
    elif kind == "text":
        path.write_text("not a video at all\n" * 50)
    elif kind == "cut":
        path.write_bytes(whole[: len(whole) // 2])
    elif kind == "binary":
        path.write_bytes(np.random.default_rng(0).bytes(5000))
    elif kind == "audio":
        path = tmp_path / "audio.wav"
        with wave.open(str(path), "wb") as sound:
            sound.setparams((1, 2, 8000, 0, "NONE", ""))
            sound.writeframes(bytes(16000))
    elif kind == "no_images":
        path.mkdir()
    elif kind == "image":
        path = tmp_path / "broken.png"
        path.write_bytes(b"\x89PNG\r\n" + bytes(50))
    elif kind == "fifo":
        import os

        os.mkfifo(path)
    with pytest.raises(ValueError, match=r".") as caught:
        open_video(path).read(0, 1)
    assert path.name in str(caught.value)


def test_damaged_videos_are_refused_or_read_but_never_hang(plain, tmp_path):
    """40 files cut, patched or blanked at random: each gives frames of the right shape or one error that names it."""
    whole, rng, messages = plain.read_bytes(), np.random.default_rng(7), []
    for number in range(40):
        data = bytearray(whole)
        if number % 3 == 0:
            data = data[: rng.integers(1, len(data))]
        elif number % 3 == 1:
            for at in rng.integers(0, len(data), 20):
                data[at] = rng.integers(256)
        else:
            at = int(rng.integers(0, len(data) - 200))
            data[at : at + 200] = bytes(200)
        path = tmp_path / f"damaged {number}.mp4"
        path.write_bytes(bytes(data))
        began = time.monotonic()
        try:
            footage = open_video(path)
            frames = footage.read(0, len(footage))
            assert frames.shape == (len(footage), 3, *footage.size)
        except ValueError as error:
            messages.append((path.name, str(error)))
        assert time.monotonic() - began < 5
    assert len(messages) >= 14  # at least the cut ones
    assert all(name in message for name, message in messages)


def test_asking_for_frames_that_are_not_there(plain):
    with pytest.raises(ValueError, match=r"has 11 frames, asked for 9\.\.12"):
        open_video(plain).read(9, 12)


def test_images_can_be_read_after_a_video(video, tmp_path):
    """In a process of its own, in which nothing has loaded OpenCV before decord."""
    code = """
import sys
from PIL import Image
from mvtrack.video.reader import open_video
Image.new("RGB", (17, 13), (250, 0, 90)).save(sys.argv[2])
open_video(sys.argv[1]).read(0, 1)
assert open_video(sys.argv[2]).read(0, 1)[0, :, 0, 0].tolist() == [250, 0, 90]
"""
    arguments = [sys.executable, "-c", code, str(video), str(tmp_path / "one.png")]
    done = subprocess.run(arguments, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
