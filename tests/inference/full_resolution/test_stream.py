import math

import pytest
import torch

from mvtrack.geometry.camera import Camera, camera_rays, pixel_grid
from mvtrack.inference.full_resolution.geometry import FileGeometry, LearnedGeometry
from mvtrack.inference.full_resolution.region import plan_region
from mvtrack.inference.full_resolution.stream import REACH, FullResolution
from mvtrack.metrics.image import psnr
from mvtrack.video.resize import fit_to
from mvtrack.video.writer import from_bytes, to_bytes
from tests.inference.full_resolution.conftest import H, T, W, path

SMALL = (34, 46)


def turn(pose, part):
    angle = math.radians(6 * part)
    pose[:3, :3] = torch.tensor(
        [[math.cos(angle), 0, math.sin(angle)], [0, 1, 0], [-math.sin(angle), 0, math.cos(angle)]]
    )


def shift(pose, part):
    pose[0, 3] = 0.6 * part


def full(refiner, frames, cameras: Camera, geometry=None, distance=4.0) -> FullResolution:
    fit = fit_to((H, W), SMALL)
    geometry = geometry or LearnedGeometry(refiner.depth, motion_known=False)
    small = cameras.resized(SMALL)
    return FullResolution(refiner.blend, geometry, plan_region(fit, "source"), small, distance, frames.__getitem__)


def results(*arguments, **more) -> torch.Tensor:
    made = torch.zeros(T, 3, *SMALL)
    return from_bytes(torch.stack([frame.result for frame in full(*arguments, **more).stream([made[:2], made[2:]])]))


def test_identity_path_returns_the_source_to_the_bit(refiner, frames):
    out = results(refiner, frames, path(lambda pose, part: None))
    assert (to_bytes(out) == frames.permute(0, 2, 3, 1).numpy()).all()


def test_rotation_is_the_homography_where_the_source_sees(refiner, frames):
    cameras = path(turn)
    out = results(refiner, frames, cameras)
    for t in (1, T - 1):
        rays = camera_rays(pixel_grid((H, W)), cameras.K[1, t]) @ cameras.c2w[1, t, :3, :3].T
        seen = (rays / rays[..., 2:]) @ cameras.K[0, t].T
        grid = 2 * seen[..., :2] / torch.tensor([W, H]) - 1
        expected = torch.nn.functional.grid_sample(
            from_bytes(frames[t : t + 1]), grid[None], mode="bicubic", padding_mode="border", align_corners=False
        )
        known = (grid.abs() < 1).all(-1)
        assert psnr(out[t : t + 1], expected, known[None]) > 42


def test_depth_moves_a_plane_as_far_as_it_should(refiner, frames):
    depth = torch.full((H, W), 4.0)
    plane = FileGeometry(lambda t: depth, 4.0, "a plane")
    out = results(refiner, frames, path(shift), plane)
    move = float(path(shift).K[0, 0, 0, 0]) * 0.6 / 4
    whole = round(move)
    expected = from_bytes(frames[-1])[:, :, whole:]
    weighty = out[-1][:, 8:-8, 8 : W - whole - 8]  # an untrained blend trusts what is seen, by its prior
    assert psnr(weighty, expected[:, 8:-8, 8:-8]) > psnr(from_bytes(frames[-1])[:, 8:-8, 8 : W - whole - 8],
                                                         expected[:, 8:-8, 8:-8]) + 3  # fmt: skip


@pytest.mark.parametrize("factor", [0.01, 250.0])
def test_world_scale_changes_nothing(refiner, frames, factor):
    cameras = path(shift)
    one = results(refiner, frames, cameras)
    other = results(refiner, frames, cameras.scaled(factor), distance=4.0 * factor)
    assert (one - other).abs().max() < 2 / 255


def test_reversed_time_gives_the_reversed_result(refiner, frames):
    cameras = path(shift)
    back = Camera(cameras.c2w.flip(1), cameras.K.flip(1), cameras.size)
    forwards, backwards = results(refiner, frames, cameras), results(refiner, frames.flip(0), back)
    torch.testing.assert_close(backwards.flip(0), forwards, atol=2 / 255, rtol=0)  # one of 255 levels


def test_stream_holds_a_bounded_number_of_frames(refiner, frames):
    count = 40
    cameras = path(shift)
    index = torch.zeros(count, dtype=torch.long)
    long = Camera(cameras.c2w[:, index], cameras.K[:, index], cameras.size)
    stream, most = full(refiner, frames, long), 0
    stream.read = lambda number: frames[0]
    for _ in stream.stream(torch.zeros(count, 1, 3, *SMALL)):
        most = max(most, len(stream.held))
    assert most <= 3 * REACH + 2
