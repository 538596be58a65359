"""Plain arrays say what they mean, or are asked."""

import io
import json
import zipfile

import numpy as np
import pytest
import torch

from mvtrack.geometry.pose_files import read_cameras, write_cameras
from mvtrack.geometry.pose_files.geometry import AXES, axes_from_opencv, axes_to_opencv

K = [[53.0, 0, 31], [0, 53, 23], [0, 0, 1]]


@pytest.fixture
def write(tmp_path, sequence):
    """The same arrays as JSON and as npz."""

    def write(**fields):
        fields = {"c2w": sequence.camera.c2w.numpy(), "K": np.array(K), **fields}
        fields = {key: value for key, value in fields.items() if value is not None}
        np.savez(tmp_path / "a.npz", **fields)
        plain = {key: value.tolist() if isinstance(value, np.ndarray) else value for key, value in fields.items()}
        (tmp_path / "a.json").write_text(json.dumps(plain))
        return tmp_path / "a.npz", tmp_path / "a.json"

    return write


def test_convention_and_size_are_asked_for(write):
    for path in write():
        with pytest.raises(ValueError, match="convention is needed, such as 'opencv c2w raster'"):
            read_cameras(path, size=(46, 62))
        with pytest.raises(ValueError, match="size"):
            read_cameras(path, convention="opencv c2w raster")
        with pytest.raises(ValueError, match="three words.*opengl"):
            read_cameras(path, size=(46, 62), convention="maya c2w raster")
        assert read_cameras(path, size=(46, 62), convention="raster, OpenCV c2w").unit == "unknown"


@pytest.mark.parametrize("axes", AXES)
@pytest.mark.parametrize("direction", ["c2w", "w2c"])
def test_every_convention_gives_the_same_cameras(write, sequence, axes, direction):
    numbers = axes_from_opencv(sequence.camera.c2w, axes)
    numbers = torch.linalg.inv(numbers) if direction == "w2c" else numbers
    for path in write(**{"c2w": None, direction: numbers.numpy()}, convention=f"{axes} {direction} raster"):
        back = read_cameras(path, size=(46, 62))
        torch.testing.assert_close(back.camera.c2w, sequence.camera.c2w, atol=1e-9, rtol=0)
        assert (back.file_axes, back.file_direction) == (axes, direction)


@pytest.mark.parametrize("axes", AXES)
def test_axes_are_rotations_and_come_back(sequence, axes):
    there = axes_from_opencv(sequence.camera.c2w, axes)
    torch.testing.assert_close(torch.linalg.det(there[:, :3, :3]), torch.ones(5).double())
    torch.testing.assert_close(axes_to_opencv(there, axes), sequence.camera.c2w)
    # The camera's forward is the same direction of the world under every name (Unreal's world has other axes).
    forward = torch.tensor({"opengl": [0, 0, -1.0], "llff": [0, 0, -1.0]}.get(axes, [0, 0, 1.0])).double()
    if axes != "unreal":
        torch.testing.assert_close(there[:, :3, :3] @ forward, sequence.camera.c2w[:, :3, 2])


def test_pixel_indices_are_moved_by_half(write):
    for path in write(convention="opencv c2w index", size=np.array([46, 62])):
        assert read_cameras(path).camera.K[0].tolist() == [[53, 0, 31.5], [0, 53, 23.5], [0, 0, 1]]


def test_three_rows_one_lens_fps_unit_and_other_fields(write, sequence):
    fields = {"convention": "opencv c2w raster", "size": np.array([46, 62]), "unit": "metres", "fps": 4.0}
    for path in write(c2w=sequence.camera.c2w[:, :3].numpy(), depth=np.zeros(3), **fields):
        back = read_cameras(path)
        torch.testing.assert_close(back.camera.c2w, sequence.camera.c2w)
        assert back.timestamps_s.tolist() == [0, 0.25, 0.5, 0.75, 1]
        assert back.unit == "metres"
        assert "not used: depth" in back.convention


def test_a_lens_may_be_given_where_the_file_has_none(write):
    for path in write(K=None, convention="opencv c2w raster"):
        assert read_cameras(path, size=(46, 62), fov=90).camera.K[0, 0, 0] == pytest.approx(31)
    for path in write(convention="opencv c2w raster"):
        with pytest.raises(ValueError, match="K: is in the file.*fov"):
            read_cameras(path, size=(46, 62), fov=90)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"K": np.array([K] * 3)}, "K: has 3 entries, expected 5"),
        ({"names": np.array(["a", "b"])}, "names: has 2 entries, expected 5"),
        ({"timestamps_s": np.arange(4.0)}, "timestamps_s: has 4 entries, expected 5"),
        ({"distortion": np.zeros((3, 5)) + 0.1}, "distortion: has 3 entries, expected 5"),
        ({"w2c": np.eye(4)[None]}, "both c2w and w2c"),
        ({"unit": "feet"}, "unit: expected 'metres'"),
        ({"convention": "opencv w2c raster"}, "field's name says c2w, the convention says w2c"),
        ({"fps": 0.0}, "fps"),
    ],
)
def test_fields_that_contradict_each_other_are_named(write, fields, message):
    for path in write(**{"convention": "opencv c2w raster", "size": np.array([46, 62]), **fields}):
        with pytest.raises(ValueError, match=message):
            read_cameras(path)


def test_cameras_json_of_a_reshot_video(tmp_path, sequence):
    # The form that `mvtrack reshoot` writes.
    view = {"c2w": sequence.camera.c2w.tolist(), "K": sequence.camera.K.tolist()}
    path = tmp_path / "cameras.json"
    path.write_text(json.dumps({
        "convention": "OpenCV axes (x right, y down, z forward); camera-to-world 4x4; raster pixels",
        "unit": "metres", "size": {"height": 46, "width": 62}, "fps": 8.0,
        "views": [{"name": "reference", **view}, {"name": "target", **view}],
    }))  # fmt: skip
    with pytest.raises(ValueError, match="holds 2 views.*reference, target"):
        read_cameras(path)
    for name in ("target", "1"):
        back = read_cameras(path, view=name)
        torch.testing.assert_close(back.camera.c2w, sequence.camera.c2w)
        assert (back.unit, back.timestamps_s[4].item()) == ("metres", 0.5)
    with pytest.raises(ValueError, match="0 views named 'left'"):
        read_cameras(path, view="left")


def test_bombs_and_pickles_are_refused_unopened(tmp_path):
    path = tmp_path / "bomb.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("c2w.npy", bytes(32 << 20))
    assert path.stat().st_size < 40_000
    with pytest.raises(ValueError, match=r"bomb\.npz.*unpacks to 33554432 bytes"):
        read_cameras(path)
    np.savez(path, c2w=np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="expected an array of numbers"):
        read_cameras(path)


def test_a_bomb_that_lies_about_its_size_is_not_unpacked(tmp_path):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("c2w.npy", bytes(64 << 20))
    honest = (64 << 20).to_bytes(4, "little")
    assert buffer.getvalue().count(honest) == 2
    path = tmp_path / "liar.npz"
    path.write_bytes(buffer.getvalue().replace(honest, (1000).to_bytes(4, "little")))
    with pytest.raises(ValueError, match=r"liar\.npz"):
        read_cameras(path)


def test_npz_keeps_everything(tmp_path, odd_lens):
    back = read_cameras(write_cameras(tmp_path / "a.npz", odd_lens, "npz"))
    assert (back.names, back.unit) == (odd_lens.names, "metres")
    assert torch.equal(back.timestamps_s, odd_lens.timestamps_s)
    assert torch.equal(back.camera.c2w, odd_lens.camera.c2w)


@pytest.mark.parametrize("order", ["<", ">"])
def test_text_of_characters_that_do_not_exist_is_refused(tmp_path, sequence, order):
    names = np.frombuffer(np.array([0x41, 0x7FFFFFFF, 0x43, 0x44, 0x45], order + "u4").tobytes(), order + "U1")
    path = tmp_path / "a.npz"
    fields = {"convention": "opencv c2w raster", "size": (46, 62), "c2w": sequence.camera.c2w.numpy(), "K": np.array(K)}
    np.savez(path, names=names, **fields)
    with pytest.raises(ValueError, match="names: holds characters that do not exist"):
        read_cameras(path)
