"""Files of other programs, each made here as that program writes it: a pan to the right by 20 degrees that moves by
(0.5, 0.25, -1)."""

import io
import json
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from mvtrack.geometry.pose_files import read_cameras
from mvtrack.geometry.pose_files.geometry import axes_from_opencv
from mvtrack.geometry.rotation import quaternion_from_matrix, rotation_matrix

T, H, W, F = 7, 46, 62, 53.0
LENS = {"size": (H, W), "focal_px": F}


@pytest.fixture
def c2w() -> torch.Tensor:
    u = torch.linspace(0, 1, T, dtype=torch.float64)[:, None]
    poses = torch.eye(4, dtype=torch.float64).repeat(T, 1, 1)
    poses[:, :3, :3] = rotation_matrix(u * torch.tensor([0, np.radians(20), 0]))
    poses[:, :3, 3] = u * torch.tensor([0.5, 0.25, -1], dtype=torch.float64)
    return poses


def opengl(c2w: torch.Tensor) -> torch.Tensor:
    return axes_from_opencv(c2w, "opengl")


def kitti(folder, c2w):
    path = folder / "00.txt"
    np.savetxt(path, c2w[:, :3].flatten(1).numpy(), fmt="%.17e")
    return path, LENS


def vipe(folder, c2w):
    path = folder / "shot_pose.npz"
    frames = np.arange(T)
    np.savez(path, data=c2w.numpy(), inds=frames)
    np.savez(folder / "shot_intrinsics.npz", data=np.tile([F, F, W / 2, H / 2], (T, 1)), inds=frames)
    return path, {"size": (H, W)}


def megasam(folder, c2w):
    path = folder / "shot_sgd_cvd_hr.npz"
    K = np.array([[F, 0, W / 2], [0, F, H / 2], [0, 0, 1]])
    np.savez_compressed(path, images=np.zeros((T, H, W, 3), np.uint8), intrinsic=K, cam_c2w=c2w.numpy())
    return path, {}


def vggt(folder, c2w):
    path = folder / "predictions.npz"
    K = np.array([[F, 0, W / 2], [0, F, H / 2], [0, 0, 1]])
    w2c = torch.linalg.inv(c2w)[:, :3].numpy()
    images = np.zeros((T, 3, H, W), np.float32)
    np.savez(path, images=images, extrinsic=w2c, intrinsic=np.tile(K, (T, 1, 1)), depth=np.zeros((T, H, W, 1)))
    return path, {}


def llff(folder, c2w):
    path = folder / "poses_bounds.npy"
    hwf = np.tile(np.array([[H], [W], [F]]), (T, 1, 1))
    matrix = np.concatenate([axes_from_opencv(c2w, "llff")[:, :3].numpy(), hwf], -1)
    np.save(path, np.concatenate([matrix.reshape(T, 15), np.ones((T, 2))], -1))
    return path, {}


def record3d_metadata(c2w) -> dict:
    poses = opengl(c2w)
    xyzw = quaternion_from_matrix(poses[:, :3, :3])[:, [1, 2, 3, 0]]
    K = [F, 0, 0, 0, F, 0, W / 2, H / 2, 1]
    return {"w": W, "h": H, "fps": 8, "K": K, "poses": torch.cat([xyzw, poses[:, :3, 3]], -1).tolist()}


def record3d(folder, c2w):
    path = folder / "metadata.json"
    path.write_text(json.dumps(record3d_metadata(c2w)))
    return path, {}


def record3d_recording(folder, c2w):
    path = folder / "shot.r3d"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("metadata", json.dumps(record3d_metadata(c2w)))
        archive.writestr("rgbd/0.jpg", b"a picture")
    return path, {}


def polycam(folder, c2w):
    for index, pose in enumerate(opengl(c2w).tolist()):
        tree = {f"t_{row}{column}": pose[row][column] for row in range(3) for column in range(4)}
        lens = {"fx": F, "fy": F, "cx": W / 2, "cy": H / 2, "width": W, "height": H, "blur_score": 90.5}
        time = 262195552056 + 100_000 * index * index
        (folder / f"{time}.json").write_text(json.dumps(tree | lens | {"timestamp": time}))
    return folder, {}


def camera_path(folder, c2w):
    path = folder / "camera_path.json"
    fov = float(np.degrees(2 * np.arctan(H / 2 / F)))
    frames = [{"camera_to_world": m.flatten().tolist(), "fov": fov, "aspect": W / H} for m in opengl(c2w)]
    sizes = {"render_height": H, "render_width": W, "fps": 8, "seconds": T / 8}
    path.write_text(json.dumps({"camera_type": "perspective", "keyframes": [], "camera_path": frames, **sizes}))
    return path, {}


def ns_export(folder, c2w):
    path = folder / "transforms_train.json"
    frames = [{"file_path": f"frame_{i:05d}.png", "transform": m[:3].tolist()} for i, m in enumerate(opengl(c2w))]
    path.write_text(json.dumps(frames))
    return path, LENS


PROGRAMS = {
    "kitti": kitti, "vipe": vipe, "megasam": megasam, "vggt": vggt, "llff": llff, "record3d": record3d,
    "record3d recording": record3d_recording, "polycam": polycam, "camera_path": camera_path, "ns_export": ns_export,
}  # fmt: skip


@pytest.mark.parametrize("program", PROGRAMS)
def test_programs_files_give_their_poses_and_lens(tmp_path, c2w, program):
    path, options = PROGRAMS[program](tmp_path, c2w)
    sequence = read_cameras(path, **options)
    torch.testing.assert_close(sequence.camera.c2w, c2w, atol=1e-12, rtol=0)
    K = torch.tensor([[F, 0, W / 2], [0, F, H / 2], [0, 0, 1]], dtype=torch.float64).expand(T, 3, 3)
    torch.testing.assert_close(sequence.camera.K, K, atol=1e-10, rtol=0)
    assert sequence.camera.size == (H, W)
    assert sequence.unit == ("metres" if program.split()[0] in ("record3d", "polycam") else "unknown")
    named = read_cameras(path, program.split()[0], **options)
    assert named.convention == sequence.convention


def test_times_of_programs_are_kept(tmp_path, c2w):
    uneven = read_cameras(polycam(tmp_path, c2w)[0]).timestamps_s
    torch.testing.assert_close(uneven - uneven[0], 0.1 * torch.arange(T).double() ** 2, atol=1e-9, rtol=0)
    even = read_cameras(camera_path(tmp_path, c2w)[0]).timestamps_s
    assert even.tolist() == [index / 8 for index in range(T)]


def test_large_pictures_beside_the_poses_are_not_unpacked(tmp_path, c2w):
    path = tmp_path / "big.npz"
    K = np.array([[F, 0, W / 2], [0, F, H / 2], [0, 0, 1]])
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (T, 4000, 6000, 3)})
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("images.npy", header.getvalue() + bytes(40 << 20))
        for name, value in (("cam_c2w", c2w.numpy()), ("intrinsic", K)):
            buffer = io.BytesIO()
            np.save(buffer, value)
            archive.writestr(f"{name}.npy", buffer.getvalue())
    assert read_cameras(path).camera.size == (4000, 6000)


def huge_width(recording: Path) -> None:
    with zipfile.ZipFile(recording) as archive:
        text = archive.read("metadata").decode()
    with zipfile.ZipFile(recording, "w") as archive:
        archive.writestr("metadata", re.sub(r'"w": \d+', '"w": ' + "9" * 5000, text))


@pytest.mark.parametrize(
    ("program", "change", "message"),
    [
        ("record3d recording", huge_width, "an integer of 5000 digits"),
        ("kitti", lambda p: p.write_text(p.read_text()[:-30]), "line 7: has 11 columns, expected 12"),
        ("vipe", lambda p: np.savez(p, data=np.eye(4)[None], inds=[0, 1]), "inds: expected 1 frame numbers"),
        ("vipe", lambda p: np.savez(p, data=np.eye(4)[None], inds=[3]), "are of different frames"),
        ("megasam", lambda p: np.savez(p, cam_c2w=np.eye(4), intrinsic=np.eye(3)), r"cam_c2w: .*\(T, 4, 4\)"),
        ("vggt", lambda p: np.savez(p, extrinsic=np.eye(4)[None, :3], intrinsic=np.eye(3)), "intrinsic: expected"),
        ("llff", lambda p: np.save(p, np.zeros((3, 14))), r"expected numbers of shape \(T, 17\)"),
        ("record3d", lambda p: p.write_text(p.read_text().replace('"K": [53.0,', '"K": [')), "K: expected a list of 9"),
        ("polycam", lambda p: sorted(p.glob("*.json"))[3].write_text('{"t_00": 1}'), "'height' is missing"),
        ("camera_path", lambda p: p.write_text(p.read_text().replace("perspective", "fisheye")), "expected 'persp"),
        ("ns_export", lambda p: p.write_text(p.read_text().replace("frame_00001.png", "")), "0 characters"),
    ],
)  # fmt: skip
def test_damaged_files_of_programs_say_where_and_what(tmp_path, c2w, unchecked, program, change, message):
    path, options = PROGRAMS[program](tmp_path, c2w)
    change(path)
    with pytest.raises(ValueError, match=message) as caught:
        read_cameras(path, **options)
    assert str(caught.value).startswith(str(tmp_path))
    assert "\n" not in str(caught.value)


def tum_lines(c2w: torch.Tensor, order: list[int], times) -> str:
    wxyz = quaternion_from_matrix(c2w[:, :3, :3])
    rows = torch.cat([c2w[:, :3, 3], wxyz[:, order]], -1).tolist()
    return "".join(f"{t} {' '.join(map(repr, row))}\n" for t, row in zip(times, rows, strict=True))


XYZW, WXYZ = [1, 2, 3, 0], [0, 1, 2, 3]


def test_tum_with_w_first_is_recognised_by_a_first_camera_that_does_not_turn(tmp_path, c2w):
    path = tmp_path / "traj.txt"
    path.write_text(tum_lines(c2w, WXYZ, range(T)))
    sequence = read_cameras(path, **LENS)
    torch.testing.assert_close(sequence.camera.c2w, c2w, atol=1e-12, rtol=0)
    assert any("w first" in note for note in sequence.notes)
    path.write_text(tum_lines(c2w, XYZW, range(T)))
    sequence = read_cameras(path, **LENS)
    torch.testing.assert_close(sequence.camera.c2w, c2w, atol=1e-12, rtol=0)
    assert sequence.notes == ()


def test_tum_that_may_have_w_first_or_last_is_asked_about(tmp_path, c2w):
    path, turned = tmp_path / "traj.txt", c2w[3] @ c2w
    path.write_text(tum_lines(turned, WXYZ, range(T)))
    with pytest.raises(ValueError, match="option quaternion is needed, wxyz or xyzw"):
        read_cameras(path, **LENS)
    torch.testing.assert_close(read_cameras(path, quaternion="wxyz", **LENS).camera.c2w, turned, atol=1e-12, rtol=0)
    path.write_text(tum_lines(turned, XYZW, range(T)))
    torch.testing.assert_close(read_cameras(path, **LENS).camera.c2w, turned, atol=1e-12, rtol=0)


def test_tum_times_in_nanoseconds_become_seconds(tmp_path, c2w):
    path = tmp_path / "KeyFrameTrajectory.txt"
    path.write_text(tum_lines(c2w, XYZW, [f"{1403636579763555584 + 50_000_000 * i}.000000" for i in range(T)]))
    sequence = read_cameras(path, **LENS)
    torch.testing.assert_close(sequence.timestamps_s.diff(), torch.full((T - 1,), 0.05).double(), atol=1e-6, rtol=0)
    assert sequence.timestamps_s[0].item() == pytest.approx(1403636579.763555584)
    assert "nanoseconds" in sequence.notes[0]


def test_recammaster_files_of_every_fourth_frame_are_read(tmp_path):
    path = tmp_path / "camera_extrinsics.json"
    row = "[1 0 0 0] [0 1 0 0] [0 0 1 0] [{} 0 0 1]"
    path.write_text(json.dumps({f"frame{4 * i}": {"cam01": row.format(10 * i)} for i in range(T)}))
    sequence = read_cameras(path, **LENS)
    assert sequence.names == tuple(f"frame{4 * i}" for i in range(T))
    torch.testing.assert_close(sequence.camera.c2w[:, 2, 3], 0.1 * torch.arange(T).double())
