"""Point maps from files and by VGGT in another environment, as the correspondence loss takes them."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from mvtrack.config.data import LatentsConfig
from mvtrack.config.run import RunConfig
from mvtrack.config.tree import from_tree
from mvtrack.correspondence.nearest_neighbours import points_from_depth
from mvtrack.data.latents import read_points
from mvtrack.data.loader import BatchDataset
from mvtrack.training.clip_sources import rendered_sources
from mvtrack.training.losses.correspondence import CorrespondenceLoss
from mvtrack.training.objective import Objective
from mvtrack.training.point_maps import estimate_points

SIZE = (32, 48)
# Stands in for VGGT: a point's x and y are the pixel, z is red; its confidence is the lowest in the upper left corner.
NETWORK = """
import torch

class VGGT(torch.nn.Module):
    @classmethod
    def from_pretrained(cls, name):
        assert name == "facebook/VGGT-1B"
        return cls()

    def forward(self, images):
        views, _, height, width = images.shape
        assert (height, width) == (518, 518) and 0 <= images.min() <= images.max() <= 1
        y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
        points = torch.stack([x.expand(views, -1, -1), y.expand(views, -1, -1), images[:, 0]], -1)
        confidence = torch.full((views, height, width), 2.0)
        confidence[:, :65, :65] = 1.0
        return {"world_points": points[None], "world_points_conf": confidence[None]}
"""


@pytest.fixture
def still(small_run, tmp_path):
    """A config of still views and its rendered scenes."""
    tree = {
        "model": small_run["model"] | {
            "dit": small_run["model"]["dit"] | {"rope_frames": "by_view"}, "num_frames": 1, "sizes": [list(SIZE)],
            "views": {"count": 3, "references": [1, 2]},
        },
        "data": {"num_frames": 1, "workers": 0, "banks": [
            {"root": str(tmp_path / "bank"), "size": list(SIZE), "num_scenes": 2, "num_frames": 1, "num_views": 3,
             "num_points": 5, "static": True}]},
        "loss": {"correspondence": 0.1, "correspondence_targets": "points", "correspondence_queries": None},
    }  # fmt: skip
    config = from_tree(RunConfig, tree, "tree")
    return config, rendered_sources(2, config, LatentsConfig(str(tmp_path / "latents"), SIZE))


def test_vggt_runs_once_in_its_environment(still, environment, tmp_path, monkeypatch):
    _, sources = still
    modules = dict.fromkeys(("vggt/__init__", "vggt/models/__init__"), "") | {"vggt/models/vggt": NETWORK}
    monkeypatch.setenv("MVTRACK_VGGT_PYTHON", str(environment(modules)))
    folder = tmp_path / "points"
    assert estimate_points(sources, folder, "cpu") == 2
    points = read_points(folder, sources[1].name, 6, [4, 0])
    assert points.shape == (2, 1, 3, 4, 6)
    known = points[:, 0].isfinite().all(1)
    assert not known[:, 0, 0].any()  # a cell is 130 x 86 pixels of VGGT's picture, and its own is at (65, 43)
    assert known.sum() == 2 * (4 * 6 - 1)
    width = 518 / 6
    torch.testing.assert_close(points[0, 0, 0, 2], (torch.arange(6) + 0.5) * width, atol=1.0, rtol=0)
    picture = list(sources[1].views())[4].video[0].float() / 255
    red = torch.nn.functional.interpolate(picture[None], (4, 6), mode="area")[0, 0]
    assert (points[0, 0, 2] - red)[known[0]].abs().mean() < 0.2
    assert estimate_points(sources, folder, "cpu") == 0


def test_missing_vggt_and_wrong_files_are_refused(still, tmp_path, monkeypatch):
    _, sources = still
    monkeypatch.delenv("MVTRACK_VGGT_PYTHON", raising=False)
    with pytest.raises(ValueError, match=r"missing VGGT: .*\$MVTRACK_VGGT_PYTHON; or put files into"):
        estimate_points(sources, tmp_path / "points")
    with pytest.raises(ValueError, match=r"scene.npy, the point maps of clip scene, cannot be read"):
        read_points(tmp_path, "scene", 3, [0])
    np.save(tmp_path / "scene.npy", np.zeros((2, 3, 4, 6), np.float32))
    with pytest.raises(ValueError, match=r"holds \(2, 1, 3, 4, 6\), expected \(V, 3, h, w\) of the clip's 3 views"):
        read_points(tmp_path, "scene", 3, [0])


def test_points_of_a_file_give_the_targets_of_depth(still):
    config, _ = still
    batch = BatchDataset(config.data, 0, 2, 2, views=config.model.views)[0][0]
    loss = CorrespondenceLoss(config)
    from_depth = loss.targets(batch, [1, 2])
    assert from_depth.weight.sum() > 0
    points = 3.0 * points_from_depth(batch.depth, batch.camera)  # in any unit
    from_file = loss.targets(replace(batch, depth=None, points=points), [1, 2])
    assert torch.equal(from_file.label, from_depth.label)
    assert torch.equal(from_file.weight, from_depth.weight)
    with pytest.raises(ValueError, match="name point maps in data.latents"):
        Objective(config)._check(replace(batch, depth=None))
