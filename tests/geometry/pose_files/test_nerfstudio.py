"""transforms.json by hand, from nerfstudio's and instant-ngp's documents."""

import json

import pytest
import torch

from mvtrack.geometry.camera import project
from mvtrack.geometry.pose_files import read_cameras

IDENTITY = [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]


@pytest.fixture
def write(tmp_path):
    def write(frames=None, **fields):
        path = tmp_path / "transforms.json"
        frames = [{"file_path": "images/a.png", "transform_matrix": IDENTITY}] if frames is None else frames
        path.write_text(json.dumps({"w": 62, "h": 46, "fl_x": 53, **fields, "frames": frames}))
        return path

    return write


def test_opengl_looks_down_minus_z_and_up_is_plus_y(write):
    sequence = read_cameras(write(fl_y=54, cx=30, cy=24))
    points = torch.tensor([[0, 0, -2.0], [0, 1, -2], [1, 0, -2]], dtype=torch.float64)
    xy, depth = project(points, sequence.camera[0])
    torch.testing.assert_close(xy, torch.tensor([[30, 24], [30, 24 - 27], [30 + 26.5, 24]]).double())
    assert depth.tolist() == [2, 2, 2]
    assert (sequence.unit, sequence.names) == ("unknown", ("images/a.png",))


def test_the_position_is_in_the_last_column_and_stays(write):
    matrix = [[0, 0, 1, 4], [0, 1, 0, 5], [-1, 0, 0, 6], [0, 0, 0, 1]]
    camera = read_cameras(write([{"file_path": "a", "transform_matrix": matrix}])).camera
    assert camera.c2w[0, :3, 3].tolist() == [4, 5, 6]
    assert camera.c2w[0, :3, 2].tolist() == [-1, 0, 0]  # forward is against the matrix' third column
    with pytest.raises(ValueError, match=r"frames\[0\]\.transform_matrix\[3\].*expected \[0, 0, 0, 1\]"):
        read_cameras(write([{"file_path": "a", "transform_matrix": [list(row) for row in zip(*matrix, strict=True)]}]))


def test_blenders_lego_has_only_an_angle(tmp_path):
    path = tmp_path / "transforms_train.json"
    frame = {"file_path": "./train/r_0", "rotation": 0.01, "transform_matrix": IDENTITY}
    path.write_text(json.dumps({"camera_angle_x": 0.6911112070083618, "frames": [frame]}))
    with pytest.raises(ValueError, match="no image size.*480x832"):
        read_cameras(path)
    K = read_cameras(path, size=(800, 800)).camera.K[0]
    assert K.flatten().tolist() == pytest.approx([1111.1110311937682, 0, 400, 0, 1111.1110311937682, 400, 0, 0, 1])


def test_a_frames_own_intrinsics_and_contradictions(write):
    frames = [{"file_path": f"{i}", "transform_matrix": IDENTITY, "k1": 0.1 * i} for i in range(3)]
    sequence = read_cameras(write(frames))
    assert sequence.distortion.coefficients[:, 0].tolist() == pytest.approx([0, 0.1, 0.2])
    del frames[2]["k1"]
    assert read_cameras(write(frames)).distortion.coefficients[:, 0].tolist() == pytest.approx([0, 0.1, 0])
    with pytest.raises(ValueError, match=r"frames\[0\]\.fl_x: is 50 here and 53 for the whole file"):
        read_cameras(write([{"file_path": "a", "transform_matrix": IDENTITY, "fl_x": 50}]))
    with pytest.raises(ValueError, match="camera_angle_x: means a focal length"):
        read_cameras(write(camera_angle_x=0.6))


@pytest.mark.parametrize("field", [{"camera_model": "OPENCV_FISHEYE"}, {"is_fisheye": True}, {"k4": 0.1}])
def test_other_lenses_are_refused(write, field):
    with pytest.raises(ValueError, match="not supported"):
        read_cameras(write(**field))


def test_the_worlds_movement_stays_or_is_undone(write):
    moved = {"applied_transform": [[0, 1, 0, 3], [1, 0, 0, 5], [0, 0, -1, 7]], "applied_scale": 2.0}
    path = write(**moved)
    kept, undone = read_cameras(path), read_cameras(path, undo_applied_transform=True)
    assert kept.camera.c2w[0, :3, 3].tolist() == [0, 0, 0]
    assert undone.camera.c2w[0, :3, 3].tolist() == [-5, -3, 7]
    torch.testing.assert_close(torch.linalg.det(undone.camera.c2w[0, :3, :3]).item(), 1.0)
    with pytest.raises(ValueError, match="no applied_transform to undo"):
        read_cameras(write(), undo_applied_transform=True)


def test_frames_out_of_order_are_asked_about(write):
    frames = [{"file_path": f"f_{i}.png", "transform_matrix": IDENTITY} for i in (1, 10, 2)]
    path = write(frames)
    with pytest.raises(ValueError, match=r"frames\[1\]: is 'f_10.png', but 'f_2.png' comes first by name.*order"):
        read_cameras(path)
    assert read_cameras(path, order="name").names == ("f_1.png", "f_2.png", "f_10.png")
    assert read_cameras(path, order="file").names == ("f_1.png", "f_10.png", "f_2.png")


def test_a_folder_with_the_file_is_enough(write):
    assert read_cameras(write().parent).num_frames == 1
