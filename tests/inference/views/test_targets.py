import json

import pytest
import torch

from mvtrack.geometry.camera import Camera, intrinsics_from_fov
from mvtrack.geometry.path_language import parse_path
from mvtrack.inference.views.targets import is_pose_file, targets_along, targets_from_file, unseen_note, unseen_share

PHOTO = Camera(torch.eye(4, dtype=torch.float64), intrinsics_from_fov(40, (30, 40)).double(), (30, 40))


def test_a_turn_beyond_the_picture_is_unseen():
    camera, _ = targets_along(parse_path("pan_left 80deg"), PHOTO, 5)
    share = unseen_share(camera, [PHOTO], 4.0)
    assert share[0] == 0
    assert 0.4 < share[1] < 0.6  # turned by half its width
    assert (share[2:] == 1).all()
    assert (unseen_share(camera, [PHOTO, camera[4]], 4.0)[[0, 4]] == 0).all()
    assert unseen_note(share[:1], ("a",)) is None
    note = unseen_note(share, tuple("abcde"))
    assert "4 of 5" in note or "3 of 5" in note
    assert "up to 100 % of a picture is unseen" in note


def test_what_lies_behind_a_photograph_is_unseen():
    camera, _ = targets_along(parse_path("dolly_out 40m"), PHOTO, 3)
    behind = Camera(PHOTO.c2w @ torch.diag(torch.tensor([-1.0, 1, -1, 1]).double()), PHOTO.K, PHOTO.size)
    assert unseen_share(behind[None], [PHOTO], 4.0).item() == 1
    assert unseen_share(camera, [PHOTO], 4.0)[1] > 0.5  # of a wider scene than it shows


def test_poses_of_a_file_count_from_the_world_or_the_first_photograph(tmp_path):
    c2w = torch.eye(4, dtype=torch.float64).repeat(2, 1, 1)
    c2w[1, 2, 3] = 0.5
    first = Camera(torch.eye(4, dtype=torch.float64), PHOTO.K, PHOTO.size)
    first.c2w[:3, :3] = torch.tensor([[0.0, 0, 1], [0, 1, 0], [-1, 0, 0]])
    first.c2w[0, 3] = 2.0
    file = tmp_path / "poses.json"
    file.write_text(
        json.dumps(
            {
                "convention": "opencv c2w raster", "size": [15, 20], "names": ["a", "b"], "c2w": c2w.tolist(),
                "K": intrinsics_from_fov(30, (15, 20)).tolist(),
            }
        )
    )  # fmt: skip
    world, names, _ = targets_from_file(file, {}, first, in_world=True)
    assert names == ("a", "b")
    assert world.size == (15, 20)
    assert torch.equal(world.c2w, c2w)
    own, _, notes = targets_from_file(file, {}, first, in_world=False)
    torch.testing.assert_close(own.c2w[1, :3, 3], torch.tensor([2.5, 0, 0], dtype=torch.float64))
    assert "in the first photograph's frame" in notes[-1]
    rows = tmp_path / "kitti.txt"
    rows.write_text("\n".join(" ".join(str(v) for v in pose[:3].flatten().tolist()) for pose in c2w))
    camera, _, _ = targets_from_file(rows, {}, first, in_world=True)
    torch.testing.assert_close(camera.K[0], PHOTO.K, atol=1e-4, rtol=0)
    assert camera.size == PHOTO.size
    assert is_pose_file(str(rows))
    assert not is_pose_file("arc_left 30deg")
    with pytest.raises(ValueError, match="pose file nowhere.json does not exist"):
        is_pose_file("nowhere.json")
