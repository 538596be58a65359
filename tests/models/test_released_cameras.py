"""Cameras as ReCamMaster and ReDirector take them, against numbers of their own data and inference code."""

from pathlib import Path

import numpy as np
import pytest
import torch

from mvtrack.config.encoders import CodecConfig
from mvtrack.config.model import DiTConfig, ModelConfig
from mvtrack.geometry.camera import Camera
from mvtrack.geometry.pose_files import read_cameras
from mvtrack.models.conditioning import Window, plucker_maps, pose_rows, relative_cameras, released_cameras

SYNTHETIC = Path(__file__).parents[1] / "golden/cameras_synthetic.json"
LENS = {"size": (720, 1280), "focal_mm": 24}
SINGLE, DOUBLE = 2e-6, 1e-9


def pair(source: Camera, target: Camera) -> Camera:
    return Camera.stack([source, target])


def close(ours, theirs, tolerance):
    np.testing.assert_allclose(np.asarray(ours), theirs, atol=tolerance, rtol=0)


def recammaster_rows(cameras, origin):
    """Both views' rows; the source gets the target's."""
    rows = pose_rows(relative_cameras(cameras, origin), "target")
    assert torch.equal(rows[0], rows[1])
    return rows[1]


@pytest.mark.parametrize(
    ("released", "prefix", "count"),
    [pytest.param("data/recammaster/camera_extrinsics.json", "", 10, marks=pytest.mark.shared), (None, "syn_", 3)],
)
def test_golden_poses_of_inference(shared, shared_numbers, golden_numbers, released, prefix, count):
    golden = shared_numbers("golden/backbones/cameras.npz") if released else golden_numbers("cameras")
    path = shared(released) if released else SYNTHETIC
    for number in range(count):
        camera = read_cameras(path, camera=number + 1, **LENS).camera
        relative = relative_cameras(pair(camera, camera), "own")
        close(relative.c2w[1], golden[f"{prefix}rd_infer_rel_81"][number], DOUBLE)
        close(relative.c2w[1, :, :3].flatten(1).float(), golden[f"{prefix}rc_infer_81"][number], SINGLE)
        rows = recammaster_rows(pair(camera, camera), "own")
        close(rows, golden[f"{prefix}rc_infer_21"][number], SINGLE)
        if not prefix:
            close(rows.bfloat16().float(), golden["rc_infer_21_bf16"][number], SINGLE)


@pytest.mark.parametrize(("source", "target"), [(1, 3), (2, 1)])
def test_golden_poses_of_training(golden_numbers, source, target):
    golden = golden_numbers("cameras")
    cameras = pair(*(read_cameras(SYNTHETIC, camera=n, **LENS).camera for n in (source, target)))
    name = f"pair_c{source:02d}_t{target:02d}"
    rows = recammaster_rows(cameras, "reference")
    close(rows, golden[f"{name}_rc_train_21"], SINGLE)
    close(rows.bfloat16().float(), golden[f"{name}_rc_train_21_bf16"], SINGLE)
    for reverse in ("", "reversed_"):
        relative = relative_cameras(cameras if not reverse else cameras[:, list(range(80, -1, -1))], "reference")
        for view, role in enumerate(("source", "target")):
            theirs = golden[f"{name}_rd_train_{reverse}{role}"]
            close(relative.c2w[view, :, :3].flatten(1), theirs[:, 7:], DOUBLE)
            for axis in (0, 1):  # both as shares of the width; stored by them from float32
                close(relative.K[view, :, axis, axis] / 1280, theirs[:, 1 + axis], SINGLE)


def camera_of_rows(rows, size, square: bool) -> Camera:
    """Their rows of 19 numbers as our camera. square: focal lengths are shares of the longer side (their training)."""
    rows, (height, width) = torch.from_numpy(rows), size
    long = max(size)
    K = torch.zeros(len(rows), 3, 3)
    K[:, 0, 0], K[:, 1, 1] = rows[:, 1] * (long if square else width), rows[:, 2] * (long if square else height)
    K[:, 0, 2], K[:, 1, 2], K[:, 2, 2] = rows[:, 3] * width, rows[:, 4] * height, 1
    c2w = torch.eye(4).repeat(len(rows), 1, 1)
    c2w[:, :3] = rows[:, 7:].view(-1, 3, 4)
    return Camera(c2w, K, size)


@pytest.mark.parametrize(
    ("name", "size"),
    [("12x20", (12, 20)), ("20x12", (20, 12)), pytest.param("preset", (12, 20), marks=pytest.mark.shared)],
)
def test_golden_plucker_maps(golden_numbers, shared_numbers, name, size):
    golden = shared_numbers("golden/backbones/cameras.npz") if name == "preset" else golden_numbers("cameras")
    for setting in ("infer", "train"):
        if f"plucker_{name}_{setting}" not in golden:
            continue
        camera = camera_of_rows(golden[f"plucker_{name}_traj"][0], size, setting == "train")
        maps = plucker_maps(Camera.stack([camera]), "moment_first")[0]
        frames = maps.unflatten(1, (6, 4))  # their channels: coordinate * 4 + frame
        theirs = torch.from_numpy(golden[f"plucker_{name}_{setting}"])[0].permute(0, 3, 1, 2)  # T c H W
        for k in range(4):
            close(frames[1:, :, k], theirs[1 + k :: 4], 1e-5)
            close(frames[0, :, k], theirs[0], 1e-5)
        if f"plucker_{name}_{setting}_packed" in golden:
            close(maps.transpose(0, 1), golden[f"plucker_{name}_{setting}_packed"][0], 1e-5)
        back = plucker_maps(Camera.stack([camera]), "direction_first")[0]
        assert torch.equal(torch.cat([back[:, 12:], back[:, :12]], 1), maps)


def moving(views, frames=9, size=(32, 48)) -> Camera:
    g = torch.Generator().manual_seed(3)
    axes = torch.linalg.qr(torch.randn(1, views, frames, 3, 3, generator=g, dtype=torch.float64))[0]
    c2w = torch.eye(4, dtype=torch.float64).repeat(1, views, frames, 1, 1)
    c2w[..., :3, :3], c2w[..., :3, 3] = axes, torch.randn(1, views, frames, 3, generator=g, dtype=torch.float64)
    K = torch.tensor([[40.0, 0, 24], [0, 40, 16], [0, 0, 1]], dtype=torch.float64).expand(1, views, frames, 3, 3)
    return Camera(c2w, K, size)


def with_branches(**switches) -> ModelConfig:
    return ModelConfig(dit=DiTConfig(**switches), codec=CodecConfig(channels=16, stride=8))


def test_released_inputs_follow_branches():
    window = Window(moving(2))
    assert released_cameras(window, with_branches()) == (None, None)
    poses, maps = released_cameras(window, with_branches(pose_encoder=True))
    assert poses.shape == (1, 2, 3, 12)
    assert maps is None
    poses, maps = released_cameras(window, with_branches(control_adapter=True))
    assert maps.shape == (1, 2, 3, 24, 32, 48)
    assert poses is None


def test_target_views_keep_own_poses():
    relative = relative_cameras(moving(4), "reference")
    rows = pose_rows(relative, "target", num_reference=2)
    own = pose_rows(relative, "own")
    assert torch.equal(rows[:, 2:], own[:, 2:])
    assert torch.equal(rows[:, 0], own[:, 2])
    assert torch.equal(rows[:, 1], own[:, 2])
    torch.testing.assert_close(own[0, 0, 0].view(3, 4), torch.eye(4)[:3])


@pytest.mark.parametrize("moves", [False, True])
def test_windows_continue_native_poses(moves):
    """The true motion from the window's first reference frame on, for paths that start where the reference does."""
    camera, begin = moving(2, frames=17), slice(0, 5)
    c2w = camera.c2w.clone()
    c2w[:, 1] = c2w[:, 0, :1] @ torch.linalg.inv(c2w[:, 1, :1]) @ c2w[:, 1]
    if not moves:
        c2w[:, 0] = c2w[:, 0, :1]
    camera = Camera(c2w, camera.K, camera.size)
    start = c2w[:, :, 0]
    close(
        relative_cameras(camera[:, :, begin], "own", start).c2w, relative_cameras(camera[:, :, begin], "own").c2w, 1e-9
    )
    for window in (slice(4, 9), slice(8, 17)):
        part = camera[:, :, window]
        close(relative_cameras(part, "own", start).c2w, relative_cameras(part, "reference").c2w, 1e-9)
        assert not torch.allclose(relative_cameras(part, "own", start).c2w[:, 1, 0], torch.eye(4).double())


def test_native_poses_ignore_path_start():
    camera = moving(2, frames=9)
    away = moving(1, frames=1).c2w[0, 0, 0]
    c2w = camera.c2w.clone()
    c2w[:, 1] = away @ c2w[:, 1]
    moved = Camera(c2w, camera.K, camera.size)
    window = slice(4, 9)
    one, other = (relative_cameras(x[:, :, window], "own", x.c2w[:, :, 0]).c2w for x in (camera, moved))
    close(one, other, 1e-9)
    at_reference, at_video = (
        relative_cameras(x[:, :, window], "reference", x.c2w[:, :, 0]).c2w for x in (camera, moved)
    )
    assert (at_reference - at_video).abs().max() > 0.1


def test_invalid_cameras_raise():
    with pytest.raises(ValueError, match=r"with a target after 2 references, got \(1, 2, 9\)"):
        released_cameras(Window(moving(2)), with_branches(pose_encoder=True), num_reference=2)
    with pytest.raises(ValueError, match=r"4n \+ 1"):
        released_cameras(Window(moving(2, frames=8)), with_branches(pose_encoder=True))
