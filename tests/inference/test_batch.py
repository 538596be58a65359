import json
from pathlib import Path

import pytest
import torch

from mvtrack.cli.main import main as cli
from mvtrack.config.command_line import parse
from mvtrack.files.cache import sha256
from mvtrack.geometry.path_language import parse_path
from mvtrack.inference.batch import _jobs, is_batch
from mvtrack.inference.job_table import read_table
from mvtrack.inference.pipeline import Shot, shipped_model, shot_record
from mvtrack.inference.sampler import SamplerOptions
from mvtrack.models.reshoot_model import save_model
from mvtrack.reshoot import ReshootCommand
from mvtrack.video.resize import still_camera
from mvtrack.video.writer import write_video

T = 5


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory, small_model):
    return save_model(small_model, tmp_path_factory.mktemp("model")).parent


@pytest.fixture
def videos(tmp_path):
    folder = tmp_path / "videos"
    folder.mkdir()
    for i, name in enumerate(("one", "two")):
        write_video(folder / f"{name}.mp4", torch.full((T, 3, 24, 32), 0.3 * i), fps=10.0)
    return folder


def run(capsys, *arguments) -> tuple[int, list[str], str]:
    code = cli(["reshoot", *map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out.splitlines(), captured.err.splitlines()[-1] if captured.err else ""


def test_a_folder_is_done_once(videos, model_folder, tmp_path, capsys):
    arguments = [videos, "--camera", "pan_left", "--model", model_folder, "--out", tmp_path / "o", "--steps", 1]
    code, lines, _ = run(capsys, *arguments)
    assert code == 0
    assert lines == [f"done: {tmp_path / 'o/one'}", f"done: {tmp_path / 'o/two'}"]
    stamp = (tmp_path / "o/one/video.mp4").stat().st_mtime_ns
    write_video(videos / "three.mp4", torch.zeros(T, 3, 24, 32), fps=10.0)
    code, lines, _ = run(capsys, *arguments)
    assert code == 0
    assert [line.split(":")[0] for line in lines] == ["done before", "done", "done before"]
    assert (tmp_path / "o/one/video.mp4").stat().st_mtime_ns == stamp
    changed = [*arguments[:2], "pan_right", *arguments[3:]]
    code, lines, error = run(capsys, *changed)
    assert code == 2
    assert all("holds another shot: pass --overwrite" in line for line in lines)
    assert error.startswith("mvtrack reshoot: 3 of 3 videos failed")


def test_what_was_made_otherwise_is_not_done_before(videos, model_folder, tmp_path, capsys):
    (videos / "two.mp4").unlink()
    arguments = [videos, "--camera", "pan_left", "--model", model_folder, "--out", tmp_path / "o", "--steps", 1]
    assert run(capsys, *arguments)[0] == 0
    model = json.loads((tmp_path / "o/one/run.json").read_text())["model"]
    assert (model["source"], model["sha256"]) == (str(model_folder), sha256(model_folder / "model.safetensors"))
    for change in (["--fit", "pad"], ["--size", "24x48"], ["--precision", "bfloat16"], ["--model", shipped_model()],
                   ["--damaged", "use-good-part"]):  # fmt: skip
        assert "holds another shot" in run(capsys, *arguments, *change)[1][0], change
    assert run(capsys, *arguments, "--batched-guidance")[1][0].startswith("done before")
    sources = [still_camera(degrees, (24, 32), T) for degrees in (50.0, 50.0, 60.0)]
    first, same, wide = (Shot(parse_path("static"), source=c, sample=SamplerOptions(1)) for c in sources)
    assert shot_record(first) == shot_record(same) != shot_record(wide)


def test_a_failure_does_not_stop_the_others(videos, model_folder, tmp_path, capsys):
    (videos / "broken.mp4").write_bytes(b"no video")
    code, lines, error = run(
        capsys, videos, "--camera", "pan_left", "--model", model_folder, "--out", tmp_path / "o", "--steps", 1
    )
    assert code == 2
    assert [line.split(":")[0] for line in lines] == ["failed", "done", "done"]
    assert "1 of 3 videos failed" in error
    assert "broken.mp4" in error
    results = json.loads((tmp_path / "o/batch.json").read_text())
    assert [r["status"] for r in results] == ["failed", "done", "done"]


def test_a_csv_says_what_to_do_with_each(videos, model_folder, tmp_path, capsys):
    table = videos / "jobs.csv"
    table.write_text("video,camera,amount,out\none.mp4,pan_left,7,a\none.mp4,lens_in,,b\ntwo.mp4,,,\n")
    code, lines, error = run(
        capsys, table, "--camera", "tilt_up", "--model", model_folder, "--out", tmp_path / "o", "--steps", 1
    )
    assert code == 0, (lines, error)
    assert [line.split("/")[-1] for line in lines] == ["a", "b", "two_0003"]
    moves = [
        json.loads((tmp_path / "o" / name / "run.json").read_text())["shot"]["path"]["segments"][0]["moves"][0]
        for name in ("a", "b", "two_0003")
    ]
    assert [(m["name"], m["amount"]) for m in moves] == [("pan_left", 7.0), ("lens_in", None), ("tilt_up", None)]


def test_foreign_results_do_not_stop_the_others(videos, model_folder, tmp_path, capsys):
    for name, text in (("one", '{"command": "track"}'), ("three", "{"), ("two", "[]")):
        (tmp_path / "o" / name).mkdir(parents=True)
        (tmp_path / "o" / name / "run.json").write_text(text)
    write_video(videos / "three.mp4", torch.zeros(T, 3, 24, 32), fps=10.0)
    code, lines, _ = run(capsys, videos, "--camera", "pan_left", "--model", model_folder, "--out", tmp_path / "o")
    assert (code, len(lines)) == (2, 3)
    assert all("holds something else: pass --overwrite, or choose another folder" in line for line in lines)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("camera\npan_left\n", "needs a column `video`"),
        ("vidoe\none.mp4\n", "unknown column 'vidoe'; did you mean 'video'?"),
        ("video,seed\none.mp4,7.9\n", "line 2: --seed must be a whole number, got '7.9'"),
        ("video,colour\none.mp4,red\n", "may have video, camera, out"),
        ("video\n", "no rows"),
        ("video,amount\none.mp4,wide\n", "line 2: --amount must be a number, got 'wide'"),
        ("video,out\none.mp4,a\ntwo.mp4,a\n", "line 2: several videos would be written to"),
        ("video,camera\none.mp4,static\ntwo.mp4,pan_lfet\n", "line 3: unknown camera move 'pan_lfet'; did you mean"),
        ("video\none.mp4,extra\n", "line 2: expected 1 values"),
        ("video,camera\n,pan_left\n", "line 2: expected 2 values, the video not empty"),
    ],
)
def test_bad_tables_are_refused_before_anything_is_made(videos, model_folder, tmp_path, capsys, text, message):
    (videos / "jobs.csv").write_text(text)
    arguments = [videos / "jobs.csv", "--camera", "pan_left", "--model", model_folder, "--out", tmp_path / "o"]
    code, lines, error = run(capsys, *arguments)
    assert code == 2
    assert lines == []
    assert message in error
    assert not (tmp_path / "o").exists()


def test_what_a_batch_is(videos, tmp_path):
    assert is_batch(videos)
    assert is_batch(tmp_path / "x.csv")
    assert not is_batch(videos / "one.mp4")
    (videos / "a.png").write_bytes(b"")
    with pytest.raises(ValueError, match="videos and images"):
        is_batch(videos)


@pytest.mark.parametrize(
    "text",
    [
        "\ufeffvideo,camera\r\na.mp4,arc_left\r\n",
        "video;camera\na.mp4;arc_left\n",
        "video\tcamera\n\na.mp4\t arc_left\n",
    ],
    ids=["spreadsheet", "semicolons", "tabs"],
)
def test_tables_of_spreadsheets_are_read(tmp_path, text):
    (tmp_path / "jobs.csv").write_text(text, encoding="utf-8", newline="")
    [(_, row)] = read_table(tmp_path / "jobs.csv")
    assert row == {"video": "a.mp4", "camera": "arc_left"}


def test_a_table_says_the_path_or_the_command_line_does(videos, model_folder, tmp_path, capsys):
    (videos / "jobs.csv").write_text("video,camera\none.mp4,pan_left\ntwo.mp4,\n")
    code, lines, error = run(capsys, videos / "jobs.csv", "--model", model_folder, "--out", tmp_path / "o")
    assert (code, lines) == (2, [])
    assert "line 3: give the path as --camera, or in a column `camera`" in error


def test_videos_that_differ_by_suffix_get_folders_of_their_own(small_model, tmp_path):
    for name in ("a.mp4", "a.MOV", "b.MTS", "._b.MTS", "c.3gp"):
        (tmp_path / name).touch()
    options = parse(ReshootCommand, [str(tmp_path), "--camera", "static"], "mvtrack reshoot")
    found = {job.video.name: job.out.name for job in _jobs(options, Path("o"), small_model.config)}
    assert found == {"a.mp4": "a.mp4", "a.MOV": "a.MOV", "b.MTS": "b", "c.3gp": "c"}
