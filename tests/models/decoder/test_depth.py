"""Depth for the second decoding: carried over, holes filled, and from two views of a moment."""

import pytest
import torch

from mvtrack.data.synthetic.test_scenes import CaseSpec, render_case
from mvtrack.geometry.camera import Camera
from mvtrack.geometry.warp import covisible
from mvtrack.models.decoder.depth import carried_depth, filled, refuse_wrong_unit, stereo_depth


@pytest.fixture(scope="module")
def clip():
    return render_case(CaseSpec(11, "arc_left", 20.0, 0.5, (48, 64), 5)).clip


def test_carried_depth_equals_target_depth_where_covisible(clip):
    found = carried_depth({0: clip.depth[0]}, clip.camera)
    assert torch.equal(found[0], clip.depth[0])
    assert (found.isfinite() & (found > 0)).all()
    seen = covisible(clip.depth[1], clip.depth[0], clip.camera[1], clip.camera[0])
    off = ((found[1] - clip.depth[1]).abs() / clip.depth[1])[seen]
    assert off.median() < 0.01
    assert (off < 0.05).float().mean() > 0.9


def test_depth_file_holes_are_filled(clip):
    depth = clip.depth[0].clone()
    depth[:, 10:14, 20:25] = torch.nan
    depth[:, 0] = torch.inf
    found = carried_depth({0: depth}, clip.camera)
    assert (found.isfinite() & (found > 0)).all()
    depth[3] = 0.0
    with pytest.raises(ValueError, match="depth of frame 3 is not positive and finite anywhere"):
        carried_depth({0: depth}, clip.camera)


def test_holes_take_farthest_edge_depth():
    depth = torch.tensor([[[2.0, torch.nan, torch.nan, 5.0]]]).expand(1, 3, 4)
    assert filled(depth)[0, 1].tolist() == [2.0, 2.0, 5.0, 5.0]
    empty = torch.full((2, 3, 4), torch.nan)
    empty[1, 1, 1] = 7.0
    assert filled(empty, 3.0)[0].unique().tolist() == [3.0]
    assert filled(empty, 3.0)[1].unique().tolist() == [7.0]


def test_unseen_target_gets_median_depth(clip):
    away = clip.camera.c2w.clone()
    away[1, :, :3, :3] = away[1, :, :3, :3] @ torch.diag(torch.tensor([-1.0, 1.0, -1.0]))  # it looks back
    found = carried_depth({0: clip.depth[0]}, type(clip.camera)(away, clip.camera.K, clip.camera.size))
    assert (found[1] == clip.depth[0].median()).all()


def test_two_view_depth_finds_moving_objects(clip):
    distance = float(clip.depth[0, 0].median())
    found = stereo_depth(clip.video, clip.camera, distance)
    seen = covisible(clip.depth[1], clip.depth[0], clip.camera[1], clip.camera[0])
    near = (found[1] - clip.depth[1]).abs() < 0.1 * distance
    assert near[seen].float().mean() > 0.6
    swapped = stereo_depth(
        clip.video.flip(0), type(clip.camera)(clip.camera.c2w.flip(0), clip.camera.K.flip(0), (48, 64)), distance
    )
    torch.testing.assert_close(swapped.flip(0), found)
    larger = stereo_depth(clip.video, clip.camera.scaled(3.0), 3 * distance)
    assert ((larger / 3 - found).abs() < 1e-3 * found).float().mean() > 0.99
    with pytest.raises(ValueError, match="at least two views"):
        stereo_depth(clip.video[:1], clip.camera[:1], distance)


def test_depth_of_several_views_shows_the_nearest_surface(clip):
    """What either shows is carried to a third view: the nearer surface hides the farther one."""
    camera = Camera(clip.camera.c2w[[0, 1, 0]], clip.camera.K[[0, 1, 0]], clip.camera.size)
    alone = carried_depth({0: clip.depth[0]}, Camera(camera.c2w[[0, 2]], camera.K[[0, 2]], camera.size))[1]
    wall = torch.full_like(clip.depth[1], 0.5 * float(clip.depth[1].min()))
    both = carried_depth({0: clip.depth[0], 1: wall}, camera)
    assert torch.equal(both[0], clip.depth[0])
    assert torch.equal(both[1], wall)
    hidden = both[2] < 0.9 * alone
    assert hidden.float().mean() > 0.1
    assert (both[2] <= alone * 1.001).float().mean() > 0.9


@pytest.mark.parametrize("factor", [0.01, 100.0, 1000.0])
def test_depth_in_another_unit_is_refused(clip, factor):
    distance = float(clip.depth[0].median())
    for known in (distance, None):
        refuse_wrong_unit(clip.depth[0], clip.camera, known, "d.npy")
        refuse_wrong_unit(clip.depth[0] * 5, clip.camera, known, "d.npy")
    with pytest.raises(ValueError, match="d.npy has a median of .* another unit"):
        refuse_wrong_unit(clip.depth[0] * factor, clip.camera, distance, "d.npy")
    if factor == 1000.0:
        with pytest.raises(ValueError, match="the cameras stand apart by"):
            refuse_wrong_unit(clip.depth[0] * factor, clip.camera, None, "d.npy")
    still = clip.camera[:1, :1]
    refuse_wrong_unit(clip.depth[0] * factor, still, None, "d.npy")  # nothing to compare with
