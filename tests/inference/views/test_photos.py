"""Photographs of any size, orientation and lens, and where their cameras come from."""

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image

from mvtrack.geometry.camera import Camera, intrinsics_from_fov, project
from mvtrack.inference.camera_estimation import cached_estimate
from mvtrack.inference.camera_estimation.estimated_cameras import cameras_from_poses
from mvtrack.inference.views import photo_cameras
from mvtrack.inference.views.photo_cameras import (
    assumed_camera,
    cameras_from_file,
    measured_photo_cameras,
    subject_distance_of,
)
from mvtrack.inference.views.photos import PhotoSequence, exif_fov_deg, find_photos
from mvtrack.video.images import read_image

POINTS = torch.tensor([[0.1, -0.2, 3.0], [-0.4, 0.3, 5.0], [0.3, 0.1, 4.0]], dtype=torch.float64)


def write_photo(path, size, focal_35mm=None, orientation=None, seed=0):
    """A picture whose values differ everywhere; size: as stored."""
    picture = np.random.default_rng(seed).integers(0, 255, (*size, 3), dtype=np.uint8)
    exif = Image.Exif()
    if orientation:
        exif[0x0112] = orientation
    if focal_35mm:
        exif.get_ifd(0x8769)[0xA405] = focal_35mm
    Image.fromarray(picture).save(path, exif=exif)
    return path


def test_files_and_folders_in_order(tmp_path):
    (tmp_path / "more").mkdir()
    files = [write_photo(tmp_path / f"more/{name}", (8, 8)) for name in ("a10.png", "a9.jpg", "b.png")]
    single = write_photo(tmp_path / "z.png", (8, 8))
    assert find_photos([single, tmp_path / "more"]) == [single, files[1], files[0], files[2]]
    (tmp_path / "empty").mkdir()
    write_photo(tmp_path / "b.jpg", (8, 8))
    (tmp_path / "clip.mp4").touch()
    for paths, message in (
        ([tmp_path / "nowhere.jpg"], "nowhere.jpg does not exist"),
        ([tmp_path / "empty"], "holds no pictures"),
        ([tmp_path / "clip.mp4"], "clip.mp4 is no picture: `mvtrack reshoot` takes videos"),
        ([files[2], tmp_path / "b.jpg"], "two photographs are named b"),
        ([], "no photographs are given"),
    ):
        with pytest.raises(ValueError, match=message):
            find_photos(paths)


def test_exif_turns_a_photograph_and_says_its_lens(tmp_path):
    photo = write_photo(tmp_path / "turned.jpg", (60, 80), focal_35mm=35, orientation=6)
    size = read_image(photo).shape[:2]
    assert size == (80, 60)
    # 35 mm of a full frame whose diagonal is as many pixels as the picture's
    focal_px = 35 / math.hypot(36, 24) * 100
    assert exif_fov_deg(photo, size) == pytest.approx(2 * math.degrees(math.atan(30 / focal_px)))
    found = assumed_camera(photo, size, None)
    assert float(found.camera[0].K[0, 0]) == pytest.approx(focal_px, rel=1e-5)
    assert "by its EXIF" in found.notes[0]
    plain = write_photo(tmp_path / "plain.png", (60, 80))
    assert exif_fov_deg(plain, (60, 80)) is None
    assert "an assumption" in assumed_camera(plain, (60, 80), None).notes[0]
    assert assumed_camera(plain, (60, 80), 33.0).notes == ()


def pose_file(path, names, size, K, **more):
    c2w = torch.eye(4).repeat(len(K), 1, 1)
    c2w[:, 0, 3] = torch.arange(len(K))
    fields = {"convention": "opencv c2w raster", "size": size, "c2w": c2w.tolist(), "K": K.tolist()} | more
    path.write_text(json.dumps(fields | ({"names": names} if names else {})))
    return path, c2w


def test_cameras_of_a_file_follow_names_and_sizes(tmp_path):
    photos = [write_photo(tmp_path / name, (8, 8)) for name in ("b.jpg", "a.png")]
    sizes = [(60, 80), (30, 40)]
    K = torch.stack([intrinsics_from_fov(fov, (60, 80)) for fov in (40, 50, 60)])
    file, c2w = pose_file(tmp_path / "cameras.json", ["images/a.png", "c.png", "b.png"], (60, 80), K)
    found = cameras_from_file(file, photos, sizes, {})
    for camera, size, i in zip(found.camera, sizes, (2, 0), strict=True):
        assert camera.size == size
        assert torch.equal(camera.c2w, c2w[i].double())
        xy, _ = project(POINTS, Camera(c2w[i].double(), K[i].double(), (60, 80)))
        torch.testing.assert_close(project(POINTS, camera)[0], xy * size[0] / 60, atol=1e-9, rtol=0)
    for names, sizes, message in (
        (["a", "c", "d"], [(60, 80)] * 2, "names no camera of b.jpg"),
        (["c", "d", "e"], [(60, 80)] * 2, "holds 3 cameras and none of them is named b"),
        (["a", "b", "c"], [(60, 80), (60, 60)], "a.png is 60x60, .* is for pictures of 80x60"),
    ):
        pose_file(file, names, (60, 80), K)
        with pytest.raises(ValueError, match=message):
            cameras_from_file(file, photos, sizes, {})
    file, _ = pose_file(tmp_path / "cameras.json", None, (60, 80), K[:2])
    assert "in the photographs' order" in cameras_from_file(file, photos, [(60, 80)] * 2, {}).notes[-1]
    file, _ = pose_file(tmp_path / "cameras.json", None, (60, 80), K[:2], distortion=[0.1, 0, 0, 0, 0])
    with pytest.raises(ValueError, match="cannot hold lens distortion"):
        cameras_from_file(file, photos, [(60, 80)] * 2, {})


@pytest.fixture
def phone(tmp_path, monkeypatch):
    """Photographs, lying, upright and lying, of one lens, and a stand-in for structure from motion that knows it."""
    monkeypatch.setattr(cached_estimate, "cache_folder", lambda: tmp_path / "cache")
    sizes = [(60, 80), (80, 60), (30, 40)]  # upright and lying, and smaller: of one aspect
    photos = [write_photo(tmp_path / f"{i}.jpg", size, seed=i) for i, size in enumerate(sizes)]
    c2w = torch.eye(4, dtype=torch.float64).repeat(3, 1, 1)
    c2w[:, 0, 3] = torch.tensor([0.0, 0.5, 1.0])
    seen = {}

    def recover(frames, lens, lens_known, ignore=None):
        seen.update(frames=frames, lens=lens, known=lens_known, ignore=ignore, calls=seen.get("calls", 0) + 1)
        K = torch.tensor([[70.0, 0, 40], [0, 70, 40], [0, 0, 1]], dtype=torch.float64).expand(3, 3, 3)
        placed = cameras_from_poses(c2w, K, lens.size, torch.tensor([True, True, False]), "a stand-in")
        return cached_estimate.replace(placed, median_depth=2.0)

    monkeypatch.setattr(photo_cameras, "recover_with_colmap", recover)
    monkeypatch.setattr(photo_cameras, "colmap_missing", lambda: None)
    return photos, sizes, seen


def test_measured_cameras_come_back_to_each_photographs_pixels(phone):
    photos, sizes, seen = phone
    found = measured_photo_cameras(photos, sizes, None, 4.0)
    frames, ignore = seen["frames"], seen["ignore"]
    assert frames.shape == (3, 80, 80, 3)
    assert np.array_equal(frames[0, 10:70], read_image(photos[0]))
    assert np.array_equal(frames[1, :, 10:70], read_image(photos[1]))
    assert not ignore[0, 10:70].any()
    assert ignore[0, :10].all()
    assert not seen["known"]
    assert found.camera[2] is None
    assert "left out, as they could not be placed: 2.jpg" in found.notes
    for camera, size in zip(found.camera[:2], sizes, strict=False):
        expected = [[70, 0, size[1] / 2], [0, 70, size[0] / 2], [0, 0, 1]]
        torch.testing.assert_close(camera.K, torch.tensor(expected, dtype=torch.float64))
    assert float(found.camera[1].c2w[0, 3]) == pytest.approx(1.0)  # half a unit, and what was 2 away is 4 away
    assert not any("different aspects" in note for note in found.notes)
    measured_photo_cameras(photos, sizes, None, 5.0)
    assert seen["calls"] == 1
    write_photo(photos[1], (60, 60))
    found = measured_photo_cameras(photos, [sizes[0], (60, 60), sizes[2]], None, 4.0)
    assert any("different aspects and unknown lenses are taken to be of one lens" in note for note in found.notes)


def test_lenses_are_known_by_exif_where_they_differ(phone, tmp_path):
    photos, sizes, seen = phone
    for photo, size, focal in zip(photos, sizes, (28, 28, 56), strict=True):
        write_photo(photo, size, focal_35mm=focal)
    measured_photo_cameras(photos, sizes, None, 4.0)
    assert seen["known"]
    focal_px = 28 / math.hypot(36, 24) * 100
    torch.testing.assert_close(seen["lens"].K[:, 0, 0], torch.tensor([focal_px, focal_px, 2 * focal_px]))
    measured_photo_cameras(photos, sizes, 50.0, 4.0)
    assert seen["known"]
    assert float(seen["lens"].K[0, 0, 0]) == pytest.approx(40 / math.tan(math.radians(25)), rel=1e-5)


def test_subject_distance_is_where_the_cameras_look():
    c2w = torch.eye(4, dtype=torch.float64).repeat(3, 1, 1)
    c2w[1, :3] = torch.tensor([[0, 0, -1, 7], [0, 1, 0, 0], [1, 0, 0, 7.0]])  # from the side, at (0, 0, 7)
    c2w[2, 2, 3] = 1.0
    camera = Camera(c2w, intrinsics_from_fov(60, (6, 8)).double().expand(3, 3, 3), (6, 8))
    distance, how = subject_distance_of(camera, None)
    assert (distance, how) == (pytest.approx(7.0), "where the optical axes meet")
    assert subject_distance_of(camera[[0, 2]], None)[1].startswith("an assumption")
    points = torch.tensor([[0.0, 0, 3]] * 15 + [[0.0, 0, 5]] * 16 + [[0.0, 0, -5]] * 40)
    assert subject_distance_of(camera, points) == (5.0, "the middle depth of the known points")


def test_photographs_of_other_sizes_are_cropped_to_the_first(tmp_path):
    photos = [write_photo(tmp_path / f"{i}.png", size, seed=i) for i, size in enumerate([(12, 16), (24, 48)])]
    sequence = PhotoSequence.showing(photos, [(12, 16), (24, 48)], [0, 1, 1])
    assert len(sequence) == 3
    frames = sequence.read(0, 3)
    assert torch.equal(frames[0], torch.from_numpy(read_image(photos[0])).permute(2, 0, 1))
    assert torch.equal(frames[1], frames[2])
    inner = read_image(photos[1])[:, 8:40].reshape(12, 2, 16, 2, 3).mean((1, 3))
    assert np.abs(frames[1].permute(1, 2, 0).numpy() - inner).max() <= 1
