"""`mvtrack cameras` as people type it."""

import json

import numpy as np
import pytest
import torch

from mvtrack.cli.cameras import main
from mvtrack.cli.main import main as mvtrack
from mvtrack.geometry.pose_files import FORMATS, read_cameras
from mvtrack.video.writer import write_video

ROW = "[1 0 0 0] [0 1 0 0] [0 0 1 0] [{} 0 0 1]"


@pytest.fixture
def file(tmp_path):
    """Nine frames that move forward by 10 cm each, as ReCamMaster writes them."""
    path = tmp_path / "camera_extrinsics.json"
    path.write_text(json.dumps({f"frame{i}": {"cam01": ROW.format(10 * i)} for i in range(9)}))
    return path


@pytest.fixture
def run(capsys):
    def run(*arguments):
        code = main([str(argument) for argument in arguments])
        return code, *capsys.readouterr()

    return run


LENS = ("--size", "46x62", "--fov", "50")


def test_formats_lists_all(run):
    code, out, _ = run("formats")
    assert code == 0
    assert all(f"{name}: " in out for name in FORMATS)
    assert "--undo-applied-transform" in out


def test_the_console_command_knows_it(capsys):
    assert mvtrack(["cameras", "formats"]) == 0
    assert "recammaster" in capsys.readouterr().out


def test_inspect_says_what_is_in_a_file(run, file):
    code, out, _ = run("inspect", file, *LENS)
    assert code == 0
    for text in ("Unreal axes", "9, frame0 … frame8", "62x46", "50.00 degrees", "metres", "reaches 0.8", "(0, 0, 0.8)"):
        assert text in out


def test_inspect_asks_for_what_is_missing(run, file, tmp_path):
    code, out, err = run("inspect", file)
    assert (code, out) == (2, "")
    assert err.startswith(f"mvtrack cameras inspect: {file}: ")
    assert "size is needed" in err
    assert run("inspect", tmp_path / "missing.json")[0] == 2


def test_convert_and_say_what_is_left_out(run, file, tmp_path):
    out_file = tmp_path / "transforms.json"
    code, out, err = run("convert", file, out_file, "--to", "nerfstudio", *LENS)
    assert code == 0
    assert out == f"{out_file}: 9 cameras as nerfstudio\n"
    assert "left out, since nerfstudio cannot hold it: unit" in err
    assert read_cameras(out_file).camera.c2w[8, 2, 3] == pytest.approx(0.8)
    code, _, err = run("convert", file, out_file, "--to", "nerfstudio", *LENS)
    assert (code, "exists already" in err) == (2, True)
    assert run("convert", file, out_file, "--to", "nerfstudio", "--overwrite", *LENS)[0] == 0


def test_changes_on_the_way(run, file, tmp_path):
    out = tmp_path / "a.npz"
    changes = ("--frames", "0:9:4", "--scale", "2", "--fps", "6", "--rename", "shot_{:03d}.png")
    assert run("convert", file, out, "--to", "npz", *changes, *LENS)[0] == 0
    sequence = read_cameras(out)
    assert sequence.names == ("shot_000.png", "shot_001.png", "shot_002.png")
    assert sequence.timestamps_s.tolist() == pytest.approx([0, 1 / 6, 2 / 6])
    assert sequence.camera.c2w[2, 2, 3].item() == pytest.approx(1.6)


def test_read_as_another_convention(run, file, tmp_path):
    first, second = tmp_path / "a.json", tmp_path / "b.json"
    assert run("convert", file, first, "--to", "json", *LENS)[0] == 0
    assert run("convert", first, second, "--to", "json", "--read-as", "opengl c2w")[0] == 0
    assert read_cameras(second).camera.c2w[3, :3, 2].tolist() == pytest.approx([0, 0, -1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--to", "colmap"), "unknown pose format 'colmap'; did you mean 'colmap"),
        (("--to", "tum"), "TUM files need a time for every frame"),
        (("--to", "json", "--frames", "5:99"), "frames 5 to 99 are wanted, and there are 9"),
        (("--to", "json", "--frames", "all"), "--frames must look like 0:81"),
        (("--to", "json", "--frames", "0:9:0"), "at least 1, got 0"),
        (("--to", "json", "--rename", "frame"), "frame_{:05d}, got 'frame'"),
        (("--to", "json", "--scale", "0"), "--scale must lie in"),
        (("--to", "json", "--fps", "-1"), "--fps must lie in"),
        (("--to", "json", "--read-as", "opengl"), "axes and direction"),
    ],
)
def test_changes_that_make_no_sense(run, file, tmp_path, arguments, message):
    code, _, err = run("convert", file, tmp_path / "out", *arguments, *LENS)
    assert code == 2
    assert message in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("", "the option {0}size is needed"),
        ("{0}size 46x62", "one of the options {0}fov (horizontal, degrees), {0}focal-px, or {0}focal-mm with"),
        ("{0}focal-px 7 {0}fov 50", "{0}fov and {0}focal-px both give the focal length"),
        ("{0}sensor-mm 7", "{0}sensor-mm goes with {0}focal-mm, which is missing"),
        ("{0}fov 50 {0}view left", "format recammaster takes no option {0}view; it takes: {0}camera, {0}size"),
    ],
)
def test_errors_name_the_flags_that_are_typed(run, file, video, capsys, typed, message):
    """`--pose-size` beside `--source-cameras`, which takes a size from the video, and `--size` of `mvtrack cameras`."""
    code, _, err = run("inspect", file, *typed.format("--").split())
    assert (code, message.format("--") in err, err.count("\n")) == (2, True, 1), err
    if typed:
        arguments = ["preview", video, "--camera", "static", "--source-cameras", file, *typed.format("--pose-").split()]
        assert mvtrack([str(argument) for argument in arguments]) == 2
        assert message.format("--pose-") in capsys.readouterr().err


@pytest.fixture
def video(tmp_path):
    """A textured wall, 9 frames, that comes nearer as the file's cameras say: 4 m away, 10 cm a frame."""
    import cv2

    rng = np.random.default_rng(2)
    wall = cv2.resize(rng.integers(0, 255, (40, 60, 3), dtype=np.uint8), (372, 276), interpolation=cv2.INTER_CUBIC)
    frames = []
    for index in range(9):
        factor = 4 / (4 - 0.1 * index)
        matrix = np.array([[factor, 0, 186 * (1 - factor)], [0, factor, 138 * (1 - factor)]])
        frames.append(cv2.warpAffine(wall, matrix, (372, 276)))
    clip = torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2).float() / 127.5 - 1
    return write_video(tmp_path / "wall.mp4", clip, 8)


def test_check_without_and_with_the_video(run, file, video):
    code, out, _ = run("check", file, *LENS)
    assert code == 0
    assert "ok    frames" in out
    code, out, _ = run("check", file, "--video", video, "--size", "46x62", "--fov", "50")
    assert code == 0, out
    assert "9 cameras for 9 frames of video" in out
    assert "unreal c2w fits" in out


def test_check_names_the_convention_that_would_fit(run, file, video, tmp_path):
    plain, flipped = tmp_path / "plain.json", tmp_path / "flipped.json"
    assert run("convert", file, plain, "--to", "json", *LENS)[0] == 0
    assert run("convert", plain, flipped, "--to", "json", "--read-as", "opengl c2w")[0] == 0
    code, out, err = run("check", flipped, "--video", video)
    assert code == 2
    assert "opengl c2w" in out
    assert "--read-as" in out
    assert err.endswith("not right: video\n")


def test_check_counts_frames(run, file, video, tmp_path):
    short = tmp_path / "short.npz"
    assert run("convert", file, short, "--to", "npz", "--frames", ":7", *LENS)[0] == 0
    code, out, err = run("check", short, "--video", video)
    assert code == 2
    assert "7 cameras, but the video has 9 frames" in out
    assert "not right: frames" in err
