"""ReCamMaster's files against the peers' own numbers, and by hand."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from mvtrack.geometry.camera import relative_pose
from mvtrack.geometry.pose_files import read_cameras

SIZE = {"size": (720, 1280), "focal_mm": 24}
SYNTHETIC = Path(__file__).parents[2] / "golden/cameras_synthetic.json"


def relative(sequence):
    return relative_pose(sequence.camera.c2w[0], sequence.camera.c2w).numpy()


@pytest.mark.shared
@pytest.mark.parametrize("number", range(1, 11))
def test_golden_presets_relative_to_their_first_frame(shared, shared_numbers, number):
    golden = shared_numbers("golden/backbones/cameras.npz")
    path = shared("data/recammaster/camera_extrinsics.json")
    ours = relative(read_cameras(path, camera=number, **SIZE))
    np.testing.assert_allclose(ours, golden["rd_infer_rel_81"][number - 1], atol=1e-5)
    np.testing.assert_allclose(ours[:, :3].reshape(81, 12), golden["rc_infer_81"][number - 1], atol=1e-5)


def test_golden_random_paths_relative_to_another_camera(golden_numbers):
    golden = golden_numbers("cameras")
    cameras = [read_cameras(SYNTHETIC, camera=n, **SIZE).camera for n in (1, 2, 3)]
    for number, camera in enumerate(cameras):
        own = relative_pose(camera.c2w[0], camera.c2w).numpy()
        np.testing.assert_allclose(own, golden["syn_rd_infer_rel_81"][number], atol=1e-5)
    for source, target in ((1, 3), (2, 1)):
        theirs = golden[f"pair_c{source:02d}_t{target:02d}_rc_train_81"].reshape(81, 3, 4)
        ours = relative_pose(cameras[source - 1].c2w[0], cameras[target - 1].c2w)[:, :3].numpy()
        np.testing.assert_allclose(ours, theirs, atol=2e-5)


def write(path, *rows, camera="cam01"):
    path.write_text(json.dumps({f"frame{i}": {camera: row} for i, row in enumerate(rows)}))
    return path


def test_by_hand_axes_unit_and_rows(tmp_path, rotation_about):
    # Unreal: x forward, y right, z up; row vectors; centimetres. A yaw of 90 degrees to the right takes forward
    # (first row) to right.
    path = write(
        tmp_path / "a.json",
        "[1 0 0 0] [0 1 0 0] [0 0 1 0] [100 200 300 1] ",
        "[0 1 0 0] [-1 0 0 0] [0 0 1 0] [100 200 300 1] ",
    )
    sequence = read_cameras(path, size="720x1280", fov=90)
    torch.testing.assert_close(sequence.camera.c2w[0, :3, 3], torch.tensor([2.0, -3.0, 1.0]).double())
    torch.testing.assert_close(sequence.camera.c2w[0, :3, :3], torch.eye(3).double())
    torch.testing.assert_close(sequence.camera.c2w[1, :3, :3], rotation_about(1, 90), atol=1e-12, rtol=0)
    assert sequence.camera.scale_known
    assert sequence.camera.K[0].tolist() == pytest.approx(np.array([[640, 0, 640], [0, 640, 360], [0, 0, 1]]), abs=1e-9)


def test_focal_length_in_millimetres_is_on_multicamvideos_sensor(tmp_path):
    path = write(tmp_path / "a.json", "[1 0 0 0] [0 1 0 0] [0 0 1 0] [0 0 0 1]")
    assert read_cameras(path, **SIZE).camera.K[0, 0, 0] == pytest.approx(24 / 23.76 * 1280)
    assert read_cameras(path, sensor_mm=36, **SIZE).camera.K[0, 0, 0] == pytest.approx(24 / 36 * 1280)


def test_what_is_missing_is_asked_for(tmp_path):
    row = "[1 0 0 0] [0 1 0 0] [0 0 1 0] [0 0 0 1]"
    path = write(tmp_path / "a.json", row)
    with pytest.raises(ValueError, match=r"a\.json.*size.*480x832"):
        read_cameras(path)
    with pytest.raises(ValueError, match=r"a\.json.*no intrinsics.*fov"):
        read_cameras(path, size=(46, 62))
    path.write_text(json.dumps({"frame0": {"cam01": row, "cam07": row}}))
    with pytest.raises(ValueError, match="holds 2 cameras.*cam01, cam07"):
        read_cameras(path, **SIZE)
    with pytest.raises(ValueError, match="no camera 'cam02'; it has cam01, cam07"):
        read_cameras(path, camera="2", **SIZE)
    assert read_cameras(path, camera="7", **SIZE).num_frames == 1
    assert read_cameras(path, camera="cam07", **SIZE).num_frames == 1
