"""The command as users type it."""

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from mvtrack import reshoot_file
from mvtrack.cli.main import main as cli
from mvtrack.files.cache import sha256
from mvtrack.geometry.presets import PRESETS
from mvtrack.geometry.trajectory import CameraPath
from mvtrack.inference.pipeline import Shot
from mvtrack.inference.sampler import SamplerOptions
from mvtrack.models.reshoot_model import save_model
from mvtrack.video.reader import open_video
from mvtrack.video.resize import plan_fit, still_camera

ROOT = Path(__file__).parents[1]
T = 7


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory, small_model):
    return save_model(small_model, tmp_path_factory.mktemp("model")).parent


def run(capsys, *arguments) -> tuple[int, str, str]:
    code = cli(["reshoot", *map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_three_lines_of_python(video, small_model, tmp_path):
    outputs = reshoot_file(
        video, "arc_left", small_model, tmp_path / "o", Shot(CameraPath("arc_left"), sample=SamplerOptions(1))
    )
    made = open_video(outputs.video)
    assert (len(made), made.size) == (T, (90, 160))  # the source's own
    assert made.fps == pytest.approx(12.0)
    panels = open_video(outputs.side_by_side)
    assert len(panels) == T
    assert panels.size[1] > 2 * panels.size[0]
    record = json.loads(outputs.run.read_text())
    shown, estimated = record["input"].pop("notes")
    assert shown == "the picture fills 18x32 of the model's 24x32 (--fit crop fills all)"
    assert estimated.startswith("geometry is estimated from the source and the result")
    assert record["input"] == {"file": str(video), "sha256": sha256(video), "frames": T, "fps": 12.0}
    assert record["full_resolution"]["geometry"] == "learned sweep through the result"
    assert record["shot"]["path"]["label"] == "arc_left"
    assert record["fit"]["source"] == [90, 160]
    assert record["audio"] == "none: the input has no sound"
    assert set(record["attention"].values()) == {"cpu"}
    cameras = json.loads(outputs.cameras.read_text())
    reference, target = (torch.tensor(view["c2w"]) for view in cameras["views"])
    torch.testing.assert_close(reference, torch.eye(4).expand(T, 4, 4))
    torch.testing.assert_close(target, CameraPath("arc_left").poses(T).float())


def test_command_line(video, model_folder, tmp_path, capsys):
    out = tmp_path / "o"
    arguments = [video, "--camera", "pan_right", "--amount", 8, "--model", model_folder, "--out", out, "--steps", 1]
    code, printed, _ = run(capsys, *arguments)
    assert code == 0
    assert printed.splitlines() == [str(out / "side_by_side.mp4"), str(out / "video.mp4")]
    record = json.loads((out / "run.json").read_text())
    assert record["shot"]["path"]["segments"][0]["moves"][0]["amount"] == 8
    assert record["model"]["sha256"] == sha256(model_folder / "model.safetensors")
    code, _, error = run(capsys, *arguments)
    assert code == 2
    assert "exists already: choose another --out, or pass --overwrite" in error
    assert run(capsys, *arguments, "--overwrite")[0] == 0
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").touch()
    code, _, error = run(capsys, *arguments, "--out", tmp_path / "mine", "--overwrite")
    assert (code, (tmp_path / "mine/notes.txt").exists()) == (2, True)
    assert "is no result of mvtrack, so it is not deleted: choose another --out" in error


@pytest.mark.parametrize("frames", [1, 8])
def test_less_than_a_window_of_the_shipped_model(tmp_path, capsys, frames):
    """Lengths that are not 4n + 1 pass everything that the command checks, and come back whole."""
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number in range(frames):
        cv2.imwrite(str(pictures / f"{number}.png"), np.full((64, 64, 3), 20 * number, np.uint8))
    code, _, error = run(capsys, pictures, "--camera", "pan_left", "--out", tmp_path / "o", "--steps", 1)
    assert code == 0, error
    assert len(open_video(tmp_path / "o/video.mp4")) == frames


def test_script_as_typed(video, model_folder, tmp_path):
    command = [sys.executable, ROOT / "mvtrack/reshoot.py", video, "--camera", "zoom_in", "--steps", "1",
               "--model", model_folder, "--out", tmp_path / "o"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "o/video.mp4").exists()
    assert "re-shooting, zoom_in" in done.stderr  # the progress bar
    assert "attention kernel" not in done.stderr


def test_verbose_names_the_attention_kernel(video, model_folder, tmp_path, capsys):
    arguments = [video, "--camera", "zoom_in", "--steps", 1, "--model", model_folder, "--out", tmp_path / "o"]
    code, _, error = run(capsys, *arguments, "--verbose")
    assert code == 0
    assert "mvtrack reshoot: attention kernel: cpu\n" in error


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"video": "missing.mp4"}, "missing.mp4 does not exist"),
        ({"--camera": "arc_lef"}, "unknown camera move 'arc_lef'; did you mean 'arc_left'?"),
        ({"--amount": "nan"}, "--amount must be a number, got nan"),
        ({"--model": "nowhere"}, "no model at nowhere"),
        ({"--speed": "fast"}, "--speed must be one of linear, ease, ease_in, ease_out, got 'fast'"),
        ({"--steps": 0}, "--steps must be at least 1, got 0"),
        ({"--fov": 200}, "--fov must lie in [1, 170], got 200.0"),
        ({"--depth": "d.npy"}, "depth file d.npy does not exist"),
        ({"--depth": "d.npy", "--resolution": "model"}, "--depth has no effect, with --resolution model nothing but"),
        ({"--depth": "auto", "--resolution": "model", "--decoder": "tiny"}, "--depth auto is no .npy or .npz"),
        ({"--gidance": 2}, "unknown option --gidance; did you mean '--guidance'?"),
        ({"--subject-distance": -1}, "--subject-distance must be above 0, got -1.0"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(video, model_folder, tmp_path, capsys, change, message):
    options = {"--camera": "arc_left", "--model": model_folder, "--steps": 1, "--out": tmp_path / "o"} | change
    source = options.pop("video", video)
    code, printed, error = run(capsys, source, *(x for pair in options.items() for x in pair))
    assert code == 2
    assert printed == ""
    assert message in error.splitlines()[-1]
    assert "Traceback" not in error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"just text\n" * 99])
def test_files_that_are_no_video(tmp_path, model_folder, capsys, content):
    path = tmp_path / "x.mp4"
    path.write_bytes(content)
    code, _, error = run(capsys, path, "--camera", "arc_left", "--model", model_folder, "--out", tmp_path / "o")
    assert code == 2
    assert "x.mp4" in error
    assert not (tmp_path / "o").exists()


def test_a_truncated_video_is_named(video, model_folder, tmp_path, capsys):
    path = tmp_path / "cut.mp4"
    path.write_bytes(video.read_bytes()[: video.stat().st_size // 2])
    code, _, error = run(capsys, path, "--camera", "arc_left", "--model", model_folder, "--out", tmp_path / "o")
    assert code == 2
    assert "cut.mp4" in error
    assert list(tmp_path.iterdir()) == [path]


def test_fitting_keeps_the_field_of_view_consistent(video, small_model):
    """A ray through the video's middle stays in the middle; the crop narrows the view, it does not bend it."""
    fit = plan_fit((90, 160), small_model.config, "crop")
    camera = fit.camera(still_camera(50.0, (90, 160), T))
    assert fit.scaled == (24, 43)
    assert fit.cut == (0, 5)
    focal = 0.5 * 160 / torch.tan(torch.deg2rad(torch.tensor(25.0)))
    assert camera.K[0, 1, 1].item() == pytest.approx(focal.item() * 24 / 90, rel=1e-5)
    assert camera.K[0, 0, 0].item() == pytest.approx(focal.item() * 43 / 160, rel=1e-5)
    assert camera.K[0, 0, 2].item() == pytest.approx(43 / 2 - 5)


def test_every_preset_can_be_asked_for():
    assert len(PRESETS) == 10
    for name in PRESETS:
        assert CameraPath(name).poses(3).shape == (3, 4, 4)
