"""dycheck's camera files against dycheck's own projections."""

import json

import numpy as np
import pytest
import torch

from mvtrack.geometry.camera import project, unproject
from mvtrack.geometry.pose_files import read_cameras
from mvtrack.geometry.pose_files.distortion import distort_pixels, undistort_pixels


@pytest.fixture
def golden(shared):
    with np.load(shared("golden/metrics/dycheck_camera.npz")) as arrays:
        return dict(arrays)


@pytest.fixture
def read_golden(tmp_path, golden):
    """Write a golden camera as the file it came from, and read it."""

    def read(index: int):
        fields = ("orientation", "position", "focal_length", "principal_point", "image_size", "skew",
                  "pixel_aspect_ratio", "radial_distortion", "tangential_distortion")  # fmt: skip
        path = tmp_path / f"{golden['names'][index]}.json"
        path.write_text(json.dumps({key: golden[f"cam.{key}"][index].tolist() for key in fields}))
        return read_cameras(path)

    return read


@pytest.mark.shared
@pytest.mark.parametrize("index", range(15))
def test_golden_matrices_and_projections(golden, read_golden, index):
    sequence = read_golden(index)
    camera = sequence.camera
    np.testing.assert_allclose(camera.K[0], golden["intrin"][index], atol=1e-4)
    np.testing.assert_allclose(torch.linalg.inv(camera.c2w[0]), golden["extrin_w2c"][index], atol=2e-6)
    xy, depth = project(torch.from_numpy(golden["points"]).double(), camera[0])
    np.testing.assert_allclose(depth, golden["points_zdepth"][index, :, 0], rtol=1e-5, atol=1e-5)
    if sequence.distortion is not None:
        xy = distort_pixels(xy, camera.K[0], sequence.distortion)[0]
    theirs = np.abs(golden["points_project"][index])
    # Theirs is float32: where the depth is nearly nothing, its rounding moves far pixels.
    allowed = np.maximum(2e-3, theirs * (1e-6 + 2e-7 / np.abs(depth.numpy())[:, None]))
    assert (np.abs(xy.numpy() - golden["points_project"][index]) <= allowed).all()


@pytest.mark.shared
@pytest.mark.parametrize("index", range(15))
def test_golden_unprojection_through_the_lens(golden, read_golden, index):
    sequence = read_golden(index)
    xy, camera = torch.from_numpy(golden["pixels"]).double(), sequence.camera
    if sequence.distortion is not None:
        xy, found = undistort_pixels(xy, camera.K[0], sequence.distortion)
        xy = xy.view(-1, 2)
        assert found.all()
    world = unproject(xy, torch.from_numpy(golden["depth"][:, 0]).double(), camera[0])
    np.testing.assert_allclose(world, golden["unproject_zdepth"][index], rtol=2e-5, atol=2e-5)


@pytest.mark.shared
def test_real_folder_of_three_cameras(shared):
    folder = shared("data/iphone_cameras/0_00000.json").parent
    with pytest.raises(ValueError, match="holds 3 cameras.*0, 1, 2"):
        read_cameras(folder)
    for camera, count in ((0, 5), ("1", 4), (2, 3)):
        sequence = read_cameras(folder, camera=camera)
        assert sequence.num_frames == count
        assert sequence.camera.size == (960, 720)
        assert sequence.unit == "unknown"
        for index, name in enumerate(sequence.names):
            file = json.loads((folder / f"{name}.json").read_text())
            assert sequence.camera.c2w[index, :3, 3].tolist() == file["position"]
            assert sequence.camera.c2w[index, :3, :3].mT.tolist() == file["orientation"]


@pytest.mark.shared
def test_golden_cameras_that_stand_still_are_the_folders(shared, golden):
    folder = shared("data/iphone_cameras/0_00000.json").parent
    for camera, name in ((1, "1_00094"), (2, "2_00097")):
        theirs = golden["extrin_w2c"][golden["names"].tolist().index(name)]
        ours = torch.linalg.inv(read_cameras(folder, camera=camera).camera.c2w)
        np.testing.assert_allclose(ours, np.broadcast_to(theirs, ours.shape), atol=2e-6)


def test_frames_are_read_in_order_of_their_numbers(tmp_path, sequence):
    from mvtrack.geometry.pose_files import write_cameras

    folder = write_cameras(tmp_path / "cameras", sequence, "dycheck")
    for index in range(5):
        (folder / f"frame_{index:05d}.json").rename(folder / f"0_{8 + index}.json")
    assert read_cameras(folder).names == ("0_8", "0_9", "0_10", "0_11", "0_12")
