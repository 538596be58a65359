import json
from pathlib import Path

import pytest
import torch

from mvtrack.config.command_line import parse
from mvtrack.geometry.camera import Camera, intrinsics_from_fov
from mvtrack.geometry.keyframes import PathKeys
from mvtrack.geometry.path_language import parse_path
from mvtrack.geometry.pose_files import CameraSequence, read_cameras, write_cameras
from mvtrack.inference.pipeline import path_notes
from mvtrack.inference.sampler import SamplerOptions
from mvtrack.inference.shot_options import ShotOptions, read_shot

T, SIZE = 7, (90, 160)


def shot(video: Path, *arguments):
    return read_shot(parse(ShotOptions, [str(a) for a in arguments], "test"), video, SamplerOptions(1))


def pose_file(path: Path, text: str, frames: int = T, world: torch.Tensor | None = None, fov: float = 50.0) -> Path:
    motion = parse_path(text)
    K = intrinsics_from_fov(fov, SIZE).double().repeat(frames, 1, 1)
    K[:, :2, :2] *= motion.lens(frames)[:, None, None]
    world = torch.eye(4).double() if world is None else world
    camera = Camera(world @ motion.poses(frames), K, SIZE)
    return write_cameras(path, CameraSequence(camera, tuple(map(str, range(frames)))), "json")


def test_a_pose_file_counts_from_its_first_pose(video, tmp_path):
    world = parse_path("pan_left 50; dolly_in 3").poses(2)[1]
    file = pose_file(tmp_path / "p.json", "arc_left; lens_in 1.3", world=world, fov=70)
    made = shot(video, "--camera", file)
    torch.testing.assert_close(made.path.poses(T), parse_path("arc_left; lens_in 1.3").poses(T))
    torch.testing.assert_close(made.path.lens(T), parse_path("arc_left; lens_in 1.3").lens(T))


def test_poses_may_count_from_the_source(video, tmp_path):
    world = parse_path("truck_right 0.5").poses(2)[1]
    file = pose_file(tmp_path / "p.json", "dolly_in", world=world, fov=50)
    made = shot(video, "--camera", file, "--poses-relative-to", "source", "--fov", 50)
    torch.testing.assert_close(made.path.poses(T), world @ parse_path("dolly_in").poses(T))
    assert made.path.lens(T).tolist() == pytest.approx([1] * T)
    wider = shot(video, "--camera", file, "--poses-relative-to", "source", "--fov", 80)
    assert wider.path.lens(T)[0] > 1.5


def test_both_files_may_share_a_world(video, tmp_path):
    world = parse_path("pan_left 50; dolly_in 3").poses(2)[1]
    source = pose_file(tmp_path / "s.json", "static", world=world)
    file = pose_file(tmp_path / "p.json", "truck_right 0.5", world=world)
    made = shot(video, "--camera", file, "--poses-relative-to", "world", "--source-cameras", source)
    torch.testing.assert_close(made.path.poses(T), parse_path("truck_right 0.5").poses(T))
    assert made.source.size == SIZE


def test_few_poses_are_keyframes(video, tmp_path):
    file = pose_file(tmp_path / "p.json", "pan_left 30", frames=3)
    path = shot(video, "--camera", file).path
    torch.testing.assert_close(path.poses(T), parse_path("pan_left 30").poses(T))
    assert path_notes(path, T) == ["3 poses spread evenly over 7 frames by a spline"]
    assert path_notes(path, 3) == path_notes(parse_path("pan_left"), T) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--camera", "https://example.org/p.json"], "is an address: only files are read, download it first"),
        (["--camera", "pan_left", "--source-cameras", "s3://bucket/p.json"], "is an address"),
        (["--camera", ""], "empty"),
        (["--camera", "missing.json"], "pose file missing.json does not exist"),
        (["--camera", "FILE", "--amount", "3"], "not for a pose file"),
        (["--camera", "FILE", "--poses-relative-to", "world"], "needs --source-cameras"),
        (["--camera", "pan_left", "--source-cameras", "SHORT"], "holds 3 cameras"),
        (["--camera", "pan_left", "--source-cameras", "SQUARE"], "the aspects differ"),
        (["--camera", "pan_left; dolly_in", "--amount", "3"], "for a single move"),
        (
            ["--camera", "pan_left", "--source-cameras", "FILE", "--fov", "70"],
            "--fov has no effect, the file given as --source-cameras says it",
        ),
        (["--camera", "pan_left", "--pose-convention", "opengl"], "--pose-convention has no effect, it is for"),
        (["--camera", "pan_left", "--poses-relative-to", "world"], "--poses-relative-to has no effect, it is for"),
        (["--fov", "60"], "--camera is needed"),
        (["--camera", "pan_left", "--ignore-mask", "m.png"], "--ignore-mask has no effect, it is for cameras"),
        (["--camera", "pan_left", "--size", "big"], "--size must look like 480x832"),
    ],
)
def test_bad_options(video, tmp_path, arguments, message):
    K = intrinsics_from_fov(50.0, (90, 90)).double().expand(T, 3, 3)
    square = Camera(torch.eye(4).double().expand(T, 4, 4), K, (90, 90))
    files = {
        "FILE": pose_file(tmp_path / "p.json", "pan_left"),
        "SHORT": pose_file(tmp_path / "s.json", "pan_left", frames=3),
        "SQUARE": write_cameras(tmp_path / "q.json", CameraSequence(square, tuple(map(str, range(T)))), "json"),
    }
    with pytest.raises(ValueError, match=message):
        shot(video, *(files.get(a, a) for a in arguments))


def test_the_notes_of_a_pose_file_are_those_of_the_shot(video, tmp_path):
    """A trajectory without size, lens and unit is used, and what was taken for granted is said."""
    trajectory = tmp_path / "traj.txt"
    trajectory.write_text("".join(f"{t} {0.1 * t} 0 0 1 0 0 0\n" for t in (0, 1, 2, 3, 6)))
    path = shot(video, "--camera", trajectory).path
    torch.testing.assert_close(path.poses(T)[:, 0, 3], 0.1 * torch.arange(T).double())
    notes = path_notes(path, T)
    assert "w first" in notes[0]
    assert notes[1:] == [
        "unit unknown: 1 is taken as a quarter of the subject's distance",
        "its 6 s are stretched over the video's 0.5 s",
        "5 poses at their own, uneven times over 7 frames by a spline",
    ]
    assert path_notes(shot(video, "--camera", trajectory, "--pose-metric").path, T) == [notes[0], *notes[2:]]
    source = pose_file(tmp_path / "s.json", "pan_left")
    document = json.loads(source.read_text())
    keep = [0, 1, 2, 5, 6]
    document |= {
        "names": [f"{i:05d}.png" for i in keep],
        **{key: [document[key][i] for i in keep] for key in ("c2w", "K")},
    }
    source.write_text(json.dumps(document))
    made = shot(video, "--camera", "pan_left", "--source-cameras", source)
    torch.testing.assert_close(made.source.c2w, parse_path("pan_left").poses(T), atol=1e-3, rtol=0)
    assert made.notes[0].endswith("holds 5 cameras for 7 frames: 2 are interpolated, by its names")


def test_two_files_take_the_options_that_each_of_them_knows(video, tmp_path):
    """A path that has its lens, and a source without one: --pose-fov is for the source."""
    path = write_cameras(tmp_path / "p", read_cameras(pose_file(tmp_path / "p.json", "pan_left")), "dycheck")
    source = tmp_path / "00.txt"
    source.write_text("1 0 0 0 0 1 0 0 0 0 1 0\n" * T)
    made = shot(video, "--camera", path, "--source-cameras", source, "--pose-fov", 90)
    assert made.source.K[0, 0, 0].item() == pytest.approx(SIZE[1] / 2)
    torch.testing.assert_close(made.path.poses(T), parse_path("pan_left").poses(T))
    with pytest.raises(ValueError, match="takes no option order"):
        shot(video, "--camera", path, "--source-cameras", source, "--pose-fov", 90, "--pose-order", "name")


def test_what_is_read_from_a_pose_file_may_be_said(video, tmp_path):
    file = pose_file(tmp_path / "p.json", "pan_left")
    for arguments in (["--camera", file], ["--camera", "pan_left", "--source-cameras", file]):
        shot(video, *arguments, "--pose-format", "json")
    assert shot(video, "--camera", file, "--fov", 70).fov_deg == 70  # of the source, which has no file


def test_keyframes_can_be_edited():
    path = parse_path("orbit_right 30")
    keys = PathKeys.of(path, 5)
    torch.testing.assert_close(keys.path().poses(5), path.poses(5))
    pose = keys.poses[2].clone()
    pose[0, 3] += 0.4
    moved = keys.moved(2, pose)
    assert moved.count == 5
    torch.testing.assert_close(moved.path().poses(5)[2], pose)
    torch.testing.assert_close(moved.path().poses(5)[[0, 1, 3, 4]], keys.poses[[0, 1, 3, 4]])
    assert moved.resampled(9).count == 9
    torch.testing.assert_close(moved.resampled(9).poses[4], pose)
    assert moved.curve(7).shape == (7, 3)
    with pytest.raises(ValueError, match="2 to 40 keyframes"):
        PathKeys.of(path, 1)
