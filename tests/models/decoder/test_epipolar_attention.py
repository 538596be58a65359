"""The attention to other views against a slow one, what it does not depend on, and when it changes nothing."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from mvtrack.data.synthetic.test_scenes import CaseSpec, render_case
from mvtrack.geometry.camera import Camera, intrinsics_from_fov, pixel_grid, project
from mvtrack.geometry.warp import covisible, reproject, sample_bilinear
from mvtrack.models.decoder.epipolar_attention import EpipolarAttention, EpipolarConfig, look_up
from mvtrack.models.decoder.scene import DecoderScene, nearest_views

N, C, h, w, P, D = 5, 6, 7, 11, 3, 13


def random_turn(generator, shape, size) -> torch.Tensor:
    turn = torch.randn(*shape, 3, 3, generator=generator) * size
    return torch.linalg.matrix_exp(turn - turn.mT)


def some_scene(generator, views=2, moments=N, size=(h, w)) -> DecoderScene:
    """Views beside each other that look at about the same; the first exists as pictures."""
    c2w = torch.eye(4).repeat(views, moments, 1, 1)
    c2w[..., :3, :3] = random_turn(generator, (views, moments), 0.05)
    c2w[..., :3, 3] = 0.2 * torch.randn(views, moments, 3, generator=generator)
    c2w[..., 0, 3] += 0.7 * torch.arange(views)[:, None]
    camera = Camera(c2w, intrinsics_from_fov(60.0, size).repeat(views, moments, 1, 1), size)
    depth = 2 + 2 * torch.rand(views, moments, *size, generator=generator)
    return DecoderScene.of(camera, depth, {0: torch.rand(moments, 3, *size, generator=generator) * 2 - 1})


def some_attention(generator, points=P, sources=1, channels=C, dim=D) -> EpipolarAttention:
    """With weights that make every part of it count."""
    attention = EpipolarAttention(channels, EpipolarConfig(points, dim, sources))
    for parameter in attention.parameters():
        fan = parameter[0].numel() if parameter.ndim > 1 else 4
        nn.init.normal_(parameter, std=1.5 / math.sqrt(fan), generator=generator)
    return attention


def some_features(generator, views=2, moments=N, size=(h, w)) -> torch.Tensor:
    return torch.randn(views, moments, C, *size, generator=generator)


def moved(camera: Camera, view: int, c2w: torch.Tensor) -> Camera:
    poses = camera.c2w.clone()
    poses[view] = c2w
    return replace(camera, c2w=poses)


def turned(degrees: float) -> torch.Tensor:
    """About the y axis."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return torch.tensor([[c, 0, s, 0], [0, 1, 0, 0], [-s, 0, c, 0], [0, 0, 0, 1]])


@pytest.fixture(scope="module")
def clip():
    return render_case(CaseSpec(11, "arc_left", 20.0, 0.5, (48, 64), 9)).clip


@pytest.fixture
def parts(generator) -> tuple[EpipolarAttention, torch.Tensor, DecoderScene]:
    return some_attention(generator), some_features(generator), some_scene(generator)


# The first weights


@pytest.mark.parametrize("views", [2, 3])
def test_first_weights_change_nothing(generator, views):
    attention = EpipolarAttention(C, EpipolarConfig(P, D, 2))
    features, scene = some_features(generator, views), some_scene(generator, views)
    assert torch.equal(attention(features, scene), features)
    assert torch.equal(attention(features, scene, jitter=generator), features)
    nn.init.normal_(attention.out.weight, generator=generator)
    assert not torch.equal(attention(features, scene), features)


# Where the points are


@pytest.mark.parametrize("view", [0, 1])
def test_middle_point_equals_depth_warp(clip, view):
    frames, other = [0, 3, 8], 1 - view
    scene = DecoderScene.of(clip.camera, clip.depth).at(frames, (48, 64))
    attention = EpipolarAttention(C, EpipolarConfig(points=5))
    found, seen = look_up(clip.video[other, frames], attention._points(scene, view, None), scene.camera[other])
    found = found.mT.unflatten(-1, (5, 48, 64))  # (N, 3, P, H, W)
    seen = seen.unflatten(-1, (5, 48, 64))
    xy, z = reproject(scene.depth[view], scene.camera[view], scene.camera[other])
    inside = (z > 0) & (xy > 0).all(-1) & (xy[..., 0] < 64) & (xy[..., 1] < 48)
    assert 0.5 < inside.float().mean() < 1
    assert torch.equal(seen[:, 2], inside)
    expected = sample_bilinear(clip.video[other, frames], xy) * inside[:, None]
    torch.testing.assert_close(found[:, :, 2], expected, atol=1e-3, rtol=0)
    assert (found - expected[:, :, None]).abs().mean((0, 1, 3, 4)).argsort()[0] == 2

    both = covisible(scene.depth[view], scene.depth[other], scene.camera[view], scene.camera[other])
    own = clip.video[view, frames][:, :, None]
    error = ((found - own).abs().mean(1) * both[:, None]).mean((0, 2, 3))
    assert error.argmin() == 2, "the pictures themselves agree best at the surface"


@pytest.mark.parametrize("jittered", [False, True])
def test_points_lie_on_rays_one_per_stratum(generator, jittered):
    scene, count = some_scene(generator), 5
    attention = EpipolarAttention(C, EpipolarConfig(points=count))
    points = attention._points(scene, 1, generator if jittered else None)
    xy, z = project(points, scene.camera[1])
    torch.testing.assert_close(
        xy.unflatten(1, (count, h, w)), pixel_grid((h, w)).expand(N, count, h, w, 2), atol=1e-4, rtol=0
    )
    place = ((z.unflatten(1, (count, h, w)) - scene.depth[1][:, None]) / scene.radius + 1) / 2 * count
    place = place - torch.arange(count)[:, None, None]  # within its stratum
    if jittered:
        assert -1e-4 < place.min() < 0.02
        assert 0.98 < place.max() < 1 + 1e-4
        assert place.std(dim=0).min() > 0
        for axis in range(4):
            assert place.diff(dim=axis).abs().max() > 0.3
    else:
        torch.testing.assert_close(place, torch.full_like(place, 0.5), atol=1e-4, rtol=0)


def test_points_stay_in_front_of_camera(generator):
    scene = some_scene(generator)
    scene = replace(scene, depth=scene.depth * 0.01)
    _, z = project(EpipolarAttention(C, EpipolarConfig(points=P))._points(scene, 0, None), scene.camera[0])
    assert 0 < z.min() < 0.01 * scene.radius
    assert z.max() > 0.5 * scene.radius


def test_jitter_depends_on_generator_alone(parts):
    attention, features, scene = parts
    first, again, other = (attention(features, scene, jitter=torch.Generator().manual_seed(s)) for s in (2, 2, 3))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other, atol=1e-2)
    middle = attention(features, scene)
    assert not torch.allclose(first, middle, atol=1e-2)
    assert torch.equal(middle, attention(features, scene))


# Looking up and asking


def test_look_up_sees_inside_and_in_front():
    camera = Camera(torch.eye(4)[None], torch.tensor([[[10.0, 0, 5.5], [0, 10, 3.5], [0, 0, 1]]]), (h, w))
    raster = torch.tensor([[0.01, 3.5], [-0.01, 3.5], [10.99, 3.5], [11.01, 3.5], [5.5, 0.01], [5.5, -0.01],
                           [5.5, 6.99], [5.5, 7.01], [2.5, 1.5], [3.0, 1.5]])  # fmt: skip
    points = torch.cat([(raster - torch.tensor([5.5, 3.5])) / 10, torch.ones(10, 1)], 1) * 2
    points = torch.cat([points, -points[-1:]])[None]  # the last behind
    tokens = torch.arange(1.0, h * w + 1).view(1, 1, h, w)
    found, seen = look_up(tokens, points, camera)
    assert seen[0].tolist() == [True, False] * 4 + [True, True, False]
    assert found[0, ~seen[0]].eq(0).all()
    row, column = 3 * w, 5
    expected = torch.tensor([row + 1.0, row + w, column + 1, 6 * w + column + 1, w + 2 + 1, w + 2 + 1.5])
    torch.testing.assert_close(found[0, seen[0], 0], expected, atol=1e-3, rtol=0)


def test_look_up_of_bfloat16_finds_same_places(generator):
    """Places in a wide picture need more digits than features have."""
    size = (3, 389)
    camera = Camera(torch.eye(4)[None], intrinsics_from_fov(60.0, size)[None], size)
    local = (torch.rand(1, 101, 3, generator=generator) - 0.5) * torch.tensor([1.0, 0.005, 0]) + torch.tensor([0, 0, 1])
    tokens = torch.randn(1, D, *size, generator=generator).bfloat16()
    exact, seen = look_up(tokens.float(), local, camera)
    found, seen_half = look_up(tokens, local, camera)
    assert seen.all()
    assert torch.equal(seen, seen_half)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), exact, atol=0.02, rtol=0.01)


def test_attention_in_bfloat16_stays_close(parts):
    attention, features, scene = parts
    exact = attention(features, scene)
    half = attention.bfloat16()(features.bfloat16(), scene)
    assert half.dtype == torch.bfloat16
    assert (half.float() - exact).abs().mean() < 0.05 * (exact - features).abs().mean()


# Against loops


def slow_bilinear(tokens, x, y):
    """tokens: (d, h, w) with values at (j + 0.5, i + 0.5), the border repeated."""
    rows, columns = tokens.shape[-2:]
    x, y = min(max(x - 0.5, 0), columns - 1), min(max(y - 0.5, 0), rows - 1)
    j, i = min(int(x), columns - 2), min(int(y), rows - 2)
    a, b = x - j, y - i
    top = (1 - a) * tokens[:, i, j] + a * tokens[:, i, j + 1]
    bottom = (1 - a) * tokens[:, i + 1, j] + a * tokens[:, i + 1, j + 1]
    return (1 - b) * top + b * bottom


def slow_ray(c2w, K, x, y):
    direction = c2w[:3, :3] @ torch.linalg.solve(K, torch.tensor([x, y, 1.0]).double())
    direction = direction / direction.norm()
    return torch.cat([direction, torch.linalg.cross(c2w[:3, 3], direction)])


def slow_attention(attention, features, scene):
    """Cell by cell, in float64. Also how many points of each cell are seen by any view."""
    weights = {name: value.double() for name, value in attention.state_dict().items()}
    count, dim, sources = attention.config.points, attention.config.dim, attention.config.sources
    features, pixels, depth = features.double(), scene.pixels.double(), scene.depth.double()
    c2w, K = scene.camera.c2w.double(), scene.camera.K.double()
    views, moments, _, rows, columns = features.shape
    changed, counts = features.clone(), torch.zeros(views, moments, rows, columns)

    def linear(name, x):
        return weights[f"{name}.weight"].flatten(1) @ x + weights.get(f"{name}.bias", 0)

    def normal(v, n):
        x = features[v, n]
        x = (x - x.mean()) / (x.var(unbiased=False) + 1e-5).sqrt()
        return x * weights["norm.weight"][:, None, None] + weights["norm.bias"][:, None, None]

    def relative(v, origin, n):
        pose = torch.linalg.inv(c2w[origin, n]) @ c2w[v, n]
        pose[:3, 3] *= 0.1 / scene.radius
        return pose

    for view in range(views):
        centre = c2w[..., :3, 3]
        away = {v: (centre[v] - centre[view]).norm(dim=-1).mean() for v in range(views) if v != view}
        asked_views = sorted(away, key=away.get)[:sources]
        for n in range(moments):
            own = normal(view, n)
            maps = []
            for v in asked_views:
                tokens, shown = torch.zeros(dim, rows, columns).double(), torch.cat([normal(v, n), pixels[v, n]])
                for i in range(rows):
                    for j in range(columns):
                        ray = slow_ray(relative(v, view, n), K[v, n], j + 0.5, i + 0.5)
                        tokens[:, i, j] = linear("source", shown[:, i, j]) + linear("source_ray", ray)
                maps.append(tokens)
            for i in range(rows):
                for j in range(columns):
                    ray = slow_ray(relative(view, view, n), K[view, n], j + 0.5, i + 0.5)
                    query = linear("query", own[:, i, j]) + linear("query_ray", ray)
                    scores, answers = [], []
                    for p in range(count):
                        z = depth[view, n, i, j] + (-1 + (2 * p + 1) / count) * scene.radius
                        local = torch.linalg.solve(K[view, n], torch.tensor([j + 0.5, i + 0.5, 1]).double()) * z
                        world = c2w[view, n] @ torch.cat([local, torch.ones(1).double()])
                        told, anyone = [], False
                        for v, tokens in zip(asked_views, maps, strict=True):
                            there = (torch.linalg.inv(c2w[v, n]) @ world)[:3]
                            x, y, _ = (K[v, n] @ there / there[2]).tolist()
                            sees = bool(there[2] > 0) and 0 <= x < columns and 0 <= y < rows
                            told.append(slow_bilinear(tokens, x, y) * sees)
                            told.append(torch.full((1,), float(sees)).double())
                            anyone |= sees
                        told.append(torch.zeros((sources - len(asked_views)) * (dim + 1)).double())
                        if anyone:
                            place = linear("mix.0", torch.cat(told))
                            place = linear("mix.2", 0.5 * place * (1 + torch.erf(place / math.sqrt(2))))
                            scores.append(query @ linear("key", place) / math.sqrt(dim))
                            answers.append(linear("value", place))
                    counts[view, n, i, j] = len(scores)
                    if scores:
                        total = sum(math.exp(s) for s in scores)
                        answer = sum(math.exp(s) / total * a for s, a in zip(scores, answers, strict=True))
                        changed[view, n, :, i, j] += linear("out", answer)
    return changed, counts


@pytest.mark.parametrize(("views", "sources"), [(2, 1), (2, 2), (3, 1), (3, 2)])
@torch.no_grad()
def test_attention_equals_loops_over_cells_and_points(generator, views, sources):
    size, moments = (5, 7), 2
    attention = some_attention(generator, sources=sources)
    features = some_features(generator, views, moments, size) + 0.7
    scene = some_scene(generator, views, moments, size)
    expected, counts = slow_attention(attention, features, scene)
    assert counts.unique().tolist() == [0, 1, 2, 3], "cells that see nothing, a part and all"
    assert (expected - features).abs().mean() > 0.3
    changed = attention(features, scene)
    torch.testing.assert_close(changed, expected.float(), atol=1e-4, rtol=1e-4)
    assert torch.equal(changed == features, (counts == 0)[:, :, None].expand_as(features))


# What it does not depend on


def scaled(scene, factor):
    return replace(scene, camera=scene.camera.scaled(factor), depth=scene.depth * factor, radius=scene.radius * factor)


def test_attention_is_invariant_to_unit_of_length(parts):
    attention, features, scene = parts
    changed = attention(features, scene)
    torch.testing.assert_close(attention(features, scaled(scene, 3.7)), changed, atol=1e-4, rtol=1e-4)
    for half in (
        replace(scaled(scene, 3.7), radius=scene.radius),
        replace(scaled(scene, 3.7), camera=scene.camera),
        replace(scaled(scene, 3.7), depth=scene.depth),
    ):
        assert not torch.allclose(attention(features, half), changed, atol=0.1)
    assert DecoderScene.of(scaled(scene, 3.7).camera, scene.depth * 3.7).radius == pytest.approx(3.7 * scene.radius)


def test_attention_is_invariant_to_world_frame(generator, parts):
    attention, features, scene = parts
    move = torch.eye(4)
    move[:3, :3] = random_turn(generator, (), 1.0)
    move[:3, 3] = torch.tensor([1.3, -2.1, 0.7])
    elsewhere = replace(scene, camera=replace(scene.camera, c2w=move @ scene.camera.c2w))
    changed = attention(features, scene)
    torch.testing.assert_close(attention(features, elsewhere), changed, atol=1e-4, rtol=1e-4)
    one = replace(scene, camera=moved(scene.camera, 1, move @ scene.camera.c2w[1]))
    assert not torch.allclose(attention(features, one), changed, atol=0.1)


def test_attention_is_equivariant_to_view_order(parts):
    attention, features, scene = parts
    swapped = DecoderScene(scene.camera[[1, 0]], scene.depth.flip(0), scene.pixels.flip(0), scene.radius)
    changed = attention(features, scene)
    torch.testing.assert_close(attention(features.flip(0), swapped), changed.flip(0), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(attention(features, swapped), changed, atol=0.1)


# Nothing to see


BEYOND = torch.eye(4)
BEYOND[2, 3] = 50


@pytest.mark.parametrize("away", [turned(180), turned(90), BEYOND], ids=["turned round", "turned aside", "beyond"])
def test_unseen_cells_stay_unchanged(generator, away):
    attention, scene = some_attention(generator), some_scene(generator)
    features = some_features(generator).requires_grad_()
    scene = replace(scene, camera=moved(moved(scene.camera, 0, torch.eye(4)), 1, away))
    changed = attention(features, scene, views=(0,))
    assert torch.equal(changed, features)
    changed.square().sum().backward()
    assert torch.equal(features.grad, 2 * features.detach())
    for name, parameter in attention.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.eq(0).all(), name


def test_gradients_of_partly_seen_cells_are_finite(generator):
    attention, scene = some_attention(generator, sources=2), some_scene(generator, 3)
    features = some_features(generator, 3).requires_grad_()
    changed = attention(features, scene)
    untouched = (changed == features).all(2)
    assert 0.02 < untouched.float().mean() < 0.9
    changed.square().sum().backward()
    assert features.grad.isfinite().all()
    for name, parameter in attention.named_parameters():
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name


# Who is asked


def test_nearest_views_follow_mean_distance():
    c2w = torch.eye(4).repeat(5, 2, 1, 1)
    c2w[:, :, 0, 3] = torch.tensor([[0.0, 0], [3, 1], [1, 2], [-2, 2], [0, 2.5]])
    camera = Camera(c2w, intrinsics_from_fov(60.0, (h, w)).repeat(5, 2, 1, 1), (h, w))
    assert nearest_views(camera, 0) == (4, 2, 1, 3)  # 1.25, 1.5, 2 and 2
    assert nearest_views(camera, 3) == (4, 2, 0, 1)  # 1.25, 1.5, 2 and 3


def test_asking_views_alone_change(generator, parts):
    attention, features, scene = parts
    kept = features.clone()
    changed, both = attention(features, scene, views=(1,)), attention(features, scene)
    assert torch.equal(changed[0], features[0])
    assert torch.equal(changed[1], both[1])
    assert not torch.allclose(both[0], features[0], atol=0.1)
    assert not torch.allclose(changed[1], features[1], atol=0.1)
    assert torch.equal(features, kept), "the input stays as it was"
    assert torch.equal(attention(features, scene, views=()), features)
    alone = some_scene(generator, 1)  # no one to ask
    assert torch.equal(attention(features[:1], alone), features[:1])


# Moments


def test_attention_keeps_moments_apart(generator, parts):
    attention, features, scene = parts
    other = features.clone()
    other[1, 3] = some_features(generator, 1, 1)[0, 0]
    same = torch.isclose(attention(other, scene), attention(features, scene), atol=1e-5).flatten(2).all(-1)
    assert same.tolist() == [[True, True, True, False, True]] * 2


@pytest.mark.parametrize(("at_once", "calls"), [(1, 5), (2, 3), (3, 2), (5, 1)])
def test_chunks_of_moments_change_nothing(generator, monkeypatch, at_once, calls):
    attention, scene = some_attention(generator), some_scene(generator)
    features = some_features(generator)

    def run():
        attention.zero_grad()
        leaf = features.clone().requires_grad_()
        changed = attention(leaf, scene)
        changed.square().sum().backward()
        return changed.detach(), leaf.grad, *(p.grad.clone() for p in attention.parameters())

    whole, seen, update = run(), [], attention._update
    monkeypatch.setattr("mvtrack.models.decoder.epipolar_attention._BYTES_AT_ONCE", at_once * 12 * P * D * h * w)
    monkeypatch.setattr(attention, "_update", lambda *given: (seen.append(len(given[0])), update(*given))[1])
    for part, expected in zip(run(), whole, strict=True):
        torch.testing.assert_close(part, expected, atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(attention(features, scene), whole[0], atol=1e-5, rtol=1e-5)
    assert len(seen) == 2 * 2 * calls
    assert max(seen) == at_once
    monkeypatch.setattr("mvtrack.models.decoder.epipolar_attention._BYTES_AT_ONCE", 1)
    torch.testing.assert_close(attention(features, scene), whole[0], atol=1e-5, rtol=1e-5)


# Gradients


def test_gradients_reach_other_view_at_same_moment(generator):
    attention, scene = some_attention(generator), some_scene(generator)
    features = some_features(generator).requires_grad_()
    attention(features, scene, views=(0,))[0, 3].square().sum().backward()
    reached = features.grad.abs().flatten(2).amax(-1) > 0
    assert reached.tolist() == [[False, False, False, True, False]] * 2
    assert features.grad.isfinite().all()


def test_attention_passes_gradcheck(generator):
    size = (3, 5)
    attention = some_attention(generator, sources=2, channels=2, dim=3).double()
    scene = some_scene(generator, 2, 1, size)
    features = torch.randn(2, 1, 2, *size, generator=generator, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda f: attention(f, scene), (features,), atol=1e-6)
