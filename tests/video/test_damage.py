"""Files with broken bytes: refused with their name, or every frame the same whichever way it is reached."""

import numpy as np
import pytest
import torch

from mvtrack.video.containers import find_breakage
from mvtrack.video.reader import DecordVideo, open_video
from tests.video.test_any_file import run_ffmpeg

FRAMES = 26
X265 = "log-level=none:keyint=7:min-keyint=7"
CODECS = {
    "a.mkv": ["-c:v", "mjpeg", "-q:v", 3, "-pix_fmt", "yuvj420p"],
    "b.mkv": ["-c:v", "ffv1", "-g", 6],
    "c.avi": ["-c:v", "ffv1", "-g", 6],
    "d.mov": ["-c:v", "prores_ks", "-pix_fmt", "yuv422p10le"],
    "e.ts": ["-c:v", "libx264", "-g", 7, "-bf", 2],
    "f.mp4": ["-c:v", "libx264", "-g", 7, "-bf", 2],
    "g.mp4": ["-c:v", "libx264", "-x264-params", "open-gop=1:keyint=7"],
    "h.mp4": ["-c:v", "libx265", "-x265-params", f"{X265}:open-gop=1"],
    "i.mkv": ["-c:v", "libx265", "-x265-params", f"{X265}:bframes=0"],
    "j.webm": ["-c:v", "libvpx-vp9", "-g", 7, "-deadline", "realtime", "-cpu-used", 8],
    "k.mpg": ["-c:v", "mpeg2video", "-g", 7, "-bf", 2],
}


def make(path, options):
    run_ffmpeg("-f", "lavfi", "-i", f"testsrc2=size=128x64:rate=25:duration={FRAMES / 25}", "-pix_fmt", "yuv420p",
               *options, path)  # fmt: skip
    return path.read_bytes()


def outcome(path, damaged) -> str:
    try:
        video = open_video(path, damaged=damaged)
        frames = video.read(0, len(video))
        for start in range(len(video) - 1, -1, -3):
            alone = open_video(path, damaged=damaged)
            if not torch.equal(alone.read(start, start + 1)[0], frames[start]):
                return f"frame {start} differs by the way to it"
    except ValueError as error:
        return "refused" if path.name in str(error) else f"an error without the file's name: {error}"
    return "read"


@pytest.mark.parametrize("name", CODECS)
def test_damaged_frames_are_the_same_in_order_and_by_seeking_or_refused(name, tmp_path):
    whole, rng = make(tmp_path / name, CODECS[name]), np.random.default_rng(7)
    assert outcome(tmp_path / name, "refuse") == "read"
    for seed in range(8):
        data = bytearray(whole)
        at, length = int(rng.integers(len(data) // 5, len(data) - 60)), int(rng.integers(1, 50))
        if seed % 3 == 0:
            del data[at : at + length]
        elif seed % 3 == 1:
            data[at] ^= 1 << int(rng.integers(8))
        else:
            data[at : at + length] = rng.bytes(length)
        path = tmp_path / f"{seed}_{name}"
        path.write_bytes(data)
        assert outcome(path, ("refuse", "use-good-part")[seed % 2]) in ("read", "refused"), seed


@pytest.mark.parametrize("name", ["b.mkv", "c.avi", "j.webm"])
def test_files_cut_off_are_found_when_they_are_opened(name, tmp_path):
    """Their demuxers end early without a word."""
    whole = make(tmp_path / name, CODECS[name])
    (tmp_path / f"cut_{name}").write_bytes(whole[: len(whole) * 2 // 3])
    with pytest.raises(ValueError, match=rf"cut_{name} is damaged: it is cut off, \d+ bytes are missing; .*good-part"):
        open_video(tmp_path / f"cut_{name}")
    part = open_video(tmp_path / f"cut_{name}", damaged="use-good-part")
    assert FRAMES // 4 < len(part) < FRAMES
    frames = open_video(tmp_path / name).read(0, len(part))
    assert torch.equal(part.read(0, len(part)), frames)


def test_frames_lost_inside_matroska_are_not_passed_over(tmp_path):
    whole = make(tmp_path / "a.mkv", CODECS["a.mkv"])
    path, at = tmp_path / "hole.mkv", len(whole) // 2
    path.write_bytes(whole[:at] + whole[at + 3000 :])
    with pytest.raises(ValueError, match=r"hole\.mkv is damaged: its data is broken near byte \d+"):
        open_video(path)
    part = open_video(path, damaged="use-good-part")
    assert torch.equal(part.read(0, len(part)), open_video(tmp_path / "a.mkv").read(0, len(part)))


def test_matroska_checksums_are_read(tmp_path):
    whole = make(tmp_path / "b.mkv", CODECS["b.mkv"])
    assert find_breakage(tmp_path / "b.mkv", "matroska,webm") is None
    data = bytearray(whole)
    data[len(data) // 2] ^= 4
    (tmp_path / "bit.mkv").write_bytes(data)
    with pytest.raises(ValueError, match=r"bit\.mkv is damaged: the checksum of the data after byte \d+ is wrong"):
        open_video(tmp_path / "bit.mkv")


def test_matroska_of_unknown_length_is_whole(tmp_path):
    """As browsers and interrupted recordings leave it."""
    make(tmp_path / "j.webm", CODECS["j.webm"])
    run_ffmpeg("-i", tmp_path / "j.webm", "-c", "copy", "-f", "webm", "-live", 1, "-cluster_time_limit", 200,
               tmp_path / "live.webm")  # fmt: skip
    assert find_breakage(tmp_path / "live.webm", "matroska,webm") is None
    assert len(open_video(tmp_path / "live.webm")) == FRAMES


def test_decord_reads_only_files_whose_keyframes_reset_decoders(tmp_path):
    make(tmp_path / "idr.mp4", CODECS["f.mp4"])
    make(tmp_path / "cra.mp4", ["-c:v", "libx265", "-x265-params", f"{X265}:open-gop=1:bframes=0"])
    assert isinstance(open_video(tmp_path / "idr.mp4"), DecordVideo)
    assert not isinstance(open_video(tmp_path / "cra.mp4"), DecordVideo)
