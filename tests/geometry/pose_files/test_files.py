"""Finding the format, options that do not fit, and files that appear whole or not at all."""

import os

import pytest
import torch

from mvtrack.geometry.camera import Camera
from mvtrack.geometry.pose_files import FORMATS, CameraSequence, read_cameras, write_cameras
from mvtrack.geometry.pose_files.registry import held_back


@pytest.mark.parametrize("name", [name for name, known in FORMATS.items() if known.write])
def test_the_format_is_found_by_the_contents(tmp_path, sequence, read_options, name):
    path = write_cameras(tmp_path / "no suffix, ünd odd 'name'", sequence, name)
    options = read_options.get(name, {})
    found, told = read_cameras(path, **options), read_cameras(path, name, **options)
    assert found.convention == told.convention
    assert torch.equal(found.camera.c2w, told.camera.c2w)


def test_unknown_formats_and_options_suggest_the_right_one(tmp_path, sequence):
    path = write_cameras(tmp_path / "a.json", sequence, "json")
    with pytest.raises(ValueError, match="unknown pose format 'nerfstudo'; did you mean 'nerfstudio'"):
        read_cameras(path, "nerfstudo")
    with pytest.raises(ValueError, match="unknown option 'fov_deg'; did you mean 'fov'"):
        read_cameras(path, fov_deg=50)
    with pytest.raises(ValueError, match="format json takes no option order; it takes: size"):
        read_cameras(path, order="name")
    with pytest.raises(ValueError, match=r"fov and focal_px both"):
        read_cameras(path, fov=50, focal_px=53)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("size", (46.5, 62)), ("size", "46"), ("size", (0, 62)), ("size", "46x1000000"), ("fov", 0), ("fov", 180),
        ("fov", float("nan")), ("fov", "wide"), ("focal_px", -1), ("camera", 1.5), ("metric", "yes"),
        ("convention", "opencv"),
    ],
)  # fmt: skip
def test_options_are_checked(tmp_path, unchecked, name, value):
    path = tmp_path / "a.json"
    path.write_text('{"frame0": {"cam01": "[1 0 0 0] [0 1 0 0] [0 0 1 0] [0 0 0 1]"}}')
    with pytest.raises(ValueError, match=name):
        read_cameras(path, **{name: value})


def test_a_folder_further_up_is_named(tmp_path, sequence):
    (tmp_path / "sparse").mkdir()
    write_cameras(tmp_path / "sparse" / "0", sequence, "colmap_binary")
    with pytest.raises(ValueError, match="no known pose format: but sparse/0 in it has"):
        read_cameras(tmp_path)


def test_nothing_half_written_stays(tmp_path, sequence, monkeypatch):
    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    for name in ("json", "colmap_binary"):
        with pytest.raises(OSError, match="disk full"):
            write_cameras(tmp_path / "out", sequence, name)
    assert not list(tmp_path.iterdir())


def test_existing_files_are_kept_unless_told_and_folders_always(tmp_path, sequence):
    file = write_cameras(tmp_path / "a.json", sequence, "json")
    with pytest.raises(ValueError, match="exists already.*overwrite"):
        write_cameras(file, sequence, "npz")
    write_cameras(file, sequence, "npz", overwrite=True)
    assert file.read_bytes().startswith(b"PK")
    folder = write_cameras(tmp_path / "model", sequence, "colmap_text")
    for path, name in ((folder, "colmap_text"), (file, "colmap_text"), (folder, "json")):
        with pytest.raises(ValueError, match="exists already"):
            write_cameras(path, sequence, name, overwrite=True)
    with pytest.raises(ValueError, match="no folder: create it first"):
        write_cameras(tmp_path / "missing" / "a.json", sequence, "json")


def test_cameras_that_are_none_are_not_written(tmp_path, sequence):
    c2w = sequence.camera.c2w.clone()
    c2w[3, 0, 0] += 0.1
    bad = CameraSequence(Camera(c2w, sequence.camera.K, (46, 62)), sequence.names)
    with pytest.raises(ValueError, match=r"frame 3 \('frame_00003'\): the rotation is none"):
        write_cameras(tmp_path / "a.json", bad, "json")
    assert not list(tmp_path.iterdir())


def test_centimetres_need_a_known_unit(tmp_path, sequence):
    unknown = CameraSequence(Camera(sequence.camera.c2w, sequence.camera.K, (46, 62)), sequence.names)
    with pytest.raises(ValueError, match="centimetres and the scale of these cameras is unknown"):
        write_cameras(tmp_path / "a.json", unknown, "recammaster")


def test_what_is_left_out_is_listed(sequence, odd_lens):
    assert held_back(sequence, FORMATS["tum"]) == ["names", "intrinsics", "size", "unit"]
    assert held_back(odd_lens, FORMATS["colmap_text"]) == ["times", "unit"]
    assert held_back(odd_lens, FORMATS["npz"]) == []


@pytest.mark.parametrize("value", [{"names": ("a",)}, {"names": ("a\n",) * 5}, {"timestamps_s": torch.zeros(3)}])
def test_sequences_check_their_parts(sequence, value, unchecked):
    with pytest.raises(ValueError, match=r"names|timestamps_s"):
        CameraSequence(sequence.camera, **{"names": sequence.names, **value})
