"""Points from views with known cameras: where they lie, what they cost when views are out of line, and their file."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from mvtrack.data.synthetic.objects import object_clip
from mvtrack.data.synthetic.test_scenes import render_still_scene
from mvtrack.geometry.camera import Camera, project
from mvtrack.inference.views.points import triangulated, write_ply


@pytest.fixture(scope="module")
def scene():
    """Three views of a room, 96x128."""
    return render_still_scene(77, 3, 1, (96, 128))


@pytest.fixture(scope="module")
def cloud(scene):
    return triangulated(scene.video[:, 0], scene.camera[:, 0])


def test_points_lie_on_surfaces(scene, cloud):
    assert 20 < len(cloud.points) <= cloud.matches
    assert cloud.colours.shape == cloud.points.shape
    assert cloud.residual_px.median() < 0.7
    best = torch.full((len(cloud.points),), torch.inf)
    for view in range(3):
        xy, z = project(cloud.points, scene.camera[view, 0])
        inside = (xy >= 0).all(-1) & (xy < torch.tensor([128, 96])).all(-1)
        column, row = xy.long().clamp_min(0).T
        shown = scene.depth[view, 0][row.clamp_max(95), column.clamp_max(127)]
        best = torch.where(inside, torch.minimum(best, (z - shown).abs() / shown), best)
    assert best.median() < 0.03


def test_residual_grows_as_views_go_out_of_line():
    """A view that is shifted by three pixels is off by half of them, as is each that it is matched with."""
    clip = object_clip(5, "syncdreamer", 96, views=(0, 1, 2))
    camera, views = clip.camera[:, 0], clip.video[:, 0]
    in_line = triangulated(views, camera).residual_px.median()
    shifted = triangulated(torch.stack([views[0], views[1].roll(3, -2), views[2]]), camera).residual_px.median()
    assert in_line < 0.5
    assert 1 < shifted < 2


def test_orthographic_views_of_an_object(tmp_path):
    clip = object_clip(5, "wonder3d", 96)
    cloud = triangulated(clip.video[:, 0], clip.camera[:, 0])
    assert len(cloud.points) > 10
    assert (cloud.points.norm(dim=1) < 0.5).float().mean() > 0.9  # its box has a diagonal of 1
    path = tmp_path / "points.ply"
    write_ply(path, cloud)
    head, body = path.read_bytes().split(b"end_header\n", 1)
    assert f"element vertex {len(cloud.points)}\n".encode() in head
    rows = np.frombuffer(body, [("xyz", "<f4", 3), ("rgb", "u1", 3)])
    assert np.array_equal(rows["xyz"], cloud.points.numpy())
    assert np.array_equal(rows["rgb"], cloud.colours.numpy())


def test_views_that_share_nothing_give_no_points(scene, tmp_path):
    flat = torch.ones(2, 3, 96, 128)
    empty = triangulated(flat, scene.camera[:2, 0])
    assert empty.record() == {"points": 0, "matches": 0, "residual_px": None, "median_residual_px": None}
    write_ply(tmp_path / "none.ply", empty)
    away = scene.camera.c2w[:2, 0].clone()
    away[1, :3, :3] = away[1, :3, :3] @ torch.diag(torch.tensor([-1.0, 1.0, -1.0]))
    opposite = replace(scene.camera[:2, 0], c2w=away)
    assert triangulated(scene.video[:2, 0], opposite).matches == 0
    with pytest.raises(ValueError, match="two views or more"):
        triangulated(flat[:1], Camera(away[:1], scene.camera.K[:1, 0], (96, 128)))
