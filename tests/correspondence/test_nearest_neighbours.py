"""Targets from 3D points: analytic planes, rendered scenes, and a real reconstruction with its cameras."""

import math
from dataclasses import replace

import pytest
import torch

from mvtrack.config.losses import PointMatchConfig
from mvtrack.correspondence.nearest_neighbours import PointMaps, nearest_points, points_from_depth, targets_from_points
from mvtrack.correspondence.targets import _NOTHING_SHARED, targets_from_depth
from mvtrack.data.synthetic.test_scenes import CaseSpec, render_case
from mvtrack.geometry.camera import Camera, intrinsics_from_fov, invert_pose, pixel_grid, project

UNGATED = PointMatchConfig(max_spacings=None)
PX, SIZE, GRID = 4, (44, 52), (11, 13)
CELLS = 11 * 13


def turned(yaw_deg: float, position: tuple[float, float, float]) -> torch.Tensor:
    c, s = math.cos(math.radians(yaw_deg)), math.sin(math.radians(yaw_deg))
    pose = torch.eye(4, dtype=torch.float64)
    pose[:3, :3] = torch.tensor([[c, 0, s], [0, 1, 0], [-s, 0, c]])
    pose[:3, 3] = torch.tensor(position)
    return pose.float()


def plane_case(poses: list[torch.Tensor], normal: tuple[float, float, float], offset: float):
    """Cameras (1, V, 1) that look at the plane normal . x = offset, and the exact point maps."""
    camera = Camera(
        torch.stack(poses)[None, :, None], intrinsics_from_fov(55, SIZE).expand(1, len(poses), 1, 3, 3), SIZE
    )
    n = torch.tensor(normal, dtype=torch.float32)
    rays = torch.cat([pixel_grid(SIZE), torch.ones(*SIZE, 1)], -1) @ camera.K[0, 0, 0].inverse().mT
    world = torch.einsum("vij,hwj->vhwi", camera.c2w[0, :, 0, :3, :3], rays)
    centre = camera.c2w[0, :, 0, None, None, :3, 3]
    depth = (offset - centre @ n) / (world @ n)
    points = centre + depth[..., None] * world
    return camera, depth[None, :, None], points.movedim(-1, 1)[None, :, None]


def homography_cells(camera: Camera, normal, offset: float, a: int, b: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Where the centres of view a's tokens lie in view b: H = K (R - t n' / d) K^-1 written in camera a's axes."""
    relative = (invert_pose(camera.c2w[0, b, 0]) @ camera.c2w[0, a, 0]).double()
    pose = camera.c2w[0, a, 0].double()
    n = pose[:3, :3].T @ torch.tensor(normal, dtype=torch.float64)
    d = offset - torch.tensor(normal, dtype=torch.float64) @ pose[:3, 3]
    K = camera.K[0, 0, 0].double()
    H = K @ (relative[:3, :3] + torch.outer(relative[:3, 3], n) / d) @ K.inverse()
    xy = torch.cat([pixel_grid(SIZE, PX).flatten(0, 1), torch.ones(CELLS, 1)], -1).double() @ H.T
    xy = xy[:, :2] / xy[:, 2:]
    inside = (xy >= 0).all(1) & (xy[:, 0] < SIZE[1]) & (xy[:, 1] < SIZE[0])
    return xy, inside


def cells_between(label: torch.Tensor, xy: torch.Tensor) -> torch.Tensor:
    """Chebyshev distance in cells from labels to where points really lie (0: inside the cell)."""
    column, row = (xy[:, 0] / PX).floor(), (xy[:, 1] / PX).floor()
    return torch.maximum((label // GRID[1] - row).abs(), (label % GRID[1] - column).abs())


def test_frontal_plane_targets_equal_homography():
    camera, depth, points = plane_case([turned(0, (0, 0, 0)), turned(0, (0.31, -0.23, 0.4))], (0, 0, 1), 3.0)
    torch.testing.assert_close(points_from_depth(depth, camera), points, atol=1e-5, rtol=1e-5)
    targets = targets_from_points(PointMaps(points, camera=camera), GRID)
    for a, b in ((0, 1), (1, 0)):
        xy, inside = homography_cells(camera, (0.0, 0.0, 1.0), 3.0, a, b)
        edge = (xy / PX - (xy / PX).round()).abs().amin(1) < 1e-3
        keep = inside & ~edge
        label = targets.label[0, a * CELLS : (a + 1) * CELLS, b, 0]
        assert keep.sum() > 60
        assert (cells_between(label, xy)[keep] == 0).all()
        assert (targets.weight[0, a * CELLS : (a + 1) * CELLS, b, 0][keep].mean()) > 0.95


def test_slanted_plane_targets_lie_within_a_cell_of_homography():
    normal, offset = (0.5, 0.0, math.sqrt(0.75)), 2.6
    camera, _, points = plane_case([turned(0, (0, 0, 0)), turned(-12, (0.7, 0.1, 0))], normal, offset)
    targets = targets_from_points(PointMaps(points), GRID, PointMatchConfig(max_spacings=1.0))
    for a, b in ((0, 1), (1, 0)):
        xy, inside = homography_cells(camera, normal, offset, a, b)
        rows = slice(a * CELLS, (a + 1) * CELLS)
        asked = targets.weight[0, rows, b, 0] > 0
        assert (asked & inside).sum() > 50
        assert (cells_between(targets.label[0, rows, b, 0], xy)[asked & inside] <= 1).all()


def test_distance_gates_reject_what_cycle_check_passes():
    """Two views of different parts of a plane: border cells are each other's nearest, far apart in space."""
    _, _, points = plane_case([turned(0, (0, 0, 0)), turned(0, (9.0, 0, 0))], (0, 0, 1), 3.0)
    assert off_frame(targets_from_points(PointMaps(points), GRID, UNGATED)) > 0
    assert off_frame(targets_from_points(PointMaps(points), GRID, replace(UNGATED, max_distance=0.5))) == 0
    assert off_frame(targets_from_points(PointMaps(points), GRID)) == 0


@pytest.mark.parametrize("apart", [9.0, 1000.0])
def test_disjoint_views_give_no_targets_and_are_counted(apart):
    camera, _, points = plane_case([turned(0, (0, 0, 0)), turned(0, (apart, 0, 0))], (0, 0, 1), 3.0)
    counted = _NOTHING_SHARED.cases
    targets = targets_from_points(PointMaps(points, camera=camera), GRID, num_queries=24)
    assert off_frame(targets) == 0
    assert _NOTHING_SHARED.cases == counted + 1


def test_default_gate_keeps_covisible_rows():
    """Rows that are refused by distance point outside the other view's picture."""
    normal, offset = (0.5, 0.0, math.sqrt(0.75)), 2.6
    camera, _, points = plane_case([turned(0, (0, 0, 0)), turned(-12, (0.7, 0.1, 0))], normal, offset)
    gated, loose = targets_from_points(PointMaps(points), GRID), targets_from_points(PointMaps(points), GRID, UNGATED)
    for a, b in ((0, 1), (1, 0)):
        rows = slice(a * CELLS, (a + 1) * CELLS)
        _, inside = homography_cells(camera, normal, offset, a, b)
        kept, before = (x.weight[0, rows, b, 0] > 0 for x in (gated, loose))
        assert (kept & inside).sum() == (before & inside).sum()


def off_frame(targets) -> float:
    """Weight of the rows that do not lie in their query's own frame."""
    views, frames = targets.label.shape[2:]
    own = torch.arange(views * frames).view(views, frames) == targets.own_frame[..., None, None]
    return float((targets.weight * ~own).sum())


def test_targets_are_invariant_to_world_and_scale(generator):
    camera, _, points = plane_case(
        [turned(0, (0, 0, 0)), turned(-8, (0.5, 0.1, 0)), turned(5, (0, 0, 0.3))], (0, 0, 1), 3
    )
    points = points + 0.02 * torch.randn(points.shape, generator=generator)
    config = PointMatchConfig(max_spacings=1.0)
    truth = targets_from_points(PointMaps(points), GRID, config)
    shown = off_frame(truth)
    assert shown > 100
    scaled = targets_from_points(PointMaps(points * 37.0), GRID, config)
    assert (scaled.label == truth.label).float().mean() > 0.999
    assert off_frame(scaled) == pytest.approx(shown, rel=0.01)
    turn = turned(40, (3, -2, 1))
    moved = (turn[:3, :3] @ points.flatten(-2) + turn[:3, 3:]).view(points.shape)
    assert (targets_from_points(PointMaps(moved), GRID, config).label == truth.label).float().mean() > 0.99
    order = torch.tensor([2, 0, 1])
    permuted = targets_from_points(PointMaps(points[:, order]), GRID, config)
    by_view = [x.unflatten(1, (3, CELLS))[:, order] for x in (truth.label, truth.weight)]
    assert torch.equal(permuted.label, by_view[0].flatten(1, 2)[:, :, order])
    assert torch.equal(permuted.weight, by_view[1].flatten(1, 2)[:, :, order])
    as_frames = targets_from_points(  # the same photographs as anchors of one camera's path
        PointMaps(points.movedim(2, 1).repeat_interleave(4, 2)[:, :, 3:]), GRID, config
    )
    assert torch.equal(as_frames.label[:, :, 0], truth.label[..., 0])
    assert torch.equal(as_frames.weight[:, :, 0], truth.weight[..., 0])


def test_rendered_points_match_exact_projection():
    """Moving things, so same-time pairs; against the projection through exact depth."""
    clip = render_case(CaseSpec(8, "translate_up", 15.0, 0.0, size=SIZE, num_frames=5)).clip
    points = points_from_depth(clip.depth[None], clip.camera[None])
    config = PointMatchConfig(pairs="same_time", max_spacings=1.5, resize="nearest")
    ours = targets_from_points(PointMaps(points), GRID, config)
    exact = targets_from_depth(clip.depth[None], clip.camera[None], PX)
    first = 2 * CELLS  # tokens of the target view
    both = (ours.weight[:, first:, :1] > 0) & (exact.weight[:, :, :1] > 0)
    a, b = ours.label[:, first:, :1][both], exact.label[:, :, :1][both]
    apart = torch.maximum((a // 13 - b // 13).abs(), (a % 13 - b % 13).abs())
    assert both.sum() > 100
    assert (apart <= 1).float().mean() > 0.97
    assert ours.weight[:, :CELLS, 0, 1].sum() == 0  # other times are not asked for


@pytest.mark.shared
def test_real_reconstruction_targets_match_cameras(shared_numbers):
    z = shared_numbers("data/garden_points.npz")
    size, token_px = (420, 648), 12
    c2w = invert_pose(torch.from_numpy(z["viewmats"])).float()
    camera = Camera(c2w[None, :, None], torch.from_numpy(z["Ks"]).float()[None, :, None], size)
    world = torch.from_numpy(z["means3d"]).float()
    coarse = camera.resized((35, 54))  # one pixel a token; the nearest point of each is what the camera sees
    xy, depth = project(world, coarse[0, :, 0])
    maps = torch.full((3, 35 * 54, 3), torch.nan)
    for v in range(3):
        inside = (xy[v] >= 0).all(1) & (xy[v, :, 0] < 54) & (xy[v, :, 1] < 35) & (depth[v] > 0)
        index = inside.nonzero()[:, 0]
        index = index[depth[v, index].argsort(descending=True)]  # nearer points overwrite farther ones
        pixel = xy[v, index].long()
        for i, p in zip(index.tolist(), (pixel[:, 1] * 54 + pixel[:, 0]).tolist(), strict=True):
            maps[v, p] = world[i]
    points = maps.mT.unflatten(-1, (35, 54))[None, :, None]
    targets = targets_from_points(PointMaps(points, camera=camera), (35, 54), PointMatchConfig(max_spacings=0.5))
    assert token_px * 35 == size[0]
    seen, apart = 0, []
    for a in range(3):
        for b in {0, 1, 2} - {a}:
            rows = slice(a * 1890, (a + 1) * 1890)
            asked = targets.weight[0, rows, b, 0] > 0
            where, _ = project(maps[a][asked], coarse[0, b, 0])
            label = targets.label[0, rows, b, 0][asked]
            centre = torch.stack([label % 54, label // 54], -1) + 0.5
            apart.append((where - centre).abs().amax(1))
            seen += int(asked.sum())
    apart = torch.cat(apart)
    assert seen > 1000
    assert (apart <= 1.5).float().mean() > 0.97  # in cells: inside the cell or a neighbouring one


def test_unusable_points_give_no_targets(generator, unchecked):
    camera, depth, points = plane_case([turned(0, (0, 0, 0)), turned(0, (0.3, 0, 0))], (0, 0, 1), 3.0)
    truth = targets_from_points(PointMaps(points), GRID)
    spoiled = points.clone()
    spoiled[0, 0, 0, 0, :20] = torch.nan
    spoiled[0, 0, 0, 2, :20, :26] = torch.inf
    targets = targets_from_points(PointMaps(spoiled), GRID)
    assert targets.weight[0, : 5 * 13].sum() == 0  # rows 0-4 of view 0 ask for nothing
    assert not ((targets.label[0, CELLS:, 0, 0] < 5 * 13) & (targets.weight[0, CELLS:, 0, 0] > 0)).any()
    kept = slice(6 * 13, CELLS)  # clear of the hole and of what it was matched with
    assert (targets.label[0, kept] == truth.label[0, kept]).all()
    behind = points_from_depth(-depth, camera)
    assert behind.isnan().all()
    mirrored = 2 * camera.c2w[..., :3, 3, None, None] - points  # behind each camera
    for bad in (behind, mirrored, torch.full_like(points, torch.inf)):
        nothing = targets_from_points(PointMaps(bad, camera=camera), GRID)
        assert nothing.weight.sum() == 0
        assert not nothing.label.isnan().any()
    drawn = targets_from_points(PointMaps(behind), GRID, num_queries=7)
    assert drawn.query.shape == (1, 0)


def test_confidence_and_number_of_queries(generator, unchecked):
    _, _, points = plane_case([turned(0, (0, 0, 0)), turned(0, (0.3, 0, 0))], (0, 0, 1), 3.0)
    confidence = torch.ones(1, 2, 1, *SIZE)
    confidence[:, 0, :, :, 26:] = 0.2
    sure = targets_from_points(PointMaps(points, confidence), GRID, PointMatchConfig(min_confidence=0.5))
    right = torch.arange(CELLS) % 13 >= 7
    assert sure.weight[0, :CELLS][right].sum() == 0
    assert sure.weight[0, :CELLS][~right].sum() > 0
    some = targets_from_points(PointMaps(points), GRID, num_queries=17, seed=5)
    every = targets_from_points(PointMaps(points), GRID)
    assert some.query.shape == (1, 17)
    assert some.query.unique().numel() == 17
    assert torch.equal(some.label, every.label[:, some.query[0]])
    assert torch.equal(some.weight, every.weight[:, some.query[0]])
    for call, message in (
        (
            lambda: targets_from_points(PointMaps(points), GRID, PointMatchConfig(min_confidence=0.5)),
            "confidence map go together",
        ),
        (lambda: targets_from_points(PointMaps(points, confidence), GRID), "confidence map go together"),
        (lambda: targets_from_points(PointMaps(points[:, :, 0]), GRID), r"must be \(B, V, T, 3, H, W\)"),
        (lambda: PointMatchConfig(cycle_cells=0.0), "cycle_cells must be above 0"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_chunks_keep_nearest_points(generator, monkeypatch):
    queries, keys = torch.randn(2, 31, 3, generator=generator).unbind(0)
    valid = torch.rand(31, generator=generator) < 0.7
    index, gap = nearest_points(queries, keys, valid)
    brute = (queries[:, None] - keys).norm(dim=-1).masked_fill(~valid, torch.inf)
    torch.testing.assert_close(gap, brute.amin(1))
    assert torch.equal(index, brute.argmin(1))
    monkeypatch.setattr("mvtrack.correspondence.nearest_neighbours._PAIRS", 64)
    assert torch.equal(nearest_points(queries, keys, valid)[0], index)
    none, far = nearest_points(queries, keys, torch.zeros_like(valid))
    assert far.isinf().all()
    assert not none.any()


def test_distances_rank_views():
    camera, _, points = plane_case([turned(0, (0, 0, 0)), turned(0, (0.3, 0, 0)), turned(0, (3, 0, 0))], (0, 0, 1), 3.0)
    targets = targets_from_points(PointMaps(points), GRID)
    assert (targets.distance[0, :CELLS, 1] < targets.distance[0, :CELLS, 2]).float().mean() > 0.9
    assert replace(targets, distance=None).distance is None
