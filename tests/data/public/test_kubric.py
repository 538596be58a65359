"""MV-Kubric and Kubric-4D, written as Kubric writes: Blender's axes, w x y z, K with its signs, distances as depth."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from mvtrack.data.public.layout import SceneFiles
from mvtrack.data.public.registry import LAYOUTS, find_layout
from mvtrack.geometry.rotation import quaternion_from_matrix
from tests.data.public.synthesis import TO_Z_UP, Truth, depth_agreement, scene_error_px, synthesise

BLENDER = torch.diag(torch.tensor([1.0, -1, -1], dtype=torch.float64))  # x right, y up, z backward
MISTAKES = ("quaternion", "axes", "size", "z-depth")


def metadata(truth: Truth, view: int, mistake: str = "") -> dict:
    c2w, _ = truth.turned(TO_Z_UP)
    rotation = c2w[view, :, :3, :3] @ (torch.eye(3).double() if mistake == "axes" else BLENDER)
    wxyz = quaternion_from_matrix(rotation)
    height, width = truth.camera.size
    K = truth.camera.K[view, 0].double()
    resolution = [height, width] if mistake == "size" else [width, height]
    return {
        "metadata": {"resolution": resolution, "frame_rate": 24, "num_frames": truth.video.shape[1]},
        "camera": {
            "K": [[float(K[0, 0]) / width, 0, -0.5], [0, -float(K[1, 1]) / height, -0.5], [0, 0, -1]],
            "positions": c2w[view, :, :3, 3].tolist(),
            "quaternions": (wxyz.roll(-1, -1) if mistake == "quaternion" else wxyz).tolist(),
        },
    }  # fmt: skip


def write_frames(folder: Path, truth: Truth, view: int, mistake: str = "") -> None:
    folder.mkdir(parents=True)
    depth = truth.depth if mistake == "z-depth" else truth.distance
    for t, frame in enumerate(truth.video[view]):
        rgba = torch.cat([frame.flip(0), torch.full((1, *frame.shape[1:]), 255, dtype=torch.uint8)])
        cv2.imwrite(str(folder / f"rgba_{t:05d}.png"), rgba.permute(1, 2, 0).numpy())
        cv2.imwrite(str(folder / f"depth_{t:05d}.tiff"), depth[view, t].numpy())
        cv2.imwrite(str(folder / f"segmentation_{t:05d}.png"), (truth.ids[view, t].int() - 1).clamp(0).byte().numpy())


def write_mv_kubric(folder: Path, truth: Truth, mistake: str = "") -> None:
    _, world = truth.turned(TO_Z_UP)
    for v in range(len(truth.video)):
        write_frames(folder / f"view_{v}", truth, v, mistake)
        (folder / f"view_{v}/metadata.json").write_text(json.dumps(metadata(truth, v, mistake)))
        tracks = {"tracks_2d": truth.tracks.xy[v].numpy(), "occlusion": ~truth.tracks.visible[v].numpy()}
        np.savez(folder / f"view_{v}/tracks_2d.npz", **tracks)
    np.savez(folder / "tracks_3d.npz", tracks_3d=world.float().numpy())


def write_kubric4d(folder: Path, truth: Truth, mistake: str = "") -> None:
    for v in range(len(truth.video)):
        write_frames(folder / f"frames_p0_v{v}", truth, v, mistake)
        (folder / f"{folder.name}_p0_v{v}.json").write_text(json.dumps(metadata(truth, v, mistake)))


WRITERS = {"mv-kubric": (write_mv_kubric, "kubric-multiview/train/7"), "kubric-4d": (write_kubric4d, "scn00007")}


@pytest.fixture(scope="module")
def truth() -> Truth:
    return synthesise(5, views=3, frames=3, size=(38, 58), points=13)


@pytest.mark.parametrize("name", WRITERS)
def test_cameras_depth_and_masks_are_read(truth, tmp_path, options, name):
    write, folder = WRITERS[name]
    write(tmp_path / folder, truth)
    layout = find_layout(tmp_path)
    assert layout.name == name
    (files,) = layout.scenes(tmp_path, options)
    assert len(layout.files(files)) >= 3 * (3 + 3 + 1)
    scene = layout.read(files)
    _, world = truth.turned(TO_Z_UP)
    assert scene_error_px(scene, world, truth.tracks) < 0.01
    for v, view in enumerate(scene.views):
        # a float32 root and division: a few units in the last place
        torch.testing.assert_close(view.depth(3), truth.depth[v], rtol=1e-6, atol=0)
        assert torch.equal(view.video.read(0, 3), truth.video[v])
    if name == "mv-kubric":
        assert torch.equal(scene.views[1].masks(2), truth.ids[1, :2] > 1)
        xy, visible, found = scene.tracks()
        assert torch.equal(xy, truth.tracks.xy)
        assert torch.equal(visible, truth.tracks.visible)
        assert torch.equal(found, visible.any(1))


def test_depth_of_two_views_agrees_and_distance_taken_as_z_does_not(truth, tmp_path, options):
    shares = {}
    for mistake in ("", "z-depth"):
        root = tmp_path / (mistake or "right")
        write_kubric4d(root / "scn00001", truth, mistake)
        layout = find_layout(root)
        shares[mistake] = depth_agreement(layout.read(layout.scenes(root, options)[0]))
    # the rest is hidden from the other view, or lies at an edge
    assert shares[""] == pytest.approx(depth_agreement(truth.scene(TO_Z_UP)), abs=1e-3)
    assert shares["z-depth"] < shares[""] - 0.1


@pytest.mark.parametrize("mistake", ["quaternion", "axes", "size"])
def test_cameras_that_are_not_as_the_layout_has_them_are_refused(truth, tmp_path, options, mistake):
    write_mv_kubric(tmp_path / "1", truth, mistake)
    layout = LAYOUTS["mv-kubric"]
    message = "camera is for pictures of 38x58" if mistake == "size" else "tracks_2d.npz: its cameras project tracks_3d"
    with pytest.raises(ValueError, match=message):
        layout.read(layout.scenes(tmp_path, options)[0]).tracks()


def change(view: Path, change) -> None:
    path = view / "metadata.json"
    tree = json.loads(path.read_text())
    change(tree)
    path.write_text(json.dumps(tree))


def read_all(layout, files) -> None:
    scene = layout.read(files)
    scene.tracks()
    for view in scene.views:
        view.depth(3)


def pickled(path: Path) -> None:
    np.savez(path, tracks_2d=np.array([{"code": 1}], dtype=object), occlusion=np.zeros(1))


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda v: (v / "depth_00001.tiff").unlink(), "view_1 lacks depth_00001.tiff"),
        (lambda v: (v / "rgba_00002.png").unlink(), "view_1 lacks rgba_00002.png"),
        (lambda v: (v / "depth_00001.tiff").write_bytes(b"II*"), "depth_00001.tiff holds no image"),
        (lambda v: cv2.imwrite(str(v / "depth_00001.tiff"), np.ones((38, 58), np.uint8)), "one value of float32"),
        (lambda v: cv2.imwrite(str(v / "depth_00001.tiff"), np.ones((58, 38), np.float32)), "holds a map of 38x58"),
        (lambda v: (v / "tracks_2d.npz").write_bytes(b"PK" + bytes(99)), "tracks_2d, occlusion from .*tracks_2d.npz"),
        (lambda v: pickled(v / "tracks_2d.npz"), "cannot read .*tracks_2d.npz.*allow_pickle=False"),
        (lambda v: (v / "metadata.json").write_text("{"), "metadata.json: line 1: is not valid JSON"),
        (lambda v: change(v, lambda m: m["camera"].update(quaternions=[[2, 0, 0, 0]] * 3)),
         "quaternion of frame 0 has length 2"),
        (lambda v: change(v, lambda m: m["camera"].update(K=[[1, 0, 0], [0, 1, 0], [0, 0, 1]])),
         "camera.K: expected"),
        (lambda v: change(v, lambda m: m["camera"]["positions"].pop()),
         "quaternions: expected a list of 2"),
    ],
)  # fmt: skip
def test_broken_files_are_named(truth, tmp_path, options, break_it, message):
    write_mv_kubric(tmp_path / "1", truth)
    break_it(tmp_path / "1/view_1")
    layout = LAYOUTS["mv-kubric"]
    with pytest.raises(ValueError, match=message):
        read_all(layout, layout.scenes(tmp_path, options)[0])


@pytest.mark.parametrize("name", ["../x", "a/b", "", "a..b", ".x"])
def test_a_scene_of_a_name_that_leads_elsewhere_is_refused(name, tmp_path):
    with pytest.raises(ValueError, match="cannot be a scene's name"):
        SceneFiles(name, tmp_path)
