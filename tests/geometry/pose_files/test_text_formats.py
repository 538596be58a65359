"""RealEstate10K and TUM by hand, from the formats' documents."""

import pytest
import torch

from mvtrack.geometry.camera import project
from mvtrack.geometry.pose_files import read_cameras

URL = "https://www.youtube.com/watch?v=example\n"


def test_realestate10k_by_hand(tmp_path, rotation_about):
    # Columns: microseconds, fx/w, fy/h, cx/w, cy/h, 0, 0, world-to-camera row by row.
    path = tmp_path / "scene.txt"
    path.write_text(
        URL + "52553000 0.5 0.875 0.5 0.5 0 0 1 0 0 0.25 0 1 0 -0.5 0 0 1 2\n"
        "52719000 0.5 0.875 0.5 0.5 0.0 0.0 0 0 -1 0 0 1 0 0 1 0 0 2\n"
    )
    sequence = read_cameras(path, size=(46, 62))
    assert sequence.camera.K[0].tolist() == [[31, 0, 31], [0, 40.25, 23], [0, 0, 1]]
    torch.testing.assert_close(sequence.camera.c2w[0, :3, 3], torch.tensor([-0.25, 0.5, -2]).double())
    torch.testing.assert_close(sequence.camera.c2w[1, :3, :3], rotation_about(1, 90), atol=1e-12, rtol=0)
    assert sequence.timestamps_s.tolist() == [52.553, 52.719]
    assert sequence.names == ("52553000", "52719000")
    assert sequence.unit == "unknown"
    # A point at (0.25, 0.25) of 2 m depth in camera axes of the first frame lies at 0.5 + 0.5 * 0.125 of the width.
    xy, _ = project(torch.tensor([[0.0, 0.75, 0.0]]).double(), sequence.camera[0])
    torch.testing.assert_close(xy[0], torch.tensor([31 + 31 * 0.125, 23 + 40.25 * 0.125]).double())


def test_intrinsics_follow_the_size_that_is_asked_for(tmp_path):
    path = tmp_path / "scene.txt"
    path.write_text(URL + "0 0.5 0.875 0.5 0.5 0 0 1 0 0 0 0 1 0 0 0 0 1 0\n")
    small, large = (read_cameras(path, size=size).camera for size in ((23, 31), "46x62"))
    torch.testing.assert_close(small.resized((46, 62)).K, large.K)


def test_tum_by_hand(tmp_path):
    # cvg.cit.tum.de: timestamp tx ty tz qx qy qz qw, the camera's pose in the world. A turn of 90 degrees about y
    # takes the camera's forward to the world's right.
    path = tmp_path / "groundtruth.txt"
    path.write_text(
        "# ground truth trajectory\n# timestamp tx ty tz qx qy qz qw\n"
        "1305031098.6659 1.3563 0.6305 1.6380 0 0.70710678 0 0.70710678\n"
        "1305031098.6758 1.3543 0.6306 1.6360 -0 -0.70710678 0 -0.70710678\n"
    )
    sequence = read_cameras(path, size=(46, 62), fov=90)
    forward, right = sequence.camera.c2w[:, :3, 2], sequence.camera.c2w[:, :3, 0]
    torch.testing.assert_close(forward, torch.tensor([[1.0, 0, 0]] * 2).double(), atol=1e-7, rtol=0)
    torch.testing.assert_close(right, torch.tensor([[0, 0, -1.0]] * 2).double(), atol=1e-7, rtol=0)
    assert sequence.camera.c2w[0, :3, 3].tolist() == [1.3563, 0.6305, 1.638]
    assert sequence.names == ("1305031098.6659", "1305031098.6758")
    assert sequence.camera.K[0].flatten().tolist() == pytest.approx([31, 0, 31, 0, 31, 23, 0, 0, 1])


def test_tum_asks_for_size_and_lens(tmp_path):
    path = tmp_path / "groundtruth.txt"
    path.write_text("1.0 0 0 0 0 0 0 1\n")
    with pytest.raises(ValueError, match=r"groundtruth\.txt.*option size.*480x832"):
        read_cameras(path)
    with pytest.raises(ValueError, match="fov.*focal_px.*focal_mm"):
        read_cameras(path, size=(46, 62))


def test_windows_line_ends_and_byte_order_marks_are_read(tmp_path):
    path = tmp_path / "groundtruth.txt"
    path.write_bytes(b"\xef\xbb\xbf# a\r\n1.0 0 0 0 0 0 0 1\r\n2.0 0 0 0 0 0 0 1\r\n")
    assert read_cameras(path, size=(46, 62), fov=50).names == ("1.0", "2.0")
