"""Starts to a fraction of a token, on rendered scenes with exact tracks and on pictures that are known shifts."""

from dataclasses import replace

import pytest
import torch

from mvtrack.data.synthetic.test_scenes import CaseSpec, render_case
from mvtrack.geometry.camera import Camera, intrinsics_from_fov
from mvtrack.geometry.trajectory import CameraPath
from mvtrack.inference.tracking.cross_view_init import Starts
from mvtrack.inference.tracking.subpixel_refine import most_similar_patch, patches, refine_starts, to_epipolar_line

PX = 4


@pytest.fixture(scope="module")
def clip():
    return render_case(CaseSpec(11, "arc_left", 20.0, 0.5, (48, 64), 9), num_points=61).clip


def off_by(clip, frames: tuple[int, int], px: float):
    """Points seen in both views at two latent frames, starts that lie `px` beside their places, and the truth."""
    i, j = (4 * frame for frame in frames)
    asked = clip.tracks.visible[0, i] & clip.tracks.visible[1, j]
    xy, truth = clip.tracks.xy[0, i, asked], clip.tracks.xy[1, j, asked]
    angle = torch.linspace(0, 6.0, len(xy))
    wrong = truth + px * torch.stack([angle.cos(), angle.sin()], -1)
    kept = ((wrong > 0) & (wrong < torch.tensor([64, 48]))).all(-1)
    xy, truth, wrong = xy[kept], truth[kept], wrong[kept]
    txy, there = (
        torch.cat([torch.full((len(xy), 1), float(t)), p], -1) for t, p in zip(frames, (xy, wrong), strict=True)
    )
    return txy, Starts(torch.stack([txy, there]), torch.ones(2, len(xy), dtype=torch.bool)), truth


def errors(starts: Starts, truth: torch.Tensor) -> torch.Tensor:
    return (starts.txy[1, :, 1:] - truth).norm(dim=-1)


def test_pixels_and_lines_bring_starts_nearer(clip):
    """The scene has things that move: at one moment they lie on their lines as well."""
    txy, starts, truth = off_by(clip, (1, 1), 1.2)
    pictures, camera = clip.video[:, ::4], clip.camera[:, ::4]
    alone = refine_starts(starts, txy, 0, pictures, PX)
    both = refine_starts(starts, txy, 0, pictures, PX, camera)
    assert len(truth) > 20
    assert errors(alone, truth).median() < 0.7 * 1.2
    assert errors(both, truth).median() < 0.4 * 1.2
    assert errors(both, truth).mean() < 0.7 * errors(alone, truth).mean()
    assert torch.equal(both.txy[0], starts.txy[0])
    assert torch.equal(both.txy[1, :, 0], starts.txy[1, :, 0])


def test_views_may_change_places(clip):
    txy, starts, truth = off_by(replace(clip, tracks=clip.tracks.views([1, 0])), (1, 1), 1.2)
    starts = Starts(starts.txy.flip(0), starts.found)
    found = refine_starts(starts, txy, 1, clip.video[:, ::4], PX, clip.camera[:, ::4])
    assert torch.equal(found.txy[1], txy)
    assert (found.txy[0, :, 1:] - truth).norm(dim=-1).median() < 0.25


def test_at_another_moment_the_line_is_not_used(clip):
    txy, starts, _ = off_by(clip, (0, 2), 1.0)
    pictures, camera = clip.video[:, ::4], clip.camera[:, ::4]
    with_cameras = refine_starts(starts, txy, 0, pictures, PX, camera)
    assert torch.equal(with_cameras.txy, refine_starts(starts, txy, 0, pictures, PX).txy)


def test_what_was_not_found_is_not_touched(clip):
    txy, starts, _ = off_by(clip, (1, 1), 1.0)
    found = starts.found.clone()
    found[1, ::2] = False
    moved = refine_starts(Starts(starts.txy, found), txy, 0, clip.video[:, ::4], PX, clip.camera[:, ::4])
    assert torch.equal(moved.txy[1, ::2], starts.txy[1, ::2])
    assert torch.equal(moved.found, found)
    assert not torch.equal(moved.txy[1, 1::2], starts.txy[1, 1::2])


def pair_of_cameras(name: str, amount: float) -> tuple[Camera, Camera]:
    poses = CameraPath(name, amount).poses(2).float()
    K = intrinsics_from_fov(50.0, (48, 64))
    return Camera(poses[0], K, (48, 64)), Camera(poses[1], K, (48, 64))


def test_the_line_is_that_of_the_points(clip):
    own, other = clip.camera[0, 4], clip.camera[1, 4]
    xy, truth = clip.tracks.xy[0, 4], clip.tracks.xy[1, 4]
    place, along = to_epipolar_line(xy, truth, own, other, PX)
    assert (place - truth).norm(dim=-1).max() < 0.02  # raster tracks
    torch.testing.assert_close(along.norm(dim=-1), torch.ones(len(xy)))
    across = torch.stack([-along[:, 1], along[:, 0]], -1)
    place, _ = to_epipolar_line(xy, truth + 2 * across - 1.5 * along, own, other, PX)
    assert (place - (truth - 1.5 * along)).norm(dim=-1).max() < 0.02
    far, direction = to_epipolar_line(xy, truth + 1.1 * PX * across, own, other, PX)
    torch.testing.assert_close(far, truth + 1.1 * PX * across)
    assert direction.isnan().all()


def test_a_camera_that_only_turned_gives_the_place_itself():
    own, other = pair_of_cameras("pan_right", 10.0)
    xy = torch.tensor([[40.0, 20.0], [33.0, 30.5]])
    ray = torch.cat([(xy - torch.tensor([32.0, 24.0])) / own.K[0, 0], torch.ones(2, 1)], -1)
    seen = ray @ own.c2w[:3, :3].T @ other.c2w[:3, :3] @ other.K.T
    truth = seen[:, :2] / seen[:, 2:]
    place, along = to_epipolar_line(xy, truth + 2.0, own, other, PX)
    torch.testing.assert_close(place, truth, atol=1e-3, rtol=0)
    assert (along == 0).all()


def test_a_shift_is_found_to_a_fraction_of_a_pixel(generator):
    """Smooth random pictures, the second of which is the first, moved and a little brighter."""
    y, x = torch.meshgrid(torch.arange(48.0), torch.arange(64.0), indexing="ij")
    waves = torch.rand(3, 5, 3, generator=generator) * 0.8

    def picture(dx: float, dy: float) -> torch.Tensor:
        return torch.stack([sum(torch.sin(a * (x - dx) + b * (y - dy) + 9 * c) for a, b, c in w) for w in waves]) / 5

    shift, xy = torch.tensor([1.3, -0.8]), torch.tensor([[20.0, 20.0], [41.5, 27.0], [30.2, 12.6]])
    looks = patches(picture(0, 0), xy[:, None], PX)
    moved = picture(*shift.tolist()) + 0.05
    found = most_similar_patch(looks, moved, xy, None, PX)
    assert (found - xy - shift).abs().max() < 0.2
    along = (shift / shift.norm()).expand(3, 2)
    assert (most_similar_patch(looks, moved, xy, along, PX) - xy - shift).norm(dim=-1).max() < 0.2
    mixed = torch.stack([along[0], torch.full((2,), torch.nan), torch.zeros(2)])
    found = most_similar_patch(looks, moved, xy, mixed, PX)
    assert (found[:2] - xy[:2] - shift).norm(dim=-1).max() < 0.25
    assert torch.equal(found[2], xy[2])  # the place is known


def test_a_start_at_the_border_stays_in_the_picture(clip):
    txy, starts, _ = off_by(clip, (1, 1), 0.0)
    edge = starts.txy.clone()
    edge[1, :, 1:] = torch.tensor([63.9, 0.05])
    found = refine_starts(Starts(edge, starts.found), txy, 0, clip.video[:, ::4], PX, clip.camera[:, ::4])
    assert (found.txy[1, :, 1:] >= 0).all()
    assert (found.txy[1, :, 1] < 64).all()
