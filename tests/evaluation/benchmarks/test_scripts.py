"""The benchmarks' commands, run as a user runs them."""

import json
import runpy
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mvtrack.config.command_line import parse
from mvtrack.evaluation.benchmarks.davis_list import write_list

ROOT = Path(__file__).parents[3]


def small(data: Path, out: Path) -> list[object]:
    return ["--data", data, "--out", out, "--size", "24x32", "--num-frames", 5, "--workers", 1]


def test_cases_are_listed_past_one_that_cannot_be_read(davis, run, tmp_path):
    data, out = tmp_path / "davis", tmp_path / "out"
    shutil.copytree(davis.root, data)
    first, second = davis.cases
    (data / "JPEGImages/480p" / first.sequence / "00002.jpg").write_bytes(b"no picture")
    code, shown, errors = run("davis.py", *small(data, out), "--list-cases")
    lines = shown.splitlines()
    assert code == 2
    assert f"davis: 1 of 2 cases cannot be read, as listed; {out}/cameras has the cameras of the rest" in errors
    assert lines[0].startswith(f"{davis.case_keys()[0]}: failed: ")
    assert "00002.jpg" in lines[0]
    assert lines[1] == f"{davis.case_keys()[1]}: 5 frames, 5 with a true target"
    [file] = (out / "cameras").iterdir()
    assert file.stem == davis.case_keys()[1]
    assert len(json.loads(file.read_text())["views"][1]["c2w"]) == 5
    assert (out / "cases.csv").read_text().splitlines()[1] == f"{first.sequence},{first.trajectory},linear,"


def test_iphones_cases_are_listed_past_one_that_cannot_be_read(iphone, run, tmp_path):
    shutil.copytree(iphone.root, tmp_path / "iphone")
    picture = next((tmp_path / "iphone/scene-00/rgb/1x").glob("1_*.png"))
    picture.write_bytes(b"no picture")
    given = ["--data", tmp_path / "iphone", "--sequences", "scene-00", "--size", "28x24", "--num-frames", 8]
    code, shown, errors = run("iphone.py", *given, "--out", tmp_path / "out", "--list-cases")
    assert code == 2
    assert "1 of 2 cases cannot be read" in errors
    assert shown.splitlines()[0].startswith("scene-00--camera1: failed: ")
    assert shown.splitlines()[1] == "scene-00--camera2: 8 frames, 7 with a true target"


def test_other_resolutions_and_annotations(davis, run, tmp_path):
    """DAVIS as its larger release names folders, with the masks of all objects."""
    data, out = tmp_path / "davis", tmp_path / "out"
    shutil.copytree(davis.root / "JPEGImages/480p", data / "JPEGImages/Full-Resolution")
    shutil.copytree(davis.root / "Annotations/480p", data / "Annotations_unsupervised/Full-Resolution")
    code, _, errors = run("davis.py", *small(data, out), "--list-cases")
    assert code == 2
    assert "480p is no folder" in errors
    assert "davis.resolution may be Full-Resolution" in errors
    given = ["davis.resolution=Full-Resolution", "--baselines", "copy", "--metrics", "fidelity", "--stages", "generate"]
    code, shown, _ = run("davis.py", *small(data, out), *given)
    assert code == 0
    assert "Dynamic regions: all objects of Annotations." in (out / "table.md").read_text()
    other = [*small(data, tmp_path / "other"), *given, "davis.annotations=Annotations_unsupervised"]
    assert run("davis.py", *other)[0] == 0
    assert "all objects of Annotations_unsupervised." in (tmp_path / "other/table.md").read_text()


def test_masks_come_from_the_annotations_that_are_named(davis, tmp_path):
    data = tmp_path / "davis"
    shutil.copytree(davis.root, data)
    own, key = replace(davis, root=data), davis.case_keys()[0]
    folder = data / "Annotations_unsupervised/480p" / davis.cases[0].sequence
    shutil.copytree(data / "Annotations/480p" / davis.cases[0].sequence, folder)
    for path in folder.glob("*.png"):
        Image.fromarray(np.ones((36, 52), np.uint8), mode="L").save(path)
    every = replace(own, annotations="Annotations_unsupervised")
    assert every.load(key).dynamic.all()
    assert not own.load(key).dynamic.all()
    assert every.digest(key) != own.digest(key)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--list", "LIST", "--split", "2017/val"], "--split has no effect, it is for cases without --list"),
        (["--list", "LIST", "--paths", "all10"], "--paths has no effect, it is for cases without --list"),
        (["davis.cameras=.", "davis.fov_deg=40"], "fov_deg has no effect where cameras are named"),
        (["consistency.depth_files=."], "depth_files has no effect: add depth_files to geometry"),
        (["--da3-ray-pose"], "--da3-ray-pose is gone: set poses.ray_pose=..."),
        (["--num-frame", "x"], "--num-frames must be a whole number, got 'x'"),
    ],
)
def test_options_without_effect_are_refused(davis, run, tmp_path, arguments, message):
    write_list(tmp_path / "list.csv", davis.cases)
    given = [tmp_path / "list.csv" if a == "LIST" else a for a in arguments]
    code, _, errors = run("davis.py", *small(davis.root, tmp_path / "out"), *given)
    assert code == 2
    assert message in errors
    assert not (tmp_path / "out").exists()


def test_a_shard_leaves_the_list_to_the_last_run(davis, run, tmp_path):
    base = [*small(davis.root, tmp_path), "--metrics", "fidelity", "--stages", "generate", "--baselines", "copy"]
    assert run("davis.py", *base, "--shard", "1/2")[0] == 0
    assert not (tmp_path / "cases.csv").exists()
    assert run("davis.py", *base)[0] == 0
    before = (tmp_path / "cases.csv").stat().st_mtime_ns
    assert run("davis.py", *base)[0] == 0
    assert (tmp_path / "cases.csv").stat().st_mtime_ns == before


def test_the_table_is_of_both_shipped_models_unless_it_is_told():
    """The one that follows points was not trained at the miniature's size, and says so."""
    table = runpy.run_path(str(ROOT / "eval/table.py"))

    def rows(*words: str):
        options = parse(table["TableCommand"], list(words), "table")
        return table["_methods"](options, options.settings())

    tiny, follower, copy = rows("--baselines", "copy", "--steps", "3")
    assert (tiny.name, follower.name, copy.name) == ("tiny", "tiny_tracking", "copy")
    assert (tiny.config.tracking is None, follower.config.tracking is None) == (True, False)
    assert (tiny.sampling.steps, follower.sampling.steps) == (3, 3)
    assert (tiny.other_size, follower.other_size) == (False, True)
    mine, *others = rows("--model", str(tiny.folder), "--name", "mine")
    assert (mine.name, mine.title, len(others)) == ("mine", "mine", 5)


@pytest.mark.parametrize("script", ["davis.py", "iphone.py", "table.py"])
def test_the_help_fits_one_screen(run, monkeypatch, script):
    monkeypatch.setenv("COLUMNS", "80")
    code, shown, _ = run(script, "--help")
    assert code == 0
    assert len(shown.splitlines()) <= 45
