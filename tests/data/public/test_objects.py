"""Renders and photographs of single objects: Wonder3D, SyncDreamer, NAVI, in their axes, units and formats."""

import json
import pickle
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from mvtrack.config.datasets import DatasetOptions
from mvtrack.data.public.navi import NaviPair, navi_pairs
from mvtrack.data.public.registry import LAYOUTS, find_layout, open_dataset_folder
from mvtrack.data.public.wonder3d import VIEWS
from mvtrack.geometry.camera import Camera, pixel_grid, project, unproject
from mvtrack.geometry.rotation import quaternion_from_matrix
from tests.data.public.synthesis import TO_Z_UP, Truth, depth_agreement, scene_error_px, synthesise
from tests.data.public.test_kubric import BLENDER
from tests.data.public.test_stills import Code, encoded, w2c_of

SCALE, SIDE = 1.25, 64  # units that a picture is wide, and its pixels


def wonder3d_rig() -> Camera:
    """Wonder3D's six: azimuths 0, 45, 90, 180, -90, -45 about the vertical, all at one height, facing the origin."""
    poses = []
    for azimuth in np.radians([0, 45, 90, 180, -90, -45]):
        centre = 1.3 * torch.tensor([np.cos(azimuth), np.sin(azimuth), 0.0])
        forward = -centre / centre.norm()
        right = torch.linalg.cross(forward, torch.tensor([0.0, 0, 1]).double())
        c2w = torch.eye(4).double()
        c2w[:3, :3] = torch.stack([right, torch.tensor([0.0, 0, -1]).double(), forward], 1)
        c2w[:3, 3] = centre
        poses.append(c2w)
    K = torch.tensor([[SIDE / SCALE, 0, SIDE / 2], [0, SIDE / SCALE, SIDE / 2], [0, 0, 1]]).double()
    return Camera(torch.stack(poses), K.expand(6, 3, 3), (SIDE, SIDE), projection="orthographic")


def sphere_depth(camera: Camera, radius: float = 0.4) -> torch.Tensor:
    """z-depth of a sphere about the origin, 0 beside it: every view shows a disc."""
    flat = pixel_grid(camera.size).double().flatten(0, 1)
    start = unproject(flat, torch.zeros(6, len(flat)).double(), camera)
    along = camera.c2w[:, None, :3, 2]
    nearest = -(start * along).sum(-1)
    off = (start + nearest[..., None] * along).norm(dim=-1)
    z = nearest - (radius**2 - off**2).clamp_min(0).sqrt()
    return torch.where(off < radius, z, 0.0).view(6, *camera.size)


def write_wonder3d(root: Path, camera: Camera, rotate: torch.Tensor = BLENDER) -> None:
    folder = root / "0a1/0a1b2c"
    folder.mkdir(parents=True)
    depth = sphere_depth(camera)
    for i, name in enumerate(VIEWS):
        w2c = rotate @ torch.linalg.inv(camera.c2w[i])[:3]
        np.savetxt(folder / f"000_{name}_RT.txt", w2c.numpy())
        mask = (depth[i] > 0).numpy().astype(np.uint8) * 255
        rgba = np.dstack([np.full((SIDE, SIDE, 3), 40 * i, np.uint8), mask])
        cv2.imwrite(str(folder / f"rgb_000_{name}.png"), rgba)
        cv2.imwrite(str(folder / f"mask_000_{name}.png"), mask)
        stored = torch.where(depth[i] > 0, depth[i] / 10 * 65535, 65535.0).round().numpy().astype(np.uint16)
        cv2.imwrite(str(folder / f"depth_000_{name}.png"), stored)


def test_orthographic_views_are_read(tmp_path):
    rig, options = wonder3d_rig(), DatasetOptions(ortho_scale=SCALE)
    write_wonder3d(tmp_path, rig)
    layout, (files,) = open_dataset_folder(tmp_path, options)
    assert (layout.name, files.name) == ("wonder3d", "0a1b2c")
    scene = layout.read(files)
    assert [view.name for view in scene.views] == list(VIEWS)
    points = torch.rand(11, 3, generator=torch.Generator().manual_seed(2)).double() - 0.5
    expected, depth = project(points, rig)
    for i, view in enumerate(scene.views):
        xy, _ = project(points, view.camera)
        assert (xy[0] - expected[i]).norm(dim=-1).max() < 0.01
        assert view.camera.projection == "orthographic"
        assert (view.depth(1)[0] - sphere_depth(rig)[i]).abs().max() < 0.51 * 10 / 65535
        frame = view.video.read(0, 1)[0, 0]
        assert frame[0, 0] == 255  # transparent lies over white
        assert frame[SIDE // 2, SIDE // 2] == 40 * i
    # neighbours see the same part of the sphere, but for its edges
    assert depth_agreement(scene, 0, 1) > 0.5
    wrong = replace(
        scene, views=tuple(replace(v, camera=replace(v.camera, projection="perspective")) for v in scene.views)
    )
    assert depth_agreement(wrong, 0, 1) < 0.3


def test_the_width_of_an_orthographic_picture_has_to_be_said(tmp_path, options):
    write_wonder3d(tmp_path, wonder3d_rig())
    layout = LAYOUTS["wonder3d"]
    with pytest.raises(ValueError, match="say it with --ortho-scale"):
        layout.read(layout.scenes(tmp_path, options)[0])
    with pytest.raises(ValueError, match="--focal-mm is for multicamvideo: .* is read as wonder3d"):
        open_dataset_folder(tmp_path, DatasetOptions(ortho_scale=1.0, focal_mm=3.0))


def test_a_mirrored_axis_is_refused(tmp_path):
    write_wonder3d(tmp_path, wonder3d_rig(), BLENDER * torch.tensor([[1.0], [-1.0], [1.0]]))
    layout, (files,) = open_dataset_folder(tmp_path, DatasetOptions(ortho_scale=SCALE))
    with pytest.raises(ValueError, match="rgb_000_front.png: the rotation of frame 0's camera is none"):
        layout.read(files)


def write_syncdreamer(root: Path, truth: Truth, meta=None) -> None:
    (root / "mario").mkdir(parents=True)
    c2w, _ = truth.turned(TO_Z_UP)
    K = truth.camera.K[0, 0].double().clone()
    K[:2] *= 256 / truth.camera.size[0]
    poses = torch.linalg.inv(c2w[:, 0])[:, :3].numpy()
    meta = meta or [K.numpy(), np.arange(16) * 22.5, np.full(16, 30.0), np.full(16, 1.5), poses]
    (root / "camera-16.pkl").write_bytes(pickle.dumps(meta))
    for v in range(16):
        (root / f"mario/{v:03d}.png").write_bytes(encoded(truth, v))


def test_a_ring_of_perspective_views_is_read(tmp_path, options):
    truth = synthesise(4, 16, 1, size=(46, 46), static=True, points=7)
    write_syncdreamer(tmp_path, truth)
    layout = find_layout(tmp_path)
    (files,) = layout.scenes(tmp_path, options)
    assert (layout.name, files.name) == ("syncdreamer", "mario")
    scene = layout.read(files)
    assert len(layout.files(files)) == 17
    assert scene_error_px(scene, truth.turned(TO_Z_UP)[1], truth.tracks) < 0.01


@pytest.mark.parametrize(
    ("meta", "message"),
    [
        ([Code()] * 5, "camera-16.pkl is not a pickle of arrays .it asks for pathlib"),
        ([np.eye(3)] * 5, r"poses \(16, 3, 4\), got"),
        ([np.eye(3)], "must hold K, azimuths"),
    ],
)
def test_a_pickle_of_anything_else_is_refused(tmp_path, options, monkeypatch, meta, message):
    monkeypatch.chdir(tmp_path)
    write_syncdreamer(tmp_path, synthesise(4, 16, 1, size=(46, 46), static=True, points=7), meta)
    layout = LAYOUTS["syncdreamer"]
    with pytest.raises(ValueError, match=message):
        layout.read(layout.scenes(tmp_path, options)[0])
    assert not Path("executed").exists()


def write_navi(root: Path, truth: Truth, mistake: str = "") -> Path:
    folder = root / "dino/multiview-00-pixel_5"
    for kind in ("images", "depth", "masks"):
        (folder / kind).mkdir(parents=True)
    rows = []
    (height, width), truth_depth = truth.camera.size, truth.depth[:, 0].double()
    for v in range(len(truth.video)):
        w2c = w2c_of(truth, v)
        wxyz = quaternion_from_matrix(w2c[:3, :3])
        size = [width, height] if mistake == "size" else [height, width]
        camera = {"q": (wxyz.roll(-1) if mistake == "quaternion" else wxyz).tolist(), "t": (1000 * w2c[:3, 3]).tolist(),
                  "focal_length": float(truth.camera.K[v, 0, 0, 0]), "camera_model": "pixel_5"}  # fmt: skip
        rows.append({"object_id": "dino", "camera": camera, "filename": f"{v:03d}.jpg", "image_size": size})
        # stored turned by 90 degrees, as phones do; EXIF says so
        turned = np.rot90(truth.video[v, 0].permute(1, 2, 0).numpy())
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.fromarray(np.ascontiguousarray(turned)).save(folder / f"images/{v:03d}.jpg", exif=exif, quality=100)
        disparity = (655_350 / (1000 * truth_depth[v])).round().numpy().astype(np.uint16)
        cv2.imwrite(str(folder / f"depth/{v:03d}.png"), disparity)
        cv2.imwrite(str(folder / f"masks/{v:03d}.png"), (truth.ids[v, 0] > 1).numpy().astype(np.uint8) * 255)
    (folder / "annotations.json").write_text(json.dumps(rows))
    return folder


def test_navis_photographs_depth_and_pairs_are_read(tmp_path, options):
    truth = synthesise(7, 3, 1, size=(48, 64), static=True, points=13)
    folder = write_navi(tmp_path, truth)
    layout = find_layout(tmp_path)
    (files,) = layout.scenes(tmp_path, options)
    assert (layout.name, files.name) == ("navi", "dino_multiview-00-pixel_5")
    scene = layout.read(files)
    assert scene_error_px(scene, truth.world, truth.tracks) < 0.01
    for v, view in enumerate(scene.views):
        assert torch.equal(view.masks(1)[0], truth.ids[v, 0] > 1)
        z = truth.depth[v, 0]
        # half a step of the stored disparity
        assert ((view.depth(1)[0] - z).abs() < 0.51 * z * z / 655.35 + 1e-5).all()
        assert (view.video.read(0, 1)[0].float() - truth.video[v, 0].float()).abs().mean() < 8  # JPEG
    pairs = tmp_path / "custom_splits/pairwise_pixel_correspondences/pairs-multiview.txt"
    pairs.parent.mkdir(parents=True)
    names = [f"dino/{folder.name}/images/{n:03d}.jpg" for n in (0, 2)]
    pairs.write_text(f"{names[0]} {names[1]} 37.5\n")
    assert navi_pairs(tmp_path, "multiview") == [NaviPair(*names, 37.5)]
    for text, message in (("a b", "line 1: expected two pictures and an angle, got 2"),
                          (f"{names[0]} x.jpg 3", "line 1: names x.jpg, which is not in"),
                          ("../a.jpg b.jpg 3", "leads out of")):  # fmt: skip
        pairs.write_text(text)
        with pytest.raises(ValueError, match=message):
            navi_pairs(tmp_path, "multiview")


@pytest.mark.parametrize("mistake", ["quaternion", "size"])
def test_mistakes_in_navis_annotations_show(tmp_path, options, mistake):
    truth = synthesise(7, 3, 1, size=(48, 64), static=True, points=13)
    write_navi(tmp_path, truth, mistake)
    layout = find_layout(tmp_path)
    (files,) = layout.scenes(tmp_path, options)
    if mistake == "size":
        with pytest.raises(ValueError, match="000.jpg: its camera is for pictures of 48x64, it is 64x48"):
            layout.read(files)
    else:
        assert scene_error_px(layout.read(files), truth.world, truth.tracks) > 1
