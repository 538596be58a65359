"""Sound stays with the picture, and the picture keeps its length."""

import subprocess
from pathlib import Path

import av
import numpy as np
import pytest

from mvtrack.video.reader import ffmpeg, open_video
from mvtrack.video.sound import copy_audio
from mvtrack.video.writer import write_video

T, FPS = 60, 30.0


def run_ffmpeg(*arguments: object) -> None:
    subprocess.run([ffmpeg(), "-y", "-loglevel", "error", *map(str, arguments)], check=True, capture_output=True)


@pytest.fixture(scope="module")
def silent(tmp_path_factory) -> Path:
    frames = [np.full((48, 64, 3), 4 * t, np.uint8) for t in range(T)]
    return write_video(tmp_path_factory.mktemp("silent") / "silent.mp4", frames, FPS)


def click_at(path: Path) -> float:
    """Seconds at which the sound is loudest."""
    with av.open(str(path)) as container:
        frames = list(container.decode(audio=0))
        loud = [(float(np.abs(frame.to_ndarray()).max()), float(frame.time)) for frame in frames]
    return max(loud)[1]


def sound_end(path: Path) -> float:
    with av.open(str(path)) as container:
        return max(float((p.pts + (p.duration or 0)) * p.time_base) for p in container.demux(audio=0) if p.size)


def loud_file(silent: Path, out: Path, seconds: float, click_s: float, shift: list, codec: str) -> Path:
    """The silent video with a click in its sound; `shift` moves the picture."""
    click = f"aevalsrc='0.9*between(t,{click_s},{click_s}+0.03)*sin(2000*t)':s=44100:d={seconds}"
    run_ffmpeg(
        *shift, "-i", silent, "-f", "lavfi", "-i", click, "-map", 0, "-map", 1, "-c:v", "copy", "-c:a", codec, out
    )
    return out


@pytest.mark.parametrize(
    ("name", "seconds", "click", "shift", "expected"),
    [
        ("short.mp4", 1.0, 0.7, [], 0.7),
        ("long.mp4", 3.5, 1.5, [], 1.5),
        ("late_picture.mp4", 3.0, 1.2, ["-itsoffset", 0.5], 0.7),
        ("late_picture.mkv", 3.0, 1.2, ["-itsoffset", 0.5], 0.7),
        ("late_picture.ts", 3.0, 1.2, ["-itsoffset", 0.5], 0.7),
        ("other.mov", 2.0, 1.1, [], 1.1),
    ],
)
def test_sound_stays_where_it_was_and_cuts_no_frame(silent, tmp_path, name, seconds, click, shift, expected):
    codec = {"other.mov": "pcm_s16le", "late_picture.ts": "mp2"}.get(name, "aac")
    source = open_video(loud_file(silent, tmp_path / name, seconds, click, shift, codec))
    assert len(source) == T
    out = tmp_path / "out.mp4"
    assert copy_audio(silent, source, out) in ("copied", "re-encoded as AAC")
    assert len(open_video(out)) == T
    assert click_at(out) == pytest.approx(expected, abs=0.06)
    assert sound_end(out) <= T / FPS + 0.06


def test_a_cut_source_has_its_sound_cut_alike(silent, tmp_path):
    """Cut at 0.5 s within the only GOP: an edit list hides the frames before."""
    loud_file(silent, tmp_path / "whole.mp4", 2.0, 1.2, [], "aac")
    run_ffmpeg("-ss", 0.5, "-i", tmp_path / "whole.mp4", "-c", "copy", tmp_path / "cut.mp4")
    source = open_video(tmp_path / "cut.mp4")
    part = [np.zeros((48, 64, 3), np.uint8)] * len(source)
    made = write_video(tmp_path / "made.mp4", part, FPS)
    copy_audio(made, source, tmp_path / "out.mp4")
    assert len(open_video(tmp_path / "out.mp4")) == len(source) == 45
    assert click_at(tmp_path / "out.mp4") == pytest.approx(0.7, abs=0.06)
