"""Still sets: RealEstate10K, pixelSplat's chunks and DTU, written in their axes, units and formats."""

import json
import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from mvtrack.data.public.fitting import FittedScene
from mvtrack.data.public.registry import LAYOUTS, find_layout
from mvtrack.geometry.camera import pixel_grid, unproject
from mvtrack.geometry.pose_files import CameraSequence, write_cameras
from mvtrack.video.resize import fit_to
from tests.data.public.synthesis import Truth, scene_error_px, synthesise

VIEWS, SIZE = 7, (38, 58)


def w2c_of(truth: Truth, view: int, frame: int = 0) -> torch.Tensor:
    return torch.linalg.inv(truth.camera.c2w[view, frame].double())


def encoded(truth: Truth, view: int, suffix: str = ".png") -> bytes:
    frame = truth.video[view, 0].permute(1, 2, 0).numpy()
    return cv2.imencode(suffix, np.ascontiguousarray(frame[..., ::-1]))[1].tobytes()


def row_of(truth: Truth, view: int) -> list[float]:
    (height, width), K = truth.camera.size, truth.camera.K[view, 0].double()
    lens = [K[0, 0] / width, K[1, 1] / height, K[0, 2] / width, K[1, 2] / height, 0, 0]
    return [*map(float, lens), *w2c_of(truth, view)[:3].flatten().tolist()]


def write_realestate10k(root: Path, truth: Truth) -> None:
    (root / "train/0a1b").mkdir(parents=True)
    lines = ["https://www.youtube.com/watch?v=x"]
    for v in range(len(truth.video)):
        lines.append(" ".join([str(90_000 + 33_000 * v), *(f"{x:.9f}" for x in row_of(truth, v))]))
        (root / f"train/0a1b/{90_000 + 33_000 * v}.png").write_bytes(encoded(truth, v))
    (root / "train/0a1b.txt").write_text("\n".join(lines))


def chunk_of(truth: Truth, key: str) -> dict:
    images = [torch.frombuffer(bytearray(encoded(truth, v)), dtype=torch.uint8) for v in range(len(truth.video))]
    cameras = torch.tensor([row_of(truth, v) for v in range(len(truth.video))]).float()
    return {"url": "x", "timestamps": torch.arange(len(images)), "cameras": cameras, "images": images, "key": key}


def write_pixelsplat(root: Path, truth: Truth) -> None:
    (root / "re10k/train").mkdir(parents=True)
    torch.save([chunk_of(synthesise(9, 2, 1, static=True), "other"), chunk_of(truth, "0a1b")],
               root / "re10k/train/000000.torch")  # fmt: skip
    (root / "re10k/train/index.json").write_text(json.dumps({"other": "000000.torch", "0a1b": "000000.torch"}))


def write_dtu(root: Path, truth: Truth) -> None:
    (root / "Cameras/train").mkdir(parents=True)
    (root / "Rectified/scan8_train").mkdir(parents=True)
    for v in range(len(truth.video)):
        w2c, K = w2c_of(truth, v), truth.camera.K[v, 0].double().clone()
        w2c[:3, 3] *= 1000
        K[:2] /= 4
        rows = ["extrinsic", *(" ".join(map(repr, row)) for row in w2c.tolist()), "", "intrinsic"]
        rows += [*(" ".join(map(repr, row)) for row in K.tolist()), "", "425.0 2.5"]
        (root / f"Cameras/train/{v:08d}_cam.txt").write_text("\n".join(rows))
        (root / f"Rectified/scan8_train/rect_{v + 1:03d}_3_r5000.png").write_bytes(encoded(truth, v))
        (root / f"Rectified/scan8_train/rect_{v + 1:03d}_0_r5000.png").write_bytes(b"another light")


def write_dtu_pixelnerf(root: Path, truth: Truth) -> None:
    folder = root / "rs_dtu_4/DTU/scan8"
    (folder / "image").mkdir(parents=True)
    arrays = {}
    for v in range(len(truth.video)):
        w2c = w2c_of(truth, v)
        w2c[:3, 3] *= 1000
        world = torch.eye(4).double()
        world[:3] = truth.camera.K[v, 0].double() @ w2c[:3]
        arrays |= {f"world_mat_{v}": (-3.0 * world if v == 1 else world).numpy(), f"scale_mat_{v}": np.eye(4)}
        (folder / f"image/{v:06d}.png").write_bytes(encoded(truth, v))
    np.savez(folder / "cameras.npz", **arrays)


WRITERS = {
    "realestate10k": (write_realestate10k, "train_0a1b"),
    "pixelsplat": (write_pixelsplat, "re10k_train_0a1b"),
    "dtu": (write_dtu, "scan8"),
    "dtu-pixelnerf": (write_dtu_pixelnerf, "scan8"),
}


def still_set(name: str) -> Truth:
    size = (512, 640) if name == "dtu" else SIZE
    return synthesise(6, VIEWS if name != "dtu" else 3, 1, size=size, static=True, points=13)


@pytest.mark.parametrize("name", WRITERS)
def test_photographs_and_their_cameras_are_read(name, tmp_path, options):
    (write, scene_name), truth = WRITERS[name], still_set(name)
    write(tmp_path, truth)
    layout = find_layout(tmp_path)
    assert layout.name == name
    files = next(scene for scene in layout.scenes(tmp_path, options) if scene.name == scene_name)
    assert all(path.is_file() for path in layout.files(files))
    scene = layout.read(files)
    kept = [0, 1, 2] if name == "dtu-pixelnerf" else list(range(len(truth.video)))  # views 3 to 7 are badly lit
    assert len(scene.views) == len(kept)
    tracks = truth.tracks.views(kept)
    # chunks hold float32 and text files nine decimals
    assert scene_error_px(scene, truth.world, tracks) < 0.01
    assert all(torch.equal(view.video.read(0, 1), truth.video[v]) for v, view in zip(kept, scene.views, strict=True))
    assert (scene.is_still, scene.is_path) == (True, name in ("realestate10k", "pixelsplat"))
    assert scene.views[0].camera.scale_known == name.startswith("dtu")


def test_a_path_of_photographs_is_one_view_and_a_set_is_not(tmp_path, options):
    truth = still_set("realestate10k")
    write_realestate10k(tmp_path, truth)
    layout = find_layout(tmp_path)
    scene = layout.read(layout.scenes(tmp_path, options)[0])
    fit = lambda size: fit_to(size, (24, 32), "crop")  # noqa: E731
    (path,) = FittedScene(scene, 5, fit).views()
    photographs = list(FittedScene(scene, 1, fit, VIEWS).views())
    assert torch.equal(path.video, torch.cat([view.video for view in photographs[:5]]))
    assert torch.equal(path.camera.c2w, torch.cat([view.camera.c2w for view in photographs[:5]]))
    with pytest.raises(ValueError, match="has 7 pictures, a path needs 9"):
        FittedScene(scene, 9, fit)
    with pytest.raises(ValueError, match="holds 7 view of each moment, training needs 8"):
        FittedScene(scene, 1, fit, 8)


class Code:
    def __reduce__(self):
        return (Path.touch, (Path("executed"),))


def damage(name: str, edit):
    return pytest.param(name, edit, id=f"{name}-{edit.__name__}")


def cut_short(root: Path) -> str:
    path = root / "re10k/train/000000.torch"
    path.write_bytes(path.read_bytes()[:3000])
    return "000000.torch is not a chunk of tensors"


def pickle_with_code(root: Path) -> str:
    path = root / "re10k/train/000000.torch"
    path.write_bytes(pickle.dumps([Code()], protocol=2))
    return "000000.torch is not a chunk of tensors"


def torch_with_code(root: Path) -> str:
    torch.save([{"key": Code()}], root / "re10k/train/000000.torch")
    return "000000.torch is not a chunk of tensors"


def name_that_leads_out(root: Path) -> str:
    (root / "re10k/train/index.json").write_text(json.dumps({"a": "../../x.torch"}))
    return r"index.json names the file '../../x.torch', which leads out of"


def scene_that_leads_out(root: Path) -> str:
    (root / "re10k/train/index.json").write_text(json.dumps({"../a": "000000.torch"}))
    return "'re10k_train_../a' cannot be a scene's name"


def scene_that_is_not_there(root: Path) -> str:
    (root / "re10k/train/index.json").write_text(json.dumps({"b": "000000.torch"}))
    return "000000.torch holds no scene b"


def picture_without_a_line(root: Path) -> str:
    (root / "train/0a1b/77.png").write_bytes((root / "train/0a1b/90000.png").read_bytes())
    return "77.png: 0a1b.txt has no line for the time 77"


def line_cut_short(root: Path) -> str:
    path = root / "train/0a1b.txt"
    path.write_text(path.read_text()[:-30])
    return "0a1b.txt: line 8: has 1[678] columns, expected 19"


def no_camera_file(root: Path) -> str:
    (root / "Cameras/train/00000002_cam.txt").unlink()
    return "00000002_cam.txt: cannot be read"


def rows_missing(root: Path) -> str:
    path = root / "Cameras/train/00000001_cam.txt"
    path.write_text("\n".join(line for i, line in enumerate(path.read_text().splitlines()) if i != 2))
    return "00000001_cam.txt: expected 16 and 9 numbers, got 12"


def width_and_height_swapped(root: Path) -> str:
    path = root / "Rectified/scan8_train/rect_002_3_r5000.png"
    cv2.imwrite(str(path), cv2.imread(str(path)).transpose(1, 0, 2))
    return "rect_002_3_r5000.png: its camera is for pictures of 640x512, it is 512x640"


def archive_cut_short(root: Path) -> str:
    path = root / "rs_dtu_4/DTU/scan8/cameras.npz"
    path.write_bytes(path.read_bytes()[:2000])
    return "cannot read .* from .*cameras.npz"


def picture_without_a_camera(root: Path) -> str:
    folder = root / "rs_dtu_4/DTU/scan8/image"
    (folder / "000030.png").write_bytes((folder / "000000.png").read_bytes())
    return "cannot read .*world_mat_30 from .*cameras.npz"


CHUNKS = [cut_short, pickle_with_code, torch_with_code, name_that_leads_out, scene_that_leads_out,
          scene_that_is_not_there]  # fmt: skip
DAMAGES = [
    *(damage("pixelsplat", edit) for edit in CHUNKS),
    *(damage("realestate10k", edit) for edit in (picture_without_a_line, line_cut_short)),
    *(damage("dtu", edit) for edit in (no_camera_file, rows_missing, width_and_height_swapped)),
    *(damage("dtu-pixelnerf", edit) for edit in (archive_cut_short, picture_without_a_camera)),
]


@pytest.mark.parametrize(("name", "edit"), DAMAGES)
def test_broken_files_are_named(name, edit, tmp_path, options, monkeypatch):
    monkeypatch.chdir(tmp_path)
    WRITERS[name][0](tmp_path, still_set(name))
    message, layout = edit(tmp_path), LAYOUTS[name]
    with pytest.raises(ValueError, match=message):
        layout.read(layout.scenes(tmp_path, options)[-1])
    assert not Path("executed").exists()


@pytest.mark.parametrize("kind", ["depth", "points"])
def test_own_photographs_come_with_depth_or_points(kind, tmp_path, options):
    truth, folder = synthesise(6, 3, 1, size=SIZE, static=True, points=13), tmp_path / "chair"
    (folder / "images").mkdir(parents=True)
    (folder / kind).mkdir()
    names = ["c", "a", "b"]  # not in the order of the pose file
    for v, name in enumerate(names):
        (folder / f"images/{name}.png").write_bytes(encoded(truth, v))
        depth = truth.depth[v, 0]
        flat = pixel_grid(SIZE).double().flatten(0, 1), depth.double().flatten()
        points = unproject(*flat, truth.camera[v, 0].to(dtype=torch.float64)).view(*SIZE, 3)
        points[0, 0] = torch.nan
        np.save(folder / f"{kind}/{name}.npy", depth.numpy() if kind == "depth" else points.float().numpy())
    write_cameras(
        folder / "cameras.json", CameraSequence(truth.camera[:, 0].to(dtype=torch.float64), tuple(names)), "json"
    )
    layout = find_layout(tmp_path)
    (files,) = layout.scenes(tmp_path, options)
    scene = layout.read(files)
    assert (layout.name, [view.name for view in scene.views]) == ("photographs", ["a", "b", "c"])
    order = [1, 2, 0]
    assert scene_error_px(scene, truth.world, truth.tracks.views(order)) < 0.01
    for v, view in zip(order, scene.views, strict=True):
        found = view.depth(1)[0]
        assert (found[0, 0] == 0) == (kind == "points")
        torch.testing.assert_close(found.flatten()[1:], truth.depth[v, 0].flatten()[1:], rtol=1e-5, atol=1e-5)
    (folder / "images/d.png").write_bytes(encoded(truth, 0))
    with pytest.raises(ValueError, match="cameras.json names no camera of d.png"):
        layout.read(files)
