"""The rendered ground truth is proved here: colour, depth, ids and tracks must tell one story."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from mvtrack.camera import Camera, pixel_grid, project, unproject
from mvtrack.data.point_tracks import carry_points, sample_tracks
from mvtrack.data.renderer import FIRST_OBJECT, Hits, cast, render, shade
from mvtrack.data.rig import RigStyle, sample_cameras
from mvtrack.data.scene import BOX, CYLINDER, SPHERE, SceneStyle, sample_scene
from mvtrack.metrics.warp import covisible, depth_warp, reproject

V, T, H, W = 3, 5, 44, 52


def world(seed: int, style: SceneStyle | None = None, samples: int = 2):
    rng = np.random.default_rng(seed)
    scene = sample_scene(rng, T, style or SceneStyle())
    camera = sample_cameras(rng, V, T, (H, W), RigStyle())
    return scene, camera, render(scene, camera, samples), rng


def test_shapes_and_ranges():
    scene, _, rendered, _ = world(0)
    assert rendered.video.shape == (V, T, 3, H, W)
    assert rendered.depth.shape == rendered.ids.shape == (V, T, H, W)
    assert (rendered.depth > 0.3).all()
    assert (rendered.depth < 60).all()
    assert set(rendered.ids.unique().tolist()) <= set(range(len(scene.kind) + FIRST_OBJECT))


def test_same_seed_same_pixels():
    first, second = world(3)[2], world(3)[2]
    assert torch.equal(first.video, second.video)
    assert not torch.equal(first.video, world(4)[2].video)


def test_a_seed_keeps_its_pixels_on_every_machine():
    """Thumbnail of one scene as first rendered; a change here changes every bank (raise bank.FORMAT on purpose)."""
    rng = np.random.default_rng(11)
    scene = sample_scene(rng, 2, SceneStyle())
    camera = sample_cameras(rng, 2, 2, (6, 8), RigStyle())
    video = render(scene, camera).video
    expected = torch.tensor(THUMBNAIL, dtype=torch.int16).view(2, 3, 6, 8)
    assert (video[:, 1].to(torch.int16) - expected).abs().max() <= 1


def test_depth_projects_to_the_same_surface_in_every_view():
    """A pixel's surface point, seen from another view, is drawn there at its own depth or hidden by a nearer one."""
    for seed in range(4):
        scene, camera, rendered, _ = world(seed)
        xy, z = reproject(rendered.depth[1], camera[1], camera[0])
        inside = (xy >= 0).all(-1) & (xy[..., 0] < W) & (xy[..., 1] < H) & (z > 0)
        drawn = first_depth_at(scene, camera[:1], xy.flatten(1, 2)[None])[0].view_as(z)
        relative = ((drawn - z) / z)[inside]
        assert inside.float().mean() > 0.3
        assert (relative < 0.01).all()
        assert (relative.abs() < 0.01).float().mean() > 0.6


def test_depth_warp_reproduces_the_other_view():
    """Colour is a function of the surface point: the exact warp is near the truth where both views see it."""
    for seed in range(3):
        _, camera, rendered, _ = world(seed, SceneStyle(static=True))
        video = rendered.video.float() / 127.5 - 1
        warped = depth_warp(video[0], rendered.depth[1], rendered.depth[0], camera[1], camera[0])
        seen = covisible(rendered.depth[1], rendered.depth[0], camera[1], camera[0])
        mean_error = (warped - video[1]).abs().mean(1)[seen].mean()
        copy_error = (video[0] - video[1]).abs().mean(1)[seen].mean()
        assert mean_error < 0.06
        assert mean_error < 0.5 * copy_error


def test_tracks_agree_with_the_render_where_visible_and_disagree_where_hidden():
    """At a visible track the rendered depth is the point's own; at a hidden one something nearer is drawn."""
    hidden_seen = 0
    for seed in range(6):
        scene, camera, rendered, rng = world(seed)
        tracks, points, surface = sample_tracks(scene, camera, rendered, 101, rng)
        xy, z = project(points.expand(V, -1, -1, -1), camera)
        torch.testing.assert_close(tracks.xy, xy)
        inside = (xy >= 0).all(-1) & (xy[..., 0] < W) & (xy[..., 1] < H) & (z > 0)
        drawn = first_depth_at(scene, camera, xy)
        relative = (drawn - z) / z
        assert (relative[tracks.visible].abs() < 0.012).all()
        hidden = inside & ~tracks.visible
        assert (relative[hidden] < -1e-3).all()
        hidden_seen += int(hidden.sum())
        assert (tracks.visible <= inside).all()
        assert tracks.visible.any(0).any(0).all()  # every point was picked where it is seen
    assert hidden_seen > 50


def first_depth_at(scene, camera: Camera, xy: torch.Tensor) -> torch.Tensor:
    """z-depth of what is really drawn at image positions, by casting a ray through each."""
    out = []
    for v in range(len(xy)):
        point = unproject(xy[v], torch.ones(xy.shape[1:3]), camera[v])
        origin = camera.c2w[v, :, :3, 3]
        direction = (point - origin[:, None]).permute(2, 0, 1).contiguous()
        out.append(cast(scene, origin, direction, torch.arange(T)).t)
    return torch.stack(out)


def test_track_colours_follow_the_surface():
    """A point keeps its unlit colour: shading the scene at a visible track gives the same albedo at all times."""
    scene, camera, rendered, rng = world(5)
    flat = replace(scene, ambient=1.0, light=torch.tensor([0.0, -1.0, 0.0]))
    tracks, points, surface = sample_tracks(scene, camera, rendered, 61, rng)
    on_object = surface >= FIRST_OBJECT
    colours = []
    for v in range(V):
        origin = camera.c2w[v, :, :3, 3]
        direction = (points - origin[:, None]).permute(2, 0, 1).contiguous()
        hits = Hits(torch.ones(T, len(surface)), surface.expand(T, -1))
        colours.append(shade(flat, origin, direction, torch.arange(T), hits, torch.full((T,), 1e-9)))
    colours = torch.stack(colours).movedim(2, -1)[:, :, on_object]  # (V, T, N, 3)
    spread = colours.flatten(0, 1).amax(0) - colours.flatten(0, 1).amin(0)
    assert spread.max() < 2e-3


def test_moving_points_ride_on_their_object():
    scene, camera, rendered, rng = world(8)
    _, points, surface = sample_tracks(scene, camera, rendered, 40, rng)
    moved = (points[-1] - points[0]).norm(dim=-1)
    assert (moved[surface < FIRST_OBJECT] == 0).all()
    mine = surface == surface[surface >= FIRST_OBJECT].mode().values
    if mine.sum() > 1:  # rigid: distances between points of one object are kept
        d0 = torch.cdist(points[0][mine], points[0][mine])
        d1 = torch.cdist(points[-1][mine], points[-1][mine])
        torch.testing.assert_close(d0, d1, atol=1e-4, rtol=0)
    again = carry_points(scene, points[2], surface, torch.full_like(surface, 2))
    torch.testing.assert_close(again, points, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", [SPHERE, BOX, CYLINDER])
def test_hits_lie_on_the_surface(kind):
    """Every hit of a primitive satisfies its implicit equation, seen from many directions."""
    scene, camera, _, _ = world(2)
    scene = replace(scene, kind=torch.full_like(scene.kind, kind))
    xy = pixel_grid((H, W)).flatten(0, 1).expand(T, -1, -1)
    point = unproject(xy, torch.ones(T, H * W), camera[0])
    origin = camera.c2w[0, :, :3, 3]
    direction = (point - origin[:, None]).permute(2, 0, 1).contiguous()
    hits = cast(scene, origin, direction, torch.arange(T))
    found = 0
    for o in range(len(kind_list := scene.kind)):
        frame, ray = (hits.surface == FIRST_OBJECT + o).nonzero(as_tuple=True)
        world_point = origin[frame] + direction[:, frame, ray].T * hits.t[frame, ray, None]
        local = (scene.rotation[frame, o].mT @ (world_point - scene.position[frame, o])[..., None])[..., 0]
        unit = local / scene.half_size[o]
        if kind == SPHERE:
            value = unit.norm(dim=-1)
        elif kind == BOX:
            value = unit.abs().amax(-1)
        else:
            value = torch.maximum(unit[:, [0, 2]].norm(dim=-1), unit[:, 1].abs())
        assert (value - 1).abs().max().item() < 2e-4 if len(value) else True
        found += len(value)
    assert found > 100, kind_list


def test_frames_must_match():
    scene, camera, _, _ = world(0)
    with pytest.raises(ValueError, match="the scene has 5 frames, the cameras 3"):
        render(scene, camera[:, :3])


# fmt: off
THUMBNAIL = [
    130, 135, 107, 99, 87, 110, 87, 50, 114, 113, 65, 34, 75, 115, 120, 113, 132, 144, 121, 93, 90, 91, 95, 93, 56,
    126, 137, 155, 165, 153, 125, 105, 72, 99, 118, 112, 103, 143, 151, 109, 88, 103, 106, 96, 59, 76, 85, 72, 155,
    155, 120, 117, 107, 129, 146, 80, 109, 108, 102, 97, 105, 116, 116, 117, 113, 121, 115, 107, 111, 116, 114, 106,
    83, 117, 91, 100, 121, 132, 133, 136, 103, 100, 101, 99, 100, 141, 146, 130, 100, 99, 99, 96, 64, 76, 83, 111,
    92, 105, 123, 120, 123, 112, 113, 181, 89, 91, 74, 72, 72, 85, 87, 82, 95, 98, 92, 85, 75, 70, 74, 78, 49, 90,
    93, 106, 123, 123, 96, 66, 67, 85, 96, 93, 104, 143, 135, 72, 78, 88, 89, 84, 58, 81, 73, 62, 113, 29, 28, 95,
    108, 117, 118, 109, 158, 144, 105, 125, 107, 93, 84, 98, 143, 136, 155, 150, 147, 122, 108, 100, 107, 110, 102,
    88, 113, 104, 110, 144, 108, 103, 78, 44, 59, 68, 73, 121, 128, 109, 80, 57, 57, 59, 62, 85, 119, 90, 79, 111,
    113, 113, 117, 116, 124, 110, 102, 118, 123, 120, 110, 112, 109, 92, 109, 132, 138, 135, 134, 120, 99, 99, 97,
    88, 111, 118, 127, 120, 100, 99, 84, 53, 73, 101, 114, 122, 108, 107, 104, 92, 101, 106, 109, 122, 81, 71, 56,
    76, 82, 87, 86, 81, 103, 94, 91, 88, 75, 69, 70, 77, 102, 95, 112, 138, 130, 92, 69, 73, 90, 92, 88, 102, 109,
    84, 74, 98, 90, 88, 69, 44, 58, 63, 62, 83, 96, 86, 70, 54, 56, 58, 58, 63,
]
# fmt: on
