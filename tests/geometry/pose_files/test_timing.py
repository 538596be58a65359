"""Which frame each pose belongs to: times, names, gaps, lenses and units of files that are used with a video."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from mvtrack.geometry.keyframe_path import PosePath
from mvtrack.geometry.pose_files import Distortion, write_cameras
from mvtrack.geometry.pose_files.conventions import alternatives, reinterpret
from mvtrack.geometry.pose_files.diagnosis import judge_fits
from mvtrack.geometry.pose_files.reprojection_check import ImageMatches, convention_fits, frame_pairs
from mvtrack.geometry.pose_files.timing import (
    FrameGrid,
    key_times,
    read_path,
    read_video_cameras,
    stretch_note,
    unit_note,
)

N, SIZE, FPS = 60, (180, 320), 30.0


def transforms(path, frames, size=SIZE, **lens):
    """transforms.json of some frames of a pan to the right by 20 degrees that moves by 0.5, named from 1."""
    entries = []
    for frame in frames:
        u = frame / (N - 1)
        c, s = np.cos(np.radians(20 * u)), np.sin(np.radians(20 * u))
        pose = [[c, 0, -s, 0.5 * u], [0, -1, 0, 0], [-s, 0, -c, 0], [0, 0, 0, 1]]
        entries.append({"file_path": f"images/frame_{frame + 1:05d}.png", "transform_matrix": pose})
    lens = {"fl_x": 300 * size[1] / SIZE[1], "cx": size[1] / 2, "cy": size[0] / 2} | lens
    path.write_text(json.dumps({"w": size[1], "h": size[0], **lens, "frames": entries}))
    return path


def test_missing_frames_are_filled_by_name_with_a_note(tmp_path):
    path = transforms(tmp_path / "missing.json", [*range(20), *range(40, N)])
    camera, notes = read_video_cameras(path, FrameGrid(N, SIZE, FPS))
    whole, none = read_video_cameras(transforms(tmp_path / "whole.json", range(N)), FrameGrid(N, SIZE, FPS))
    torch.testing.assert_close(camera.c2w, whole.c2w, atol=1e-9, rtol=0)  # the motion is even
    assert none == ()
    assert notes == (f"{path} holds 40 cameras for 60 frames: 20 are interpolated, by its names",)


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        ([*range(10), *range(45, N)], "none for frames 10 to 44: gaps of up to 30 frames are interpolated"),
        (range(40), "neither times nor names tell which camera belongs to which frame"),
        ([*range(5, 20), *range(30, N - 5)], "neither times nor names tell"),  # counted from 0 or from 1?
        (range(N + 2), "holds 62 cameras, but the video has 60 frames"),
    ],
)
def test_frames_that_names_do_not_tell_are_refused(tmp_path, frames, message):
    path = transforms(tmp_path / "missing.json", frames)
    with pytest.raises(ValueError, match=message):
        read_video_cameras(path, FrameGrid(N, SIZE, FPS))


def test_cameras_of_uneven_frames_go_with_the_frames(tmp_path):
    """A pose for each of the file's own 40 frames, which come at uneven times: 60 ticks show them."""
    path = tmp_path / "vfr40.txt"
    path.write_text("".join(f"{code} {0.1 * code} 0 0 0 0 0 1\n" for code in range(40)))
    frame_of = tuple(min(tick, 19) if tick < 40 else tick - 20 for tick in range(N))
    camera, notes = read_video_cameras(path, FrameGrid(N, SIZE, FPS, frame_of, 40), fov=60)
    assert camera.c2w[:, 0, 3].tolist() == pytest.approx([0.1 * code for code in frame_of])
    assert "40 frames that come at uneven times" in notes[0]


def uneven_trajectory(path, start: float = 1305031100.0):
    """x = max(0, t - 1.5) from 0 to 2 s, with keys where it moves and one at the start, as SLAM keeps key frames."""
    times = [0.0, 1.5, 1.6, 1.7, 1.8, 1.9, 2.0]
    path.write_text("".join(f"{start + t:.6f} {max(0, t - 1.5):.6f} 0 0 0 0 0 1\n" for t in times))
    return path


def test_key_frames_of_a_path_are_passed_at_their_times(tmp_path):
    path = uneven_trajectory(tmp_path / "KeyFrameTrajectory.txt")
    sequence = read_path(path)
    keys = key_times(sequence, path, FrameGrid(201, SIZE, FPS))
    motion = PosePath(sequence.camera.c2w, torch.ones(7), key_times=keys)
    x = motion.poses(201)[:, 0, 3]
    assert x[50].item() == pytest.approx(0, abs=1e-9)  # 0.5 s of 2 s
    assert x[175].item() == pytest.approx(0.25, abs=0.002)
    assert x.min() > -1e-9
    assert motion.notes(201) == ["7 poses at their own, uneven times over 201 frames by a spline"]


@pytest.mark.parametrize("frames", [N, N + 1, N + 2])
def test_a_path_as_long_as_the_video_keeps_its_times(tmp_path, frames):
    """2 s of key frames beside a video of 1.967 to 2.033 s: not stretched, at rest after the last."""
    path = uneven_trajectory(tmp_path / "KeyFrameTrajectory.txt")
    sequence, grid = read_path(path), FrameGrid(frames, SIZE, FPS)
    motion = PosePath(sequence.camera.c2w, torch.linspace(1, 2, 7), key_times=key_times(sequence, path, grid))
    x = motion.poses(frames)[:, 0, 3]
    assert x[15].item() == pytest.approx(0, abs=1e-9)  # 0.5 s
    assert x[51].item() == pytest.approx(0.2, abs=1e-6)  # 1.7 s
    assert motion.lens(frames)[51].item() == pytest.approx(1.5)
    assert stretch_note(sequence, grid) is None
    assert stretch_note(sequence, FrameGrid(211, SIZE, FPS)) == "its 2 s are stretched over the video's 7 s"


@pytest.mark.parametrize("start", [0.0, 1305031100.0])
def test_key_frames_of_a_source_stand_at_their_times(tmp_path, start):
    path = uneven_trajectory(tmp_path / "KeyFrameTrajectory.txt", start)
    with pytest.raises(ValueError, match="none for frames 1 to 44: gaps of up to 30 frames"):
        read_video_cameras(path, FrameGrid(N + 1, SIZE, FPS), fov=60)
    path.write_text("".join(f"{start + 0.25 * i:.6f} {0.25 * i} 0 0 0 0 0 1\n" for i in range(9)))
    camera, notes = read_video_cameras(path, FrameGrid(N + 1, SIZE, FPS), fov=60)
    torch.testing.assert_close(camera.c2w[:, 0, 3], torch.arange(N + 1).double() / FPS, atol=1e-6, rtol=0)
    assert "by its times" in notes[0]


def test_a_path_of_missing_frames_is_timed_by_name(tmp_path):
    path = transforms(tmp_path / "missing.json", [*range(20), *range(40, N)])
    sequence = read_path(path)
    motion = PosePath(sequence.camera.c2w, torch.ones(40), key_times=key_times(sequence, path, FrameGrid(N, SIZE, FPS)))
    torch.testing.assert_close(motion.poses(N), sequence_of_all(tmp_path), atol=1e-9, rtol=0)


def sequence_of_all(tmp_path):
    return read_path(transforms(tmp_path / "whole.json", range(N))).camera.c2w


def test_times_that_go_back_are_refused_for_a_path(tmp_path):
    path = tmp_path / "traj.txt"
    path.write_text("".join(f"{t} 0 0 0 0 0 0 1\n" for t in (0, 2, 1, 3)))
    with pytest.raises(ValueError, match="traj.txt: its times do not ascend: pose 2 is at 1 s"):
        key_times(read_path(path), path, FrameGrid(N, SIZE, FPS))


def test_a_distorted_lens_is_refused_with_its_pixels_or_dropped_with_a_note(tmp_path):
    path = transforms(tmp_path / "dl3dv.json", range(N), (2160, 3840), k1=-0.26, k2=0.07, p1=0, p2=0)
    with pytest.raises(ValueError, match=r"moves pixels by up to \d+\.\d px at 320x180: undistort the video first"):
        read_video_cameras(path, FrameGrid(N, SIZE, FPS))
    camera, notes = read_video_cameras(path, FrameGrid(N, SIZE, FPS), drop_distortion=True)
    assert "px at 3840x2160, is left out" in notes[0]
    assert camera.K[0].tolist() == [[300, 0, 160], [0, 300, 90], [0, 0, 1]]
    weak = transforms(tmp_path / "weak.json", range(N), k1=-0.0005)
    assert "it is taken as a pinhole" in read_video_cameras(weak, FrameGrid(N, SIZE, FPS))[1][0]


def test_another_aspect_is_refused(tmp_path):
    path = transforms(tmp_path / "portrait.json", range(N), (1920, 1080))
    with pytest.raises(ValueError, match="for pictures of 1080x1920, the video is 320x180: the aspects differ"):
        read_video_cameras(path, FrameGrid(N, SIZE, FPS))


def test_an_unknown_unit_is_said_and_a_distance_proposed(sequence):
    unknown = replace(sequence, camera=replace(sequence.camera, scale_known=False))
    assert unit_note(sequence, 4.0) is None
    assert unit_note(unknown, 4.0) == "unit unknown: 1 is taken as a quarter of the subject's distance"
    assert unit_note(unknown, 3.0) == "unit unknown: 1 is taken as 1/3 of the subject's distance"
    still = replace(unknown, camera=replace(unknown.camera, c2w=unknown.camera.c2w[:1].expand(5, 4, 4)))
    assert unit_note(still, 4.0) is None
    ahead = sequence.camera.c2w[0, :3, 3] + torch.tensor([[2.0], [2.5], [7.0]]) * sequence.camera.c2w[0, :3, 2]
    assert "lie 2.5 before the first camera" in unit_note(replace(unknown, points=ahead), 4.0)


def test_points_of_a_colmap_model_come_back(tmp_path, sequence, points):
    for form in ("colmap_text", "colmap_binary"):
        folder = write_cameras(tmp_path / form, replace(sequence, points=points), form)
        back = read_path(folder)
        assert back.points.shape == points.shape
        order = [sorted(map(tuple, p.tolist())) for p in (back.points, points)]
        np.testing.assert_allclose(order[0], order[1], atol=1e-9)


@pytest.mark.parametrize("order", ["xyzw", "wxyz"])
def test_followed_points_tell_the_order_of_quaternions(sequence, generator, order):
    """A trajectory whose quaternions were read in the other order; points followed in the video know better."""
    from mvtrack.geometry.camera import project

    spread = (torch.rand(60, 3, generator=generator, dtype=torch.float64) - 0.5) * 6
    world = spread + sequence.camera.c2w[2, :3, 3] + 6 * sequence.camera.c2w[2, :3, 2]
    seen = project(world, sequence.camera)[0]
    matches = [ImageMatches(a, b, seen[a], seen[b]) for a, b in frame_pairs(sequence.camera)]
    right = replace(sequence, file_quaternion=order)
    other = "wxyz" if order == "xyzw" else "xyzw"
    wrong = reinterpret(right, f"opencv c2w {other}")
    assert len(alternatives(wrong)) == 20
    torch.testing.assert_close(reinterpret(wrong, f"opencv c2w {order}").camera.c2w, sequence.camera.c2w)
    verdict = judge_fits(convention_fits(wrong, matches, (46, 62)), 5.0)
    assert (verdict.level, f"opencv c2w {order}" in verdict.text) == ("fail", True), verdict


def test_distortion_of_filled_frames_is_that_of_the_nearest():
    coefficients = torch.arange(15, dtype=torch.float64).view(3, 5)
    keys, times = torch.tensor([0.0, 3.0, 8.0]).double(), torch.tensor([0.0, 1.0, 2.0, 7.0]).double()
    assert torch.equal(Distortion(coefficients).at(keys, times).coefficients, coefficients[[0, 0, 1, 2]])
