"""What MVGenMaster sees of given views' depth: the authors' numbers, and what has to hold where they are silent."""

import torch

from mvtrack.geometry.camera import Camera, intrinsics_from_fov, invert_pose
from mvtrack.models.depth_priors import POSITION_CHANNELS, depth_priors


def test_golden_priors(golden_numbers):
    golden = {name: torch.from_numpy(x).float() for name, x in golden_numbers("mvgenmaster_priors").items()}
    # the authors' K is for pixels at whole numbers
    camera = Camera(invert_pose(golden["w2c"][0]), golden["K"][0], (16, 24)).cropped(-0.5, -0.5, (16, 24))
    pixels, positions = depth_priors(golden["colors"][:2], golden["depth"][:2, 0], camera)
    assert torch.equal(pixels, golden["pixel"])
    torch.testing.assert_close(positions, golden["position"], atol=1e-6, rtol=0)
    assert pixels[2, 3].mean() < 0.9
    shifted, _ = depth_priors(golden["colors"][:2], golden["depth"][:2, 0], camera.cropped(0.5, 0.5, (16, 24)))
    assert not torch.equal(shifted[2], golden["pixel"][2])


def two_cameras(turn_away: bool) -> Camera:
    c2w = torch.eye(4).repeat(2, 1, 1)
    if turn_away:
        c2w[1, :3, :3] = torch.diag(torch.tensor([-1.0, 1, -1]))
    return Camera(c2w, intrinsics_from_fov(60, (16, 24)).expand(2, 3, 3), (16, 24))


def test_nothing_is_carried_where_nothing_is_seen(generator):
    colours, depth = torch.rand(1, 3, 16, 24, generator=generator), torch.full((1, 16, 24), 2.0)
    pixels, positions = depth_priors(colours, depth, two_cameras(turn_away=True))
    assert positions.shape == (2, POSITION_CHANNELS, 2, 3)
    assert torch.equal(pixels[0, :3], colours[0])
    assert (pixels[1] == 0).all()
    assert (positions[1] == 0).all()
    same, _ = depth_priors(colours, depth, two_cameras(turn_away=False))
    assert torch.equal(same[0], same[1])


def test_the_nearer_of_two_given_views_wins(generator):
    colours, camera = torch.rand(2, 3, 16, 24, generator=generator), two_cameras(turn_away=False)[[0, 0, 0]]
    depth = torch.stack([torch.full((16, 24), 3.0), torch.full((16, 24), 2.0)])
    depth[1, :, :11] = 5.0
    pixels, _ = depth_priors(colours, depth, camera)
    assert torch.equal(pixels[2, :3, :, :11], colours[0, ..., :11])
    assert torch.equal(pixels[2, :3, :, 11:], colours[1, ..., 11:])
