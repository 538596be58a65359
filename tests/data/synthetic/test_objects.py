"""Rendered objects: the rigs are the authors', and depth carries what one view shows to where another shows it."""

import math

import pytest
import torch
import torch.nn.functional as F

from mvtrack.data.synthetic.objects import WONDER3D_AZIMUTHS, object_clip, syncdreamer_rig, wonder3d_rig
from mvtrack.geometry.camera import Camera, pixel_grid, project, unproject

SIDE = 46


@pytest.fixture(scope="module", params=["wonder3d", "syncdreamer"])
def clip(request):
    return object_clip(7, request.param, SIDE)


def azimuths_of(camera: Camera) -> tuple[torch.Tensor, torch.Tensor]:
    """Degrees of every view about the first one's vertical, and its elevation there."""
    first, axes = camera.c2w[0, 0, :3, 3].double(), camera.c2w[0, 0, :3, :3].double()
    centres = camera.c2w[:, 0, :3, 3].double() @ axes  # right, down, forward of the first view
    assert centres[0, 2] == pytest.approx(-first.norm().item())
    right, down, forward = (centres / centres.norm(dim=1, keepdim=True)).T
    return torch.rad2deg(torch.atan2(right, -forward)), torch.rad2deg(torch.asin(-down))


def test_wonder3d_rig_has_the_authors_angles():
    rig = wonder3d_rig(SIDE)
    azimuth, elevation = azimuths_of(rig)
    turn = (azimuth - torch.tensor(WONDER3D_AZIMUTHS).double() + 180) % 360 - 180
    assert turn.abs().max() < 1e-3
    assert elevation.abs().max() < 1e-3
    height = -rig.c2w[0, 0, 1, 3] / rig.c2w[0, 0, :3, 3].norm()  # of the front camera in the world
    assert math.degrees(math.asin(height)) == pytest.approx(14.96, abs=1e-3)
    xy, _ = project(torch.tensor([[0.0, 0.0, 0.0]]), rig)
    torch.testing.assert_close(xy, torch.full_like(xy, SIDE / 2), atol=1e-4, rtol=0)


def test_syncdreamer_rig_is_a_ring():
    rig = syncdreamer_rig(SIDE)
    centre = rig.c2w[:, 0, :3, 3]
    torch.testing.assert_close(centre.norm(dim=1), torch.full((16,), 1.5), atol=1e-5, rtol=0)
    torch.testing.assert_close(centre[:, 1], torch.full((16,), -0.75), atol=1e-5, rtol=0)
    gap = F.cosine_similarity(centre[:, [0, 2]], centre.roll(-1, 0)[:, [0, 2]])
    torch.testing.assert_close(torch.rad2deg(gap.acos()), torch.full((16,), 22.5), atol=1e-2, rtol=0)
    assert torch.equal(rig.K[3, 0], torch.tensor([[280 / 256 * SIDE, 0, 23], [0, 280 / 256 * SIDE, 23], [0, 0, 1]]))


def test_object_fills_its_box_over_white(clip):
    assert (clip.masks.flatten(1).float().mean(1) > 0.02).all()
    edge = torch.cat([clip.masks[..., 0, :], clip.masks[..., -1, :], clip.masks[..., 0], clip.masks[..., -1]], -1)
    assert edge.float().mean() < 0.2
    far = F.max_pool2d(clip.masks.flatten(0, 1)[:, None].float(), 3, 1, 1)[:, 0] == 0
    assert (clip.video.flatten(0, 1).permute(0, 2, 3, 1)[far] == 1).all()
    assert (clip.depth[~clip.masks] == 0).all()
    distance = clip.camera.c2w[0, 0, :3, 3].norm()
    assert ((clip.depth[clip.masks] - distance).abs() < 0.87).all()  # half the diagonal of a unit cube


@pytest.mark.parametrize(("view", "other"), [(0, 1), (1, 0), (2, 1)])
def test_depth_carries_one_view_to_another(clip, view, other):
    """Where both see a surface, colour and depth there are those of the other view; where axes are mixed up, not."""
    xy, camera = pixel_grid((SIDE, SIDE)).flatten(0, 1), clip.camera
    world = unproject(xy, clip.depth[view, 0].flatten(), camera[view, 0])[clip.masks[view, 0].flatten()]
    here = clip.video[view, 0].flatten(1).T[clip.masks[view, 0].flatten()]

    def carried(camera: Camera) -> tuple[float, float]:
        at, z = project(world, camera[other, 0])
        grid = (2 * at / SIDE - 1)[None, None]
        shown = [clip.video[other, 0], clip.depth[other, 0][None], clip.masks[other, 0][None].float()]
        there = F.grid_sample(torch.cat(shown)[None], grid, align_corners=False)[0, :, 0].T
        same = (there[:, 4] > 0.999) & ((there[:, 3] - z).abs() < 0.02)
        return same.float().mean().item(), (there[same, :3] - here[same]).abs().median().item()

    share, difference = carried(camera)
    assert share > 0.25
    assert difference < 0.03
    wrong = Camera(camera.c2w @ torch.diag(torch.tensor([-1.0, -1, 1, 1])), camera.K, camera.size,
                   projection=camera.projection)  # fmt: skip
    assert carried(wrong)[0] < 0.6 * share


def test_objects_differ_by_seed_and_come_back():
    first, again, other = (object_clip(seed, "wonder3d", 22) for seed in (3, 3, 4))
    assert torch.equal(first.video, again.video)
    assert not torch.equal(first.video, other.video)
