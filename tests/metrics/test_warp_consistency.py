import math
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

from mvtrack.data.synthetic.camera_rig import amount_of, base_pose
from mvtrack.data.synthetic.detailed_scenes import detailed_scene
from mvtrack.data.synthetic.renderer import FIRST_OBJECT, Render, render
from mvtrack.data.synthetic.scene import Scene, SceneStyle
from mvtrack.geometry.camera import Camera, intrinsics_from_fov
from mvtrack.geometry.splat import splat, splat_points
from mvtrack.geometry.trajectory import CameraPath
from mvtrack.geometry.warp import reproject, sample_bilinear
from mvtrack.metrics.warp_consistency import (
    PairGeometry,
    at_depth_edge,
    carried_mask,
    colours,
    compare_pair,
    frame_pairs,
)
from mvtrack.video.writer import from_bytes

SIZE = (72, 96)
SCENES = [(seed, preset) for seed, preset in enumerate(["arc_left", "translate_up", "zoom_in", "arc_right"] * 2)]
DEPTH_ERRORS = (0.03, 0.08, 0.15)  # beyond that, surfaces far from the pivot are farther off than in the copy


@cache
def scene_and_cameras(seed: int, preset: str) -> tuple[Scene, Camera, Render]:
    """One moment of a scene from two cameras (2, 1): the reference, and 15 degrees along a preset."""
    rng = np.random.default_rng([77, seed])
    scene = detailed_scene(rng, 1, SceneStyle(min_objects=3, max_objects=6))
    K = intrinsics_from_fov(50.0, SIZE)
    first, pivot_m = base_pose(rng, float(K[0, 0]) / SIZE[1])
    path = CameraPath(preset, amount_of(preset, 15.0, pivot_m), pivot_m=pivot_m)
    c2w = torch.stack([first, first @ path.poses(2)[-1]])[:, None].float()
    camera = Camera(c2w, K.expand(2, 1, 3, 3), SIZE, True)
    return scene, camera, render(scene, camera)


def score(generated: torch.Tensor, camera: Camera, truth: Render, mask: torch.Tensor | None = None) -> float:
    geometry = PairGeometry.from_depth(truth.depth[0, 0], truth.depth[1, 0], camera[0, 0], camera[1, 0])
    reference = colours(from_bytes(truth.video[0]))[0]
    return compare_pair(reference, colours(generated[None])[0], geometry).score(mask)


def warped(camera: Camera, truth: Render, depth_error: float) -> torch.Tensor:
    xy, _ = reproject(truth.depth[1] * (1 + depth_error), camera[1], camera[0])
    return sample_bilinear(from_bytes(truth.video[0]), xy)[0]


@pytest.mark.parametrize(("seed", "preset"), SCENES)
def test_known_qualities_are_ordered_right(seed, preset):
    _, camera, truth = scene_and_cameras(seed, preset)
    videos = [from_bytes(truth.video[1])[0]]
    videos += [warped(camera, truth, error) for error in DEPTH_ERRORS]
    videos.append(from_bytes(truth.video[0])[0])
    scores = [score(video, camera, truth) for video in videos]
    assert scores == sorted(scores)
    assert scores[0] < 0.5 * scores[-1]


@pytest.mark.parametrize("seed", range(8))
def test_the_dynamic_score_reacts_to_a_displaced_object(seed):
    """One object stands a third of a metre beside its place: a change of a small part of the picture."""
    scene, camera, truth = scene_and_cameras(seed, SCENES[seed][1])
    sizes = [int((truth.ids[0, 0] == FIRST_OBJECT + o).sum()) for o in range(len(scene.kind))]
    chosen = max(range(len(sizes)), key=sizes.__getitem__)
    position = scene.position.clone()
    position[:, chosen, 0] += 0.33
    displaced = render(replace(scene, position=position), camera)
    mask = truth.ids[0, 0] == FIRST_OBJECT + chosen
    assert 0.02 < float(mask.float().mean()) < 0.35  # its share of the picture
    whole, dynamic = [], []
    for video in (truth, displaced):
        generated = from_bytes(video.video[1])[0]
        whole.append(score(generated, camera, truth))
        dynamic.append(score(generated, camera, truth, mask))
    assert dynamic[1] - dynamic[0] >= 2 * (whole[1] - whole[0]) > 0


def wall(depth_m: float = 2.0, step_px: int = 3) -> tuple[Camera, torch.Tensor]:
    """Two cameras before a wall, the second a few pixels to the right; and the wall's depth (h, w)."""
    height, width = 11, 17
    K = intrinsics_from_fov(60.0, (height, width))
    c2w = torch.eye(4).repeat(2, 1, 1)
    c2w[1, 0, 3] = step_px * depth_m / float(K[0, 0])
    return Camera(c2w, K.expand(2, 3, 3), (height, width)), torch.full((height, width), depth_m)


def test_a_wall_is_compared_pixel_by_pixel(generator):
    camera, depth = wall()
    first = torch.rand(5, 11, 17, generator=generator)
    second = torch.zeros_like(first)
    second[..., :-3] = first[..., 3:]
    geometry = PairGeometry.from_depth(depth, depth, camera[0], camera[1])
    same = compare_pair(first, second, geometry)
    assert same.seen[:, 3:].all()
    assert not same.seen[:, :3].any()
    assert same.score() < 1e-5
    brighter = compare_pair(first, second + 0.25, geometry)
    assert brighter.score() == pytest.approx(0.25, abs=1e-5)
    assert compare_pair(first, 3 * second, geometry, "cosine").score() < 1e-5
    opposite = compare_pair(first, -second, geometry, "cosine")
    assert opposite.score() == pytest.approx(2.0, abs=1e-5)
    mask = torch.zeros(11, 17, dtype=torch.bool)
    assert math.isnan(same.score(mask))
    mask[:, :3] = True  # nothing of it is seen
    assert math.isnan(same.score(mask))


def test_what_stands_behind_is_left_out_unless_asked_for(generator):
    """The second camera sees a wall that a board hides in the first."""
    camera, depth = wall()
    before = depth.clone()
    before[:, 6:11] = 1.0
    first, second = torch.rand(2, 3, 11, 17, generator=generator)
    geometry = PairGeometry.from_depth(before, depth, camera[0], camera[1])
    strict = compare_pair(first, second, geometry)
    assert not strict.seen[:, 7:10].any()
    assert strict.seen[:, 12:14].all()
    assert compare_pair(first, second, geometry, hidden=None).seen[:, 7:10].all()


def test_unknown_depth_is_left_out():
    camera, depth = wall()
    unknown = depth.clone()
    unknown[2], unknown[3], unknown[4] = torch.nan, 0.0, torch.inf
    geometry = PairGeometry.from_depth(unknown, depth, camera[0], camera[1])
    image = torch.zeros(3, 11, 17)
    assert not compare_pair(image, image, geometry).seen[2:5].any()
    turned = PairGeometry.from_depth(depth, unknown, camera[0], camera[1])
    assert not compare_pair(image, image, turned).seen[3].any()


def test_a_mask_is_carried_into_the_first_picture():
    camera, depth = wall()
    mask = torch.zeros(11, 17, dtype=torch.bool)
    mask[4:7, 5:9] = True
    carried = carried_mask(mask, PairGeometry.from_depth(depth, depth, camera[0], camera[1]))
    expected = torch.zeros(11, 17, dtype=torch.bool)
    expected[4:7, 8:12] = True
    assert torch.equal(carried, expected)


def test_depth_edges():
    depth = torch.full((7, 11), 2.0)
    depth[:, 5:] = 3.0
    edge = at_depth_edge(depth)
    assert edge[:, 4:6].all()
    assert not edge[:, :4].any()
    assert not edge[:, 6:].any()
    slanted = 2 + 0.01 * torch.arange(11.0).expand(7, 11)
    assert not at_depth_edge(slanted).any()


def test_splatting_of_points_and_of_a_picture_agree(generator):
    """In float64: single precision moves points by 1e-5 pixels, which noise of one pixel's size turns into 1e-3."""
    _, camera, truth = scene_and_cameras(0, "arc_left")
    camera, depth = Camera(camera.c2w.double(), camera.K.double(), camera.size), truth.depth.double()
    image = torch.rand(3, *SIZE, generator=generator, dtype=torch.float64)
    geometry = PairGeometry.from_depth(depth[1, 0], depth[0, 0], camera[1, 0], camera[0, 0])
    warped_image, hit = splat(image, depth[0, 0], camera[0, 0], camera[1, 0])
    points, z = splat_points(image.flatten(1), geometry.second.flatten(0, 1), geometry.camera)
    torch.testing.assert_close(points, warped_image, atol=1e-9, rtol=0)
    assert torch.equal(z.isfinite(), hit)


def test_pairs_of_frames(unchecked):
    assert frame_pairs(3, "same_time") == [(0, 0), (1, 1), (2, 2)]
    assert frame_pairs(3, "consecutive") == [(0, 1), (1, 2)]
    with pytest.raises(ValueError, match="unknown pairing 'all'"):
        frame_pairs(3, "all")


def test_bad_input(unchecked):
    camera, depth = wall()
    geometry = PairGeometry.from_depth(depth, depth, camera[0], camera[1])
    image = torch.zeros(3, 11, 17)
    with pytest.raises(ValueError, match="do not fit geometry"):
        compare_pair(image, torch.zeros(3, 11, 13), geometry)
    with pytest.raises(ValueError, match="unknown distance 'l2'"):
        compare_pair(image, image, geometry, "l2")
    with pytest.raises(ValueError, match="its camera is for pictures of"):
        PairGeometry.from_depth(depth[:5], depth, camera[0], camera[1])
