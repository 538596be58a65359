"""The way to Depth Anything 3 and back, with a package of the same interface in its place: no weights are here."""

import os
import stat
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from mvtrack.geometry.path_language import parse_path
from mvtrack.inference.camera_estimation.depth_anything import DepthAnythingConfig, recover_with_depth_anything
from mvtrack.inference.camera_estimation.estimated_cameras import CameraEstimationError
from mvtrack.inference.external_program import WorkerError
from mvtrack.metrics.camera_accuracy import camera_accuracy

T, SIZE = 5, (90, 160)
PACKAGE = """
from types import SimpleNamespace
import numpy as np
from PIL import Image

class DepthAnything3:
    @classmethod
    def from_pretrained(cls, name):
        if name == "gone":
            raise OSError("gone is not a folder and not on the hub")
        model = cls()
        model.name = name
        return model

    def to(self, device):
        return self

    def eval(self):
        return self

    def inference(self, image, use_ray_pose=False, ref_view_strategy="", process_res=504):
        assert [Image.open(file).size for file in image] == [(160, 90)] * 5
        assert (use_ray_pose, ref_view_strategy, process_res) == (True, "middle", 504)
        given = np.load(PATH)
        extrinsics = given["w2c"].astype(np.float32)
        if self.name == "mono":
            extrinsics = None
        depth = np.full((5, 280, 504), 3.0, np.float32)
        depth[0, 0, :9] = np.nan
        return SimpleNamespace(
            extrinsics=extrinsics, intrinsics=given["K"].astype(np.float32), depth=depth,
            is_metric=int(self.name == "nested"),
        )
"""

# what the worker asks of it; importing the real one costs seconds
TORCH = """
manual_seed = int

class cuda:
    is_available = bool
"""


@pytest.fixture
def true_c2w() -> torch.Tensor:
    return parse_path("arc_left 20 + tilt_up 5").poses(T)


@pytest.fixture
def python(tmp_path, true_c2w) -> Path:
    """An interpreter that finds a package depth_anything_3, which answers with an arc."""
    package = tmp_path / "site/depth_anything_3"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (tmp_path / "site/torch.py").write_text(TORCH)
    (package / "api.py").write_text(PACKAGE.replace("PATH", repr(str(tmp_path / "poses.npz"))))
    K = np.array([[400.0, 0, 252], [0, 410.0, 140], [0, 0, 1]])
    np.savez(tmp_path / "poses.npz", w2c=np.linalg.inv(true_c2w.numpy())[:, :3], K=np.tile(K, (T, 1, 1)))
    script = tmp_path / "python"
    script.write_text(f'#!/bin/sh\nPYTHONPATH="{tmp_path}/site" exec "{sys.executable}" "$@"\n')
    os.chmod(script, script.stat().st_mode | stat.S_IXUSR)
    return script


def recover(python: Path, model: str = "some/model"):
    frames = np.zeros((T, *SIZE, 3), np.uint8)
    return recover_with_depth_anything(frames, DepthAnythingConfig(python, model, ray_pose=True))


def test_world_to_camera_becomes_camera_to_world(python, true_c2w):
    found = recover(python)
    assert max(camera_accuracy(found.camera.c2w, true_c2w, "gt_max").means().values()) < 1e-4
    assert found.camera.size == SIZE
    torch.testing.assert_close(found.camera.K[0, 0], torch.tensor([400.0, 0, 252]).double() * 160 / 504)
    torch.testing.assert_close(found.camera.K[0, 1], torch.tensor([0, 410.0, 140]).double() * 90 / 280)
    assert found.median_depth == 3.0
    assert (found.coverage, found.camera.scale_known) == (1.0, False)
    assert recover(python, "nested").camera.scale_known


def test_frames_whose_pose_is_none_are_not_found(python, tmp_path, true_c2w):
    with np.load(tmp_path / "poses.npz") as arrays:
        w2c, K = arrays["w2c"], arrays["K"]
    w2c[1, 0, 0], w2c[3, :, :3] = np.nan, 0.5
    np.savez(tmp_path / "poses.npz", w2c=w2c, K=K)
    found = recover(python)
    assert found.found.tolist() == [True, False, True, False, True]
    accuracy = camera_accuracy(found.camera.c2w, true_c2w, "gt_max", found.found)
    assert max(accuracy.means().values()) < 1e-4
    np.savez(tmp_path / "poses.npz", w2c=w2c * np.nan, K=K)
    with pytest.raises(CameraEstimationError, match="no pose that is a number and a rotation"):
        recover(python)


def test_failures_are_one_line(python, tmp_path):
    with pytest.raises(WorkerError, match="worker.py failed: OSError: gone is not a folder and not on the hub$"):
        recover(python, "gone")
    with pytest.raises(WorkerError, match="the model mono gives no cameras: take one of the any-view series"):
        recover(python, "mono")
    assert "environments.depth_anything_3: da3/bin/python in --settings" in DepthAnythingConfig().program.missing()
    bare = DepthAnythingConfig(Path(sys.executable))
    assert bare.program.missing() == f"the package depth_anything_3 in {sys.executable}"
    with pytest.raises(ValueError, match="cameras cannot be measured: missing the package depth_anything_3"):
        recover_with_depth_anything(np.zeros((T, *SIZE, 3), np.uint8), bare)
