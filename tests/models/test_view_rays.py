"""Rays of still views against CAMEO's and MVGenMaster's own, and what the right ones do not depend on."""

from dataclasses import replace

import pytest
import torch

from mvtrack.config.backbones import CAMEO_RAYS, ViewRayConfig
from mvtrack.geometry.camera import Camera
from mvtrack.models.conditioning import view_conditioning
from mvtrack.models.view_rays import normalised, view_rays

NAMED = {
    "cameo": CAMEO_RAYS,
    "mvgenmaster": replace(CAMEO_RAYS, origin="first", scale="none"),
    "plain": replace(CAMEO_RAYS, frame="world", scale="none"),
    "rederived_peer": CAMEO_RAYS,
    "rederived_right": replace(CAMEO_RAYS, frame="relative"),
}


@pytest.fixture(scope="module")
def golden(golden_numbers):
    return {name: torch.from_numpy(x) for name, x in golden_numbers("cat3d_rays").items()}


@pytest.fixture
def camera(golden):
    return Camera(torch.linalg.inv(golden["w2c"].double()).float(), golden["K"], (6, 10))


@pytest.fixture
def turned(golden, camera):
    """The same cameras in a rotated world."""
    turn = torch.eye(4)
    turn[:3, :3] = golden["world_rotation"]
    return replace(camera, c2w=turn.mT @ camera.c2w)


@pytest.mark.parametrize("name", NAMED)
def test_golden_rays(golden, camera, name):
    expected = golden[f"{name}.camera"]
    torch.testing.assert_close(view_rays(camera, NAMED[name])[:, :, 0], expected, atol=2e-5, rtol=0)
    for field, value in (("frame", "relative"), ("pixel", "centre"), ("origin", "first"), ("scale", "none")):
        if getattr(NAMED[name], field) != value and not (name == "plain" and field in ("origin", "scale")):
            other = view_rays(camera, replace(NAMED[name], **{field: value}))[:, :, 0]
            assert (other - expected).abs().max() > 0.01, field


@pytest.mark.parametrize("name", ["cameo", "mvgenmaster", "plain"])
def test_golden_origins(golden, camera, name):
    centre = normalised(camera, NAMED[name]).c2w[..., :3, 3]
    torch.testing.assert_close(centre, golden[f"{name}.origin"], atol=1e-5, rtol=1e-5)


def test_right_rays_do_not_depend_on_the_world(golden, camera, turned):
    for config in (ViewRayConfig(), ViewRayConfig(origin="last", scale="none"), NAMED["rederived_right"]):
        before, after = view_rays(camera, config), view_rays(turned, config)
        torch.testing.assert_close(after, before, atol=1e-4, rtol=1e-4)
    peer = view_rays(turned, CAMEO_RAYS)[:, :, 0]
    torch.testing.assert_close(peer, golden["cameo_turned_world.camera"], atol=5e-5, rtol=0)
    assert (peer - golden["cameo.camera"]).abs().max() > 1


def test_right_rays_pass_through_the_point_a_pixel_shows(camera):
    """In the frame of the first view, whose own rays go out from zero through its pixels' centres."""
    rays = view_rays(camera, ViewRayConfig())[:, 0, 0]
    assert rays[:, 3:].abs().max() < 1e-5
    seen = torch.einsum("bij,bjhw->bihw", camera.K[:, 0], rays[:, :3] / rays[:, 2:3])
    assert torch.allclose(seen[:, 0, 2, 3], torch.tensor(3.5), atol=1e-3)
    assert torch.allclose(seen[:, 1, 2, 3], torch.tensor(2.5), atol=1e-3)


def test_cameras_at_one_place_have_finite_rays(camera):
    still = replace(camera, c2w=camera.c2w[:, :1].expand(-1, 4, -1, -1))
    assert view_rays(still, ViewRayConfig()).isfinite().all()


def test_unfit_cameras_raise(camera, unchecked):
    with pytest.raises(ValueError, match=r"cameras are \(2, 4\), the mask of references \(2, 3\)"):
        view_conditioning(camera, torch.ones(2, 3, dtype=torch.bool), ViewRayConfig())
    with pytest.raises(ValueError, match="needs perspective cameras"):
        view_rays(replace(camera, projection="orthographic"), ViewRayConfig())
