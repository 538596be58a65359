"""DAVIS and iPhone, in the miniatures that the evaluation renders in their layouts."""

import pytest
import torch

from mvtrack.data.public.fitting import FittedScene
from mvtrack.data.public.iphone import split_frames
from mvtrack.data.public.registry import find_layout
from mvtrack.evaluation.benchmarks.davis_miniature import DavisMiniatureStyle, write_davis_miniature
from mvtrack.evaluation.benchmarks.iphone_miniature import IphoneMiniatureStyle, write_iphone_miniature
from mvtrack.geometry.pose_files import read_cameras
from mvtrack.video.resize import fit_to

SIZE = (26, 34)


def fit(size):
    return fit_to(size, SIZE, "crop")


def test_davis_has_masks_and_no_cameras(tmp_path, options):
    write_davis_miniature(tmp_path, DavisMiniatureStyle(num_sequences=2, num_frames=5, size=(36, 52)))
    layout = find_layout(tmp_path)
    files = layout.scenes(tmp_path, options)
    assert (layout.name, [scene.name for scene in files]) == ("davis", ["scene-00", "scene-01"])
    (view,) = layout.read(files[0]).views
    assert view.video.read(0, 5).shape == (5, 3, 36, 52)
    masks = view.masks(3)
    assert masks.shape == (3, 36, 52)
    assert 0 < masks.float().mean() < 0.5
    with pytest.raises(ValueError, match="scene-00: scene-00 has no cameras: training needs them"):
        FittedScene(layout.read(files[0]), 5, fit)


def test_the_iphones_moving_camera_comes_with_depth(tmp_path, options):
    names = write_iphone_miniature(tmp_path, IphoneMiniatureStyle(num_sequences=1, num_frames=8, size=(48, 36)))
    layout = find_layout(tmp_path)
    (files,) = layout.scenes(tmp_path, options)
    assert (layout.name, files.name) == ("iphone", names[0])
    (view,) = layout.read(files).views
    expected = read_cameras(tmp_path / names[0] / "camera", camera="0")
    assert torch.equal(view.camera.c2w, expected.camera.c2w)
    assert view.depth(8).shape == (8, 48, 36)
    (fitted,) = FittedScene(layout.read(files), 5, fit).views()
    assert fitted.depth.shape == (5, *SIZE)
    assert 0.5 < fitted.depth[fitted.depth > 0].median() < 50
    with pytest.raises(ValueError, match="holds 1 view of each moment, training needs 2"):
        FittedScene(layout.read(files), 5, fit, 2)
    split = tmp_path / names[0] / "splits/train.json"
    split_frames.cache_clear()
    split.write_text(split.read_text().replace('"0_00003"', '"../0_00003"'))
    with pytest.raises(ValueError, match=r"names the file '../0_00003.png', which leads out of"):
        layout.read(files)
