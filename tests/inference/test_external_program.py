"""Programs in other environments: what they may do wrong, and how it is said."""

import sys
from dataclasses import replace
from importlib import metadata

import numpy as np
import pytest

from mvtrack.inference.external_program import ExternalProgram, WorkerError, has_module, package_identity, write_frames

SCRIPT = """
import json, sys, time
import numpy as np
folder, how = sys.argv[1], sys.argv[2]
job = json.load(open(folder + "/job.json"))
if how == "fails":
    sys.stderr.write("a warning\\nRuntimeError: no such weights\\n\\n")
    sys.exit(3)
if how == "hangs":
    time.sleep(60)
if how == "works":
    np.savez(folder + "/result.npz", twice=np.array(job["number"]) * 2)
"""


@pytest.fixture
def worker(tmp_path) -> ExternalProgram:
    (tmp_path / "some_worker.py").write_text(SCRIPT)
    return ExternalProgram(tmp_path / "some_worker.py", "numpy", "Some", timeout_s=3.0)


def test_a_result_comes_back(worker, tmp_path):
    assert worker.run(tmp_path, "works", job={"number": [3, 5]})["twice"].tolist() == [6, 10]


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("fails", r"some_worker.py failed: RuntimeError: no such weights$"),
        ("hangs", r"some_worker.py took longer than 3 s$"),
        ("leaves nothing", r"some_worker.py left no result.npz"),
    ],
)
def test_what_goes_wrong_is_said(worker, tmp_path, how, message):
    (tmp_path / "result.npz").write_bytes(b"from an earlier run")
    with pytest.raises(WorkerError, match=message):
        worker.run(tmp_path, how, job={})


def test_interpreters_that_cannot_run(worker, tmp_path):
    with pytest.raises(ValueError, match="the Python interpreter nowhere/python does not exist"):
        replace(worker, python="nowhere/python").run(tmp_path, "works")
    (tmp_path / "text").write_text("")
    with pytest.raises(ValueError, match="text is not a program that can be run"):
        replace(worker, python=tmp_path / "text").run(tmp_path, "works")
    assert not has_module("nowhere/python", "json")
    assert worker.missing() is None
    assert replace(worker, package="no_such").missing() == f"the package no_such in {sys.executable}"
    assert replace(worker, python=None, how="name it").missing() == "Some: name it"
    assert has_module(sys.executable, "json")
    assert not has_module(sys.executable, "no_such_module_anywhere")


def test_packages_are_told_by_version_and_sources(tmp_path):
    """Research code keeps its version: another file tells it. Installed packages have one, single modules have none."""
    assert package_identity(sys.executable, "einops").startswith(f"{metadata.version('einops')}, sources ")
    assert package_identity(sys.executable, "no_such_module_anywhere") is None
    assert package_identity("nowhere/python", "json") is None
    found = set()
    for number, source in enumerate(("x = 1", "x = 1", "x = 2")):
        package = tmp_path / str(number) / "research/deep"
        package.mkdir(parents=True)
        (package / "model.py").write_text(source)
        python = tmp_path / f"python{number}"
        python.write_text(f'#!/bin/sh\nPYTHONPATH="{tmp_path / str(number)}" exec "{sys.executable}" "$@"\n')
        python.chmod(0o755)
        found.add(package_identity(python, "research"))
    assert len(found) == 2
    assert all(text.startswith("no version, sources ") for text in found)


def test_masks_are_black_where_pixels_are_ignored(tmp_path):
    import cv2

    frames = np.random.default_rng(0).integers(0, 255, (3, 7, 11, 3), dtype=np.uint8)
    ignore = np.zeros((3, 7, 11), bool)
    ignore[1, 2:5, 3:7] = True
    write_frames(tmp_path, frames, ignore)
    read = cv2.imread(str(tmp_path / "frames/00001.png"))[..., ::-1]
    assert np.array_equal(read, frames[1])
    mask = cv2.imread(str(tmp_path / "masks/00001.png.png"), cv2.IMREAD_GRAYSCALE)
    assert np.array_equal(mask == 0, ignore[1])
    assert sorted(p.name for p in (tmp_path / "masks").iterdir()) == [f"0000{i}.png.png" for i in range(3)]
