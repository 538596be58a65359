"""The rendered ground truth is proved here: colour, depth, ids and tracks must tell one story."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from mvtrack.data.synthetic.camera_rig import RigStyle, sample_cameras
from mvtrack.data.synthetic.natural_scenes import natural_scene
from mvtrack.data.synthetic.point_tracks import carry_points, sample_tracks
from mvtrack.data.synthetic.renderer import FIRST_OBJECT, Hits, Rays, cast, render, shade
from mvtrack.data.synthetic.scene import BOX, CYLINDER, SPHERE, SceneStyle, sample_scene
from mvtrack.geometry.camera import Camera, pixel_grid, project, unproject
from mvtrack.geometry.warp import covisible, depth_warp, reproject

V, T, H, W = 3, 5, 44, 52


def world(seed: int, style: SceneStyle | None = None, samples: int = 2, draw=sample_scene):
    rng = np.random.default_rng(seed)
    scene = draw(rng, T, style or SceneStyle())
    camera = sample_cameras(rng, V, T, (H, W), RigStyle())
    return scene, camera, render(scene, camera, samples), rng


def test_render_has_shapes_and_ranges():
    scene, _, rendered, _ = world(0)
    assert rendered.video.shape == (V, T, 3, H, W)
    assert rendered.depth.shape == rendered.ids.shape == (V, T, H, W)
    assert (rendered.depth > 0.3).all()
    assert (rendered.depth < 60).all()
    assert set(rendered.ids.unique().tolist()) <= set(range(len(scene.kind) + FIRST_OBJECT))


@pytest.mark.parametrize("draw", [sample_scene, natural_scene])
def test_render_depends_on_seed_alone(draw):
    first, second = world(3, draw=draw)[2], world(3, draw=draw)[2]
    assert torch.equal(first.video, second.video)
    assert not torch.equal(first.video, world(4, draw=draw)[2].video)


def test_natural_scenes_have_finer_detail_and_thin_things():
    """Neighbouring pixels differ more; the pictures are of the same places."""
    steps, thinnest = {}, {}
    for draw in (sample_scene, natural_scene):
        worlds = [world(seed, draw=draw) for seed in range(6)]
        video = torch.stack([rendered.video.float() for _, _, rendered, _ in worlds])
        steps[draw] = (video[..., 1:] - video[..., :-1]).abs().mean()
        thinnest[draw] = min(float(scene.half_size.min()) for scene, *_ in worlds)
    assert steps[natural_scene] > 1.3 * steps[sample_scene]
    assert thinnest[natural_scene] < 0.06 < 0.13 < thinnest[sample_scene]


def test_render_keeps_pinned_pixels():
    """Thumbnail of one scene as first rendered; a change here changes every bank (raise bank.FORMAT on purpose)."""
    rng = np.random.default_rng(11)
    scene = sample_scene(rng, 2, SceneStyle())
    camera = sample_cameras(rng, 2, 2, (6, 8), RigStyle())
    video = render(scene, camera).video
    expected = torch.tensor(THUMBNAIL, dtype=torch.int16).view(2, 3, 6, 8)
    assert (video[:, 1].to(torch.int16) - expected).abs().max() <= 1


def test_depth_projects_to_same_surface_in_every_view():
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


def test_depth_warp_reproduces_other_view():
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


def test_tracks_agree_with_render_where_visible():
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


@pytest.mark.parametrize("draw", [sample_scene, natural_scene])
def test_track_colours_follow_surface(draw):
    """A point keeps its unlit colour: shading the scene at a visible track gives the same albedo at all times."""
    scene, camera, rendered, rng = world(5, draw=draw)
    flat = replace(scene, ambient=1.0, light=torch.tensor([0.0, -1.0, 0.0]))
    tracks, points, surface = sample_tracks(scene, camera, rendered, 61, rng)
    on_object = surface >= FIRST_OBJECT
    colours = []
    for v in range(V):
        origin = camera.c2w[v, :, :3, 3]
        direction = (points - origin[:, None]).permute(2, 0, 1).contiguous()
        hits = Hits(torch.ones(T, len(surface)), surface.expand(T, -1))
        rays = Rays(origin, direction, torch.arange(T), torch.full((T,), 1e-9), parallel=False)
        colours.append(shade(flat, rays, hits))
    colours = torch.stack(colours).movedim(1, -1)[:, :, on_object]  # (V, T, N, 3)
    spread = colours.flatten(0, 1).amax(0) - colours.flatten(0, 1).amin(0)
    assert (spread < 2e-3).all(0).float().mean() > (0.95 if draw is natural_scene else 0.999)  # rounding at hard edges


def test_orthographic_view_is_that_of_a_camera_far_away():
    """Two renderings of one scene; at 400 metres a lens of as many pixels a metre sees parallel rays, nearly."""
    scene, distance, zoom = sample_scene(np.random.default_rng(4), 2, SceneStyle()), 400.0, 8.0
    scene = replace(scene, dome_radius=1000.0)
    c2w = torch.eye(4).repeat(1, 2, 1, 1)
    c2w[..., 1, 3], c2w[..., 2, 3] = -0.6, -4.0
    K = torch.tensor([[zoom, 0, W / 2], [0, zoom, H / 2], [0, 0, 1]]).expand(1, 2, 3, 3)
    flat = render(scene, Camera(c2w, K, (H, W), projection="orthographic"))
    far, lens = c2w.clone(), K.clone()
    far[..., 2, 3] = -distance
    lens[..., :2, :2] *= distance
    near = render(scene, Camera(far, lens, (H, W)))
    on_object = (flat.ids >= FIRST_OBJECT) & (flat.ids == near.ids)
    assert on_object.sum() > 0.8 * (flat.ids >= FIRST_OBJECT).sum() > 50
    depth = near.depth - (distance - 4.0)
    assert (flat.depth - depth)[on_object].abs().median() < 0.02  # steep surfaces differ by a shift of 1/400
    difference = (flat.video.float() - near.video.float()).abs().mean(2)[on_object]
    assert difference.median() < 3


def test_points_move_with_their_object():
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
def test_ray_hits_lie_on_surface(kind):
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


def test_mismatched_frames_raise():
    scene, camera, _, _ = world(0)
    with pytest.raises(ValueError, match="the scene has 5 frames, the cameras 3"):
        render(scene, camera[:, :3])


# fmt: off
THUMBNAIL = [
    88, 68, 59, 55, 49, 96, 162, 105, 97, 60, 34, 34, 30, 105, 101, 87, 93, 56, 34, 34, 29, 101, 107, 105, 161, 155,
    126, 131, 114, 97, 88, 86, 138, 138, 136, 99, 85, 96, 88, 83, 113, 113, 111, 107, 98, 89, 82, 78, 134, 123, 118,
    125, 89, 129, 143, 110, 119, 121, 130, 116, 88, 119, 94, 91, 110, 119, 130, 115, 76, 111, 139, 125, 115, 113,
    94, 108, 109, 110, 110, 111, 105, 105, 104, 81, 79, 107, 114, 113, 99, 100, 101, 102, 105, 108, 110, 111, 134,
    130, 134, 99, 120, 132, 155, 148, 166, 135, 99, 78, 52, 148, 98, 140, 127, 109, 98, 79, 47, 129, 92, 113, 112,
    109, 90, 97, 88, 78, 73, 71, 104, 104, 103, 76, 66, 75, 70, 67, 93, 93, 92, 88, 82, 74, 69, 66, 61, 58, 56, 69,
    99, 115, 89, 70, 39, 34, 26, 70, 90, 100, 110, 87, 45, 34, 25, 60, 77, 79, 92, 79, 130, 129, 126, 120, 113, 106,
    101, 98, 126, 116, 79, 80, 93, 86, 68, 70, 84, 80, 77, 77, 78, 80, 84, 88, 103, 110, 90, 122, 108, 102, 108, 90,
    107, 116, 75, 115, 129, 92, 142, 112, 120, 116, 61, 84, 123, 109, 133, 136, 114, 114, 113, 112, 112, 111, 111,
    111, 105, 101, 80, 90, 113, 113, 92, 93, 108, 109, 111, 111, 111, 111, 111, 110, 156, 125, 112, 104, 156, 105,
    117, 186, 137, 79, 44, 81, 114, 91, 111, 168, 122, 81, 37, 102, 140, 165, 139, 122, 94, 94, 92, 89, 85, 82, 79,
    78, 97, 89, 62, 63, 73, 68, 55, 57, 71, 68, 66, 65, 66, 67, 69, 72,
]
# fmt: on
