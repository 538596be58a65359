"""Files with an entry for each of a video's own frames, where these come at uneven times or with oblong pixels."""

import json
import subprocess

import numpy as np
import pytest
import torch

from mvtrack.geometry.camera import Camera
from mvtrack.geometry.path_language import parse_path
from mvtrack.geometry.pose_files import CameraSequence, write_cameras
from mvtrack.geometry.pose_files.timing import FrameGrid, read_video_cameras
from mvtrack.inference.pipeline import Shot, reshoot_file
from mvtrack.inference.sampler import SamplerOptions
from mvtrack.inference.tracking.points import points_of_video
from mvtrack.video.depth_file import DepthFile
from mvtrack.video.reader import ffmpeg, open_video
from mvtrack.video.resize import fit_to
from mvtrack.video.writer import write_video

PAN = parse_path("pan_left")
OWN, H, W = 11, 48, 64
TICKS = [0, 1, 2, 3, 3, 3, 3, 4, 5, 6, 7, 8, 9, 10]  # frames 4 to 6 of 14 are left out


@pytest.fixture(scope="module")
def gap(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gap")
    frames = [np.full((H, W, 3), 10 * t, np.uint8) for t in range(14)]
    write_video(folder / "even.mp4", frames, 10.0)
    command = [ffmpeg(), "-loglevel", "error", "-i", folder / "even.mp4", "-vf", "select='not(between(n,4,6))'"]
    subprocess.run([*map(str, command), "-fps_mode", "passthrough", str(folder / "gap.mp4")], check=True)
    return folder / "gap.mp4"


def test_each_tick_takes_the_entry_of_its_frame(gap, tmp_path):
    video = open_video(gap)
    assert video.frame_of.tolist() == TICKS
    fit = fit_to((H, W), (H, W))
    np.save(tmp_path / "d.npy", np.ones((OWN, H, W), np.float32) * np.arange(1, OWN + 1)[:, None, None])
    depth = DepthFile(tmp_path / "d.npy", video)
    assert [depth.read(tick, fit)[5, 7].item() for tick in range(14)] == [own + 1 for own in TICKS]
    (tmp_path / "p.csv").write_text("frame,x,y\n3,5,5\n4,5,5\n10,5,5\n")
    assert points_of_video(str(tmp_path / "p.csv"), video, fit).txy[:, 0].tolist() == [3, 7, 13]
    c2w = torch.eye(4).repeat(OWN, 1, 1)
    c2w[:, 0, 3] = torch.arange(OWN) * 0.01
    K = torch.tensor([[50.0, 0, W / 2], [0, 50, H / 2], [0, 0, 1]]).expand(OWN, 3, 3)
    write_cameras(tmp_path / "c.json", CameraSequence(Camera(c2w, K, (H, W)), tuple(map(str, range(OWN)))), "json")
    camera, notes = read_video_cameras(tmp_path / "c.json", FrameGrid.of(video))
    assert (camera.c2w[:, 0, 3] * 100).round().int().tolist() == TICKS
    assert "uneven times" in notes[0]


def test_lenses_of_stored_pixels_follow_when_they_are_made_square(gap, tmp_path):
    command = [ffmpeg(), "-loglevel", "error", "-i", str(gap), "-vf", "scale=48:48,setsar=4/3", str(tmp_path / "s.mp4")]
    subprocess.run(command, check=True)
    video = open_video(tmp_path / "s.mp4")
    assert (video.size, video.stored_size) == ((48, 64), (48, 48))
    K = torch.tensor([[30.0, 0, 24], [0, 40, 24], [0, 0, 1]]).expand(OWN, 3, 3)
    sequence = CameraSequence(Camera(torch.eye(4).repeat(OWN, 1, 1), K, (48, 48)), tuple(map(str, range(OWN))))
    write_cameras(tmp_path / "c.json", sequence, "json")
    camera, _ = read_video_cameras(tmp_path / "c.json", FrameGrid.of(video))
    assert camera.size == (48, 64)
    torch.testing.assert_close(camera.K[0].diagonal(), torch.tensor([40.0, 40, 1]).double())


def test_a_result_has_as_many_frames_as_cameras(gap, small_model, tmp_path):
    shot = Shot(parse_path("pan_left"), sample=SamplerOptions(1))
    made = reshoot_file(gap, shot.path, small_model, tmp_path / "o", shot)
    record = json.loads(made.cameras.read_text())
    lengths = {len(view["c2w"]) for view in record["views"]}
    assert lengths == {len(open_video(made.video))} == {len(open_video(made.side_by_side))} == {14}
    assert any("uneven frame times" in note for note in json.loads(made.run.read_text())["input"]["notes"])


SOURCES = {
    "short sound": ("s.mp4", ["-f", "lavfi", "-t", "0.4", "-i", "sine=440"], []),
    "long sound": ("s.mp4", ["-f", "lavfi", "-t", "3", "-i", "sine=440"], []),
    "late picture": ("s.mkv", ["-f", "lavfi", "-t", "2", "-i", "sine=440"], ["-itsoffset", "0.5"]),
    "cut": ("s.mp4", [], ["-ss", "0.35"]),
    "end trimmed": ("s.mov", [], ["-t", "0.6"]),
    "transport stream": ("s.ts", ["-f", "lavfi", "-t", "0.4", "-i", "sine=440"], []),
}


@pytest.mark.parametrize("kind", [*SOURCES, "pause", "GIF"])
def test_a_result_has_as_many_frames_as_its_cameras(gap, small_model, tmp_path, kind):
    source = gap
    if kind in SOURCES:
        name, sound, lead = SOURCES[kind]
        source = tmp_path / name
        codecs = ["-c:v", "copy", *(["-c:a", "aac", "-map", "0", "-map", "1"] if sound else [])]
        command = [ffmpeg(), "-loglevel", "error", *lead, "-i", str(gap.with_name("even.mp4")), *sound, *codecs]
        subprocess.run([*command, str(source)], check=True)
    elif kind == "GIF":
        source = tmp_path / "s.gif"
        subprocess.run([ffmpeg(), "-loglevel", "error", "-i", str(gap), str(source)], check=True)
    made = reshoot_file(source, "pan_left", small_model, tmp_path / "o", Shot(PAN, sample=SamplerOptions(1)))
    views = json.loads((tmp_path / "o/cameras.json").read_text())["views"]
    assert {len(view["c2w"]) for view in views} == {len(open_video(made.video))} == {len(open_video(source))}
