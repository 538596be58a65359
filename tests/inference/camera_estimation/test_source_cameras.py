"""`--source-cameras auto` and `--cameras auto`: what becomes of measured cameras, and of videos that do not tell."""

import json
from dataclasses import replace

import pytest
import torch

from mvtrack.cli.main import main as cli
from mvtrack.data.synthetic.detailed_scenes import detailed_case
from mvtrack.geometry.camera import Camera, intrinsics_from_fov
from mvtrack.geometry.path_language import parse_path
from mvtrack.geometry.pose_files import CameraSequence, read_cameras, write_cameras
from mvtrack.inference.camera_estimation import cached_estimate as of_video
from mvtrack.inference.camera_estimation import source_cameras
from mvtrack.inference.camera_estimation.colmap import colmap_missing
from mvtrack.inference.camera_estimation.estimated_cameras import (
    CameraEstimationError,
    EstimatedCameras,
    cameras_from_poses,
)
from mvtrack.inference.camera_estimation.source_cameras import measure_source
from mvtrack.inference.external_program import WorkerError
from mvtrack.metrics.camera_accuracy import camera_accuracy
from mvtrack.models.reshoot_model import save_model
from mvtrack.video.writer import write_video

T, SIZE = 7, (90, 160)


def measured(rotation_only: bool = False) -> EstimatedCameras:
    """A dolly of 2 in a world whose first frame shows things at 8; frame 3 was not found."""
    found = torch.ones(T, dtype=torch.bool)
    found[3] = False
    c2w = parse_path("pan_left 20" if rotation_only else "dolly_in 2").poses(T)
    K = intrinsics_from_fov(60.0, SIZE).repeat(T, 1, 1)
    depth = None if rotation_only else 8.0
    return replace(
        cameras_from_poses(c2w, K, SIZE, found, "as told"),
        rotation_only=rotation_only,
        median_depth=depth,
        misfit_px=0.1234,
    )


@pytest.fixture
def answer(monkeypatch):
    """Sets what the measurement gives; returns the arguments of its calls."""

    def tell(result) -> list:
        calls = []

        def run(*arguments, reading=None):
            calls.append(arguments)
            if isinstance(result, Exception):
                raise result
            return result

        monkeypatch.setattr(source_cameras, "cameras_of_video", run)
        return calls

    return tell


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory, small_model):
    return save_model(small_model, tmp_path_factory.mktemp("model")).parent


def run(capsys, *arguments) -> tuple[int, str, str]:
    code = cli([*map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_the_unit_is_the_subject_s_distance(answer, video):
    calls = answer(measured())
    source = measure_source(video, None, 50.0, 4.0)
    assert calls == [(video, None, None)]
    centre = source.camera.c2w[:, :3, 3]
    torch.testing.assert_close(centre[:, 2], torch.linspace(0, 1, T).double(), atol=1e-6, rtol=0)
    assert source.record == {
        "method": "as told", "measured_frames": 6, "misfit_px": 0.123, "fov_deg": 60.0, "largest_turn_deg": 0.0,
        "extent": 1.0, "unit": "median depth of the first frame is 4",
    }  # fmt: skip
    assert "in 6 of 7 frames, the other 1 interpolated: 60.0 degrees wide" in source.notes[0]


def test_a_camera_that_turns_has_no_unit(answer, video):
    answer(measured(rotation_only=True))
    source = measure_source(video, 60.0, 60.0, 4.0)
    assert source.record["unit"] == "none"
    torch.testing.assert_close(source.camera.c2w[-1], parse_path("pan_left 20").poses(T)[-1])


def test_a_video_that_does_not_tell_is_taken_as_still(answer, video, model_folder, tmp_path, capsys):
    answer(CameraEstimationError("only 3 points could be matched"))
    arguments = ["reshoot", video, "--camera", "arc_left", "--source-cameras", "auto", "--model", model_folder]
    code, _, err = run(capsys, *arguments, "--steps", 1, "--out", tmp_path / "out")
    assert code == 0
    assert "only 3 points could be matched; it is taken as still, 50 degrees wide" in err
    record = json.loads((tmp_path / "out/run.json").read_text())
    assert record["shot"]["source"] == "still, 50 degrees wide"
    assert record["shot"]["measured"] == {"failed": "only 3 points could be matched"}
    assert any("it is taken as still" in note for note in record["input"]["notes"])


def test_a_crash_or_a_timeout_is_no_reason_to_give_up(answer, video, model_folder, tmp_path, capsys):
    answer(WorkerError("colmap_worker.py took longer than 1800 s"))
    arguments = ["reshoot", video, "--camera", "arc_left", "--source-cameras", "auto", "--model", model_folder]
    code, _, err = run(capsys, *arguments, "--steps", 1, "--out", tmp_path / "out")
    assert code == 0
    why = f"the cameras of {video} cannot be measured: colmap_worker.py took longer than 1800 s"
    assert f"{why}; it is taken as still, 50 degrees wide" in err
    assert json.loads((tmp_path / "out/run.json").read_text())["shot"]["measured"] == {"failed": why}


def test_what_is_not_installed_is_an_error_with_the_fix(monkeypatch, video, model_folder, tmp_path, capsys):
    monkeypatch.setattr(of_video, "colmap_missing", lambda: "pycolmap: pip install pycolmap")
    arguments = ["reshoot", video, "--camera", "arc_left", "--source-cameras", "auto", "--model", model_folder]
    code, _, err = run(capsys, *arguments, "--steps", 1, "--out", tmp_path / "out")
    assert code == 2
    assert err.endswith("missing pycolmap: pip install pycolmap, or give them as a pose file\n")
    assert not (tmp_path / "out").exists()


def test_measured_cameras_reach_the_result(answer, video, model_folder, tmp_path, capsys):
    calls = answer(measured())
    mask = tmp_path / "mask.mp4"
    code, _, err = run(
        capsys, "reshoot", video, "--camera", "truck_left 0.5", "--source-cameras", "auto", "--ignore-mask", mask,
        "--subject-distance", 2, "--model", model_folder, "--steps", 1, "--out", tmp_path / "out",
    )  # fmt: skip
    assert (code, calls) == (0, [(video, None, mask)])
    assert "measured (as told) in 6 of 7 frames" in err
    record = json.loads((tmp_path / "out/run.json").read_text())
    assert record["shot"]["source"] == "measured"
    assert record["shot"]["measured"]["ignore_mask"] == str(mask)
    views = json.loads((tmp_path / "out/cameras.json").read_text())["views"]
    ends = {view["name"]: torch.tensor(view["c2w"])[-1, :3, 3] for view in views}
    torch.testing.assert_close(ends["reference"], torch.tensor([0.0, 0, 0.5]), atol=1e-5, rtol=0)
    torch.testing.assert_close(ends["target"], torch.tensor([-0.5, 0, 0]), atol=1e-5, rtol=0)


def test_other_commands_take_it_too(answer, video, model_folder, tmp_path, capsys, tracking_model):
    answer(measured())
    shot = ["--camera", "arc_left", "--source-cameras", "auto", "--model", model_folder]
    for command, more in (("preview", []), ("attention", ["--query", "80,45,3", "--view", "reference", "--steps", 1])):
        code, _, err = run(capsys, command, video, *shot, *more, "--out", tmp_path / command)
        assert code == 0, err
        assert f"mvtrack {command}: cameras of {video} measured (as told)" in err
    tracker = save_model(tracking_model, tmp_path / "tracker").parent
    code, _, err = run(
        capsys, "track", video, "--tracks", "grid:3", "--cameras", "auto", "--model", tracker, "--out", tmp_path / "t"
    )
    assert code == 0, err
    assert "measured (as told)" in err
    record = json.loads((tmp_path / "t/run.json").read_text())
    assert record["cameras"] == "measured"
    assert record["measured"]["fov_deg"] == 60.0


def test_measured_cameras_can_be_written_down(answer, video, tmp_path, capsys):
    answer(measured())
    code, out, err = run(capsys, "cameras", "measure", video, tmp_path / "p.json")
    assert code == 0, err
    assert "7 cameras as json" in out
    sequence = read_cameras(tmp_path / "p.json")
    torch.testing.assert_close(sequence.camera.c2w, measured().scaled_to_depth(4.0).filled().c2w)
    assert sequence.camera.size == SIZE
    assert not sequence.camera.scale_known
    answer(CameraEstimationError("the pictures are too smooth"))
    code, _, err = run(capsys, "cameras", "measure", video, tmp_path / "q.json")
    assert (code, err) == (2, "mvtrack cameras measure: the pictures are too smooth\n")
    assert not (tmp_path / "q.json").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["reshoot", "VIDEO", "--camera", "arc_lefd", "--source-cameras", "auto"], "unknown camera move 'arc_lefd'"),
        (["reshoot", "VIDEO", "--camera", "arc_left", "--ignore-mask", "m.png"], "give --source-cameras auto"),
        (["track", "VIDEO", "--tracks", "grid:3", "--ignore-mask", "m.png"], "give --cameras auto"),
        (["track", "VIDEO", "VIDEO", "--tracks", "grid:3", "--cameras", "auto"], "--cameras auto estimates one video"),
        (
            ["reshoot", "VIDEO", "--camera", "FILE", "--poses-relative-to", "world", "--source-cameras", "auto"],
            "--poses-relative-to world needs --source-cameras FILE",
        ),
    ],
)
def test_bad_options_are_said_before_anything_is_measured(answer, video, tmp_path, capsys, arguments, message):
    calls, K = answer(measured()), intrinsics_from_fov(50.0, SIZE).double().repeat(T, 1, 1)
    camera = Camera(parse_path("dolly_in").poses(T), K, SIZE)
    file = write_cameras(tmp_path / "p.json", CameraSequence(camera, tuple(map(str, range(T)))), "json")
    code, _, err = run(capsys, *({"VIDEO": video, "FILE": file}.get(a, a) for a in arguments))
    assert (code, calls) == (2, [])
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.slow
@pytest.mark.skipif(colmap_missing() is not None, reason=f"missing {colmap_missing()}")
def test_a_rendered_video_end_to_end(model_folder, tmp_path, capsys, monkeypatch):
    """Nothing told: an arc is measured from its file, in the unit that was asked for, and the second run is quick."""
    monkeypatch.setenv("MVTRACK_CACHE", str(tmp_path / "cache"))
    _, camera, rendered = detailed_case(2, "arc_left", 20.0, 9, (240, 320))
    video = write_video(tmp_path / "arc.mp4", rendered.video[0].float() / 127.5 - 1, fps=24.0, lossless=True)
    arguments = ["--camera", "pan_left", "--source-cameras", "auto", "--fov", 55, "--model", model_folder]
    for name in ("a", "b"):
        code, _, err = run(capsys, "reshoot", video, *arguments, "--steps", 1, "--out", tmp_path / name)
        assert code == 0, err
        assert ("measuring the cameras" in err) == (name == "a")
    views = json.loads((tmp_path / "b/cameras.json").read_text())["views"]
    accuracy = camera_accuracy(torch.tensor(views[0]["c2w"]).double(), camera.c2w[0].double()).means()
    assert accuracy["mRotErr"] < 0.1
    assert accuracy["mTransErr"] < 0.01
