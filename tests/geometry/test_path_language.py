import math

import pytest
import torch

from mvtrack.geometry.path_language import ComposedPath, Move, parse_path
from mvtrack.geometry.presets import PRESETS
from mvtrack.geometry.trajectory import CameraPath, passing_notes

T = 13


def last(text: str, pivot_m: float = 4.0) -> torch.Tensor:
    return parse_path(text, pivot_m).poses(T)[-1]


@pytest.mark.parametrize("name", PRESETS)
def test_preset_name_parses_to_preset(name):
    torch.testing.assert_close(parse_path(name).poses(T), CameraPath(name).poses(T))


def test_moves_follow_in_camera_frame():
    """After a pan of 90 degrees to the left, ahead is where left was."""
    path = parse_path("pan_left 90; dolly_in 2m")
    torch.testing.assert_close(path.poses(T)[-1, :3, 3], torch.tensor([-2.0, 0, 0]).double(), atol=1e-12, rtol=0)
    middle = path.poses(T)[T // 2]
    torch.testing.assert_close(middle, CameraPath("pan_left", 90.0).poses(T)[-1])


def test_simultaneous_moves_and_signed_amounts():
    pose = last("truck_right 1 + pedestal_up 0.5")
    torch.testing.assert_close(pose[:3, 3], torch.tensor([1.0, -0.5, 0]).double())
    torch.testing.assert_close(last("truck_right -1"), last("truck_left 1"))
    torch.testing.assert_close(last("truck_right +1"), last("truck_right 1m"))


def test_amounts_scale_with_subject_distance():
    torch.testing.assert_close(last("dolly_in 0.25d", 8.0), last("dolly_in 2m", 8.0))


def test_shares_and_speeds_set_timing():
    path = parse_path("dolly_in 1 for 25%; dolly_in 1 ease for 75%")
    z = path.poses(101)[:, 2, 3]
    assert z[25].item() == pytest.approx(1.0)
    assert z[100].item() == pytest.approx(2.0)
    steps = z.diff()
    assert steps[26] < steps[60] > steps[98]  # eased in and out


def test_orbit_keeps_distance_and_looks_at_subject():
    poses = parse_path("orbit_right 60deg", 3.0).poses(T)
    subject = torch.tensor([0.0, 0, 3]).double()
    towards = subject - poses[:, :3, 3]
    torch.testing.assert_close(towards.norm(dim=-1), torch.full((T,), 3.0).double())
    torch.testing.assert_close(towards / 3, poses[:, :3, 2])
    free = parse_path("orbit_right 60deg free", 3.0).poses(T)
    torch.testing.assert_close(free[:, :3, 3], poses[:, :3, 3])
    torch.testing.assert_close(free[:, :3, :3], torch.eye(3).double().expand(T, 3, 3))


def test_spiral_closes_and_centres_subject():
    poses = parse_path("spiral_right 0.7", 4.0).poses(T)
    torch.testing.assert_close(poses[-1], torch.eye(4).double(), atol=1e-9, rtol=0)
    towards = torch.tensor([0.0, 0, 4]).double() - poses[:, :3, 3]
    torch.testing.assert_close(towards / towards.norm(dim=-1, keepdim=True), poses[:, :3, 2], atol=1e-9, rtol=0)


@pytest.mark.parametrize("text", ["arc_left", "orbit_left 20 + lens_in 1.4", "roll_right 15; handheld 0.1; dolly_out"])
def test_path_poses_are_rigid_and_start_at_identity(text):
    poses = parse_path(text).poses(T)
    torch.testing.assert_close(poses[0], torch.eye(4).double())
    torch.testing.assert_close(poses[:, :3, :3] @ poses[:, :3, :3].mT, torch.eye(3).double().expand(T, 3, 3))
    torch.testing.assert_close(torch.linalg.det(poses[:, :3, :3]), torch.ones(T).double())


def test_zoom_changes_lens():
    lens = parse_path("lens_in 2x; lens_out 2x").lens(5)
    torch.testing.assert_close(lens, torch.tensor([1, math.sqrt(2), 2, math.sqrt(2), 1]).double())


def test_mirrored_path_reverses_every_move():
    assert parse_path("arc_left 20; dolly_in 1 + tilt_up 3").mirrored() == ComposedPath(
        parse_path("arc_right 20; dolly_out 1 + tilt_down 3").segments, label="arc_left_dolly_in_tilt_up"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        (" ; ", "empty"),
        ("arc_lef", "did you mean 'arc_left'"),
        ("arc_left 30m", "takes deg"),
        ("dolly_in 3deg", "takes m or d"),
        ("arc_left 30deg eas", "did you mean 'ease'"),
        ("arc_left 1 2", "'2' in 'arc_left 1 2' is not understood"),
        ("arc_left +", "is not understood"),
        ("arc_left + ; pan_left", "not understood"),
        ("arc_left for", "needs a percentage"),
        ("arc_left for 0%", "needs a percentage"),
        ("arc_left for 60%; pan_left for 60%", "add up to 120%"),
        ("arc_left for 40%; pan_left for 40%", "add up to 80%"),
        ("arc_left for 100%; pan_left", "no time"),
        ("arc_left for 10% + pan_left for 20%", "different shares"),
        ("lens_in 0", "lens factor"),
        ("arc_left 90", "less than 90"),
        ("orbit_left 361", "up to 360 degrees"),
        ("dolly_in 1e999", "finite"),
        (";".join(["pan_left"] * 101), "more than 100"),
    ],
)
def test_unparsable_paths_raise(text, message):
    with pytest.raises(ValueError, match=message):
        parse_path(text)


def test_invalid_moves_raise():
    with pytest.raises(ValueError, match="finite"):
        Move("dolly_in", math.nan)
    with pytest.raises(ValueError, match="subject's distance"):
        parse_path("dolly_in", math.inf)
    with pytest.raises(ValueError, match="num_frames"):
        parse_path("dolly_in").poses(0)


def test_orbit_goes_all_the_way_round():
    poses = parse_path("orbit_right 360", 3.0).poses(T)
    torch.testing.assert_close(poses[-1], torch.eye(4).double(), atol=1e-12, rtol=0)
    torch.testing.assert_close(poses[T // 2, :3, 3], torch.tensor([0.0, 0, 6]).double(), atol=1e-12, rtol=0)


@pytest.mark.parametrize(("name", "side"), [("orbit_up", -1), ("orbit_down", 1)])
def test_vertical_orbit_keeps_distance_and_looks_at_subject(name, side):
    poses = parse_path(f"{name} 50", 3.0).poses(T)
    towards = torch.tensor([0.0, 0, 3]).double() - poses[:, :3, 3]
    torch.testing.assert_close(towards / 3, poses[:, :3, 2])
    assert (poses[1:, 1, 3] * side > 0).all()


def test_dolly_zoom_keeps_the_subjects_size():
    for text in ("dolly_zoom 2", "dolly_zoom_out 3"):
        path = parse_path(text, 5.0)
        distance = 5 - path.poses(T)[:, 2, 3]
        torch.testing.assert_close(path.lens(T) / distance, torch.full((T,), 0.2).double())
    with pytest.raises(ValueError, match="leads to the subject, 5 away: at most 4.5"):
        parse_path("dolly_zoom 4.8", 5.0).poses(T)


@pytest.mark.parametrize("text", ["pan_left;;pan_right", ";pan_left", "pan_left 0", "lens_in 1", "dolly_in 0m"])
def test_empty_moves_are_refused(text):
    with pytest.raises(ValueError, match="a move is missing|moves nothing"):
        parse_path(text)


def test_paths_through_the_subject_say_so():
    assert "passes through the subject" in passing_notes(parse_path("dolly_in 5", 4.0))[0]
    for text in ("dolly_in 2.5", "orbit_right 360", "static", "truck_left 9"):
        assert passing_notes(parse_path(text, 4.0)) == []
