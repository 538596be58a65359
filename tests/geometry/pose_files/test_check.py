"""What `mvtrack cameras check` finds: by the cameras alone, and with their video."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from mvtrack.geometry.camera import Camera, project
from mvtrack.geometry.pose_files import CameraSequence, Distortion
from mvtrack.geometry.pose_files.conventions import Convention, alternatives, reinterpret
from mvtrack.geometry.pose_files.diagnosis import FAIL, OK, WARN, compare_with_video, diagnose, judge_fits, match_frames
from mvtrack.geometry.pose_files.distortion import distort_pixels
from mvtrack.geometry.pose_files.reprojection_check import (
    ImageMatches,
    ReprojectionFit,
    convention_fits,
    frame_pairs,
    ray_distance,
)
from mvtrack.geometry.pose_files.timing import FrameGrid

NAMES = ("opencv c2w", "opengl c2w", "opencv w2c", "opengl w2c", "pytorch3d c2w", "llff c2w", "unreal c2w")


def found(findings, topic):
    return next(finding for finding in findings if finding.topic == topic)


def with_camera(sequence, **fields):
    return replace(sequence, camera=replace(sequence.camera, **fields))


def test_good_cameras_pass(sequence):
    findings = diagnose(sequence, size=(92, 124))
    assert {finding.level for finding in findings} == {OK}
    assert {finding.topic for finding in findings} >= {"rotations", "lens", "size", "times", "scale"}


def test_counts_aspects_and_times_that_cannot_be_right(sequence):
    same, frames = match_frames(sequence, "a.json", FrameGrid(7, (46, 62), 8.0))
    assert (same, frames.level, "5 cameras, but the video has 7 frames" in frames.text) == (sequence, FAIL, True)
    assert "height and width are swapped" in found(diagnose(sequence, size=(62, 46)), "size").text
    late = replace(sequence, timestamps_s=torch.tensor([0, 1, 2, 1.5, 3]).double())
    assert found(diagnose(late), "times").level == FAIL
    assert "frame 3 is at 1.5 s, frame 2 at 2 s" in found(diagnose(late), "times").text


def test_implausible_lenses_and_scales_are_warned_about(sequence):
    K = sequence.camera.K.clone()
    K[:, :2] *= 20
    assert found(diagnose(with_camera(sequence, K=K)), "lens").level == WARN
    K = sequence.camera.K.clone()
    K[:, 0, 2] = 70
    assert "principal point" in found(diagnose(with_camera(sequence, K=K)), "lens").text
    metres = replace(sequence, timestamps_s=None)
    for factor, text in ((1e3, "rather a smaller one"), (1e-6, "a larger one")):
        scale = found(diagnose(replace(metres, camera=metres.camera.scaled(factor))), "scale")
        assert (scale.level, text in scale.text) == (WARN, True)
    assert "m/s" in found(diagnose(replace(sequence, camera=sequence.camera.scaled(90.0))), "scale").text
    assert "unit unknown" in found(diagnose(with_camera(sequence, scale_known=False)), "scale").text


def circling(rotation_about, num_frames=9) -> CameraSequence:
    """Cameras on an arc about a point 4 m ahead, looking at it."""
    c2w = torch.eye(4, dtype=torch.float64).repeat(num_frames, 1, 1)
    for t in range(num_frames):
        c2w[t, :3, :3] = rotation_about(1, -5.0 * t)
        c2w[t, :3, 3] = torch.tensor([0, 0, 4.0]).double() - 4 * c2w[t, :3, 2]
        c2w[t, 1, 3] = 0.02 * t
    K = torch.tensor([[53.0, 0, 31], [0, 53, 23], [0, 0, 1]], dtype=torch.float64).repeat(num_frames, 1, 1)
    return CameraSequence(Camera(c2w, K, (46, 62), True), tuple(f"{t}" for t in range(num_frames)))


def test_jumps_are_located(rotation_about):
    sequence = circling(rotation_about)
    swapped = sequence.frames([0, 1, 2, 3, 8, 4, 5, 6, 7])
    assert found(diagnose(sequence), "smoothness").level == OK
    assert found(diagnose(swapped.frames([0, 0, 0, 0, 0, 8, 8, 8])), "smoothness").level == WARN
    c2w = sequence.camera.c2w.clone()
    c2w[4:, :3, :3] = c2w[4:, :3, :3] @ rotation_about(2, 60)
    jump = found(diagnose(with_camera(sequence, c2w=c2w)), "smoothness")
    assert (jump.level, "frames 3 and 4" in jump.text) == (WARN, True)


def test_cameras_that_look_away_from_what_they_circle(rotation_about):
    sequence = circling(rotation_about)
    assert found(diagnose(sequence), "axes").level == OK
    flipped = replace(reinterpret(sequence, "opengl c2w"), file_axes="opencv")
    away = found(diagnose(flipped), "axes")
    assert (away.level, "opengl axes would make them look" in away.text) == (WARN, True)


@pytest.mark.parametrize(
    ("errors", "motion", "level"),
    [
        ((0.3, 0.4), 1.8, OK), ((1.5, 1.4), 1.8, WARN), ((2.0, 1.9), 12.0, OK), ((4.0, 0.5), 12.0, FAIL),
        ((0.2, 0.1), 0.4, WARN), ((float("inf"), 9.0), 12.0, FAIL), ((float("inf"),) * 2, 12.0, WARN),
    ],
)  # fmt: skip
def test_verdicts_need_a_clear_difference(errors, motion, level):
    fits = [
        ReprojectionFit(Convention("opencv", "c2w"), errors[0]),
        ReprojectionFit(Convention("opengl", "c2w"), errors[1]),
    ]
    assert judge_fits(fits, motion).level == level


def test_every_alternative_leads_back(sequence):
    pairs = alternatives(sequence)
    assert pairs[0] == Convention("opencv", "c2w")
    assert len(set(pairs)) == len(pairs) == 10
    for convention in pairs:
        other = reinterpret(sequence, str(convention))
        back = reinterpret(other, "opencv c2w").camera.c2w
        torch.testing.assert_close(back, sequence.camera.c2w, atol=1e-9, rtol=0)
    with pytest.raises(ValueError, match="'maya c2w' is no convention.*known: opencv c2w"):
        reinterpret(sequence, "maya c2w")


def test_a_point_is_anywhere_on_its_ray_in_front_of_the_camera(sequence, points):
    first, second = sequence.camera[1], sequence.camera[4]
    xy = [project(points, camera)[0] for camera in (first, second)]
    assert ray_distance(*xy, first, second).max() < 1e-9
    assert ray_distance(xy[0], xy[1] + torch.tensor([0.0, 2.0]), first, second).min() > 0.5
    behind = first.c2w[:3, 3] * 2 - points  # the same lines, seen backwards
    seen = project(behind, second)[0]
    assert ray_distance(xy[0], seen, first, second).min() > 1


def test_a_camera_that_only_turns_leaves_one_place(sequence, points):
    first, second = sequence.camera[1], sequence.camera[4]
    still = second.c2w.clone()
    still[:3, 3] = first.c2w[:3, 3]
    second = replace(second, c2w=still)
    xy = [project(points, camera)[0] for camera in (first, second)]
    assert ray_distance(*xy, first, second).max() < 1e-9
    torch.testing.assert_close(
        ray_distance(xy[0], xy[1] + torch.tensor([3.0, 4.0]), first, second), torch.full((11,), 5.0).double()
    )


@pytest.mark.parametrize(("truth", "lens"), [*((name, False) for name in NAMES), ("opengl w2c", True)])
def test_the_convention_that_fits_the_video_is_named(sequence, generator, truth, lens):
    """A file whose numbers are `truth` is read as OpenCV camera-to-world; followed points know better."""
    axes, direction = truth.split()
    spread = (torch.rand(60, 3, generator=generator, dtype=torch.float64) - 0.5) * 6
    world = spread + sequence.camera.c2w[2, :3, 3] + 6 * sequence.camera.c2w[2, :3, 2]
    coefficients = Distortion(torch.tensor([-0.1, 0.02, 0.001, 0, 0], dtype=torch.float64))
    seen = project(world, sequence.camera)[0]
    seen = distort_pixels(seen, sequence.camera.K, coefficients) if lens else seen
    noisy = seen + torch.randn(seen.shape, generator=generator, dtype=torch.float64) * 0.05
    matches = [ImageMatches(a, b, noisy[a], noisy[b]) for a, b in frame_pairs(sequence.camera)]
    wrong = reinterpret(replace(sequence, file_axes=axes, file_direction=direction), "opencv c2w")
    wrong = replace(wrong, distortion=coefficients if lens else None)
    verdict = judge_fits(convention_fits(wrong, matches, (46, 62)), 5.0)
    if truth == "opencv c2w":
        assert verdict.level == OK, verdict
    else:
        assert verdict.level == FAIL, verdict
        assert truth in verdict.text


@pytest.fixture(scope="module")
def footage():
    """A rendered still scene and its cameras."""
    from mvtrack.data.synthetic.renderer import render
    from mvtrack.data.synthetic.scene import SceneStyle, sample_scene
    from mvtrack.geometry.trajectory import CameraPath

    frames, size = 9, (92, 124)
    c2w = CameraPath("arc_left", 24).poses(frames)
    c2w[:, 1, 3] -= torch.linspace(0, 0.4, frames)
    K = torch.tensor([[110.0, 0, 62], [0, 110, 46], [0, 0, 1]], dtype=torch.float64).repeat(frames, 1, 1)
    camera = Camera(c2w, K, size, True)
    scene = sample_scene(np.random.default_rng(1), frames, SceneStyle(static=True))
    single = Camera(c2w[None].float(), K[None].float(), size, True)
    video = render(scene, single, 1).video[0].permute(0, 2, 3, 1).numpy()
    return CameraSequence(camera, tuple(map(str, range(frames)))), video


def test_a_rendered_video_tells_the_convention(footage):
    sequence, video = footage

    def compare(cameras):
        return compare_with_video(cameras, (92, 124), lambda index, size: video[index])

    assert compare(sequence).level == OK
    wrong = replace(reinterpret(sequence, "opengl c2w"), file_axes="opencv")
    verdict = compare(wrong)
    assert verdict.level == FAIL
    assert "opengl c2w" in verdict.text
    blank = compare_with_video(sequence, (92, 124), lambda index, size: np.zeros((92, 124, 3), np.uint8))
    assert "too few points" in blank.text
    still = compare_with_video(sequence, (92, 124), lambda index, size: video[0])
    assert (still.level, "nothing can be said" in still.text) == (WARN, True)
