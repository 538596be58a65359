"""Renders of objects in Wonder3D's and SyncDreamer's layouts, written from our own renderer and read as clips."""

import numpy as np
import pytest
import torch

from mvtrack.data.public.object_renders import ObjectRenders
from mvtrack.data.synthetic.objects import object_clip
from tests.data.public.object_layouts import ORTHO_SCALE, write_objects

SIDE = 40


@pytest.fixture(params=["wonder3d", "syncdreamer"])
def rig(request):
    return request.param


def scale_of(rig: str) -> float | None:
    return ORTHO_SCALE if rig == "wonder3d" else None


def test_clips_are_what_was_rendered(tmp_path, rig):
    truth = [object_clip(seed, rig, SIDE) for seed in (3, 4)]
    write_objects(tmp_path, rig, truth)
    renders = ObjectRenders(tmp_path, SIDE, scale_of(rig))
    assert len(renders) == 2
    for number, own in enumerate(truth):
        clip = renders.clip(number)
        assert (clip.video - own.video).abs().max() < 0.02  # eight bits, and transparency of as many
        torch.testing.assert_close(clip.camera.c2w, own.camera.c2w, atol=1e-5, rtol=0)
        torch.testing.assert_close(clip.camera.K, own.camera.K, atol=1e-4, rtol=0)
        assert clip.camera.projection == own.camera.projection
        assert (clip.masks != own.masks).float().mean() < (0.001 if rig == "wonder3d" else 0.03)
        if rig == "wonder3d":
            torch.testing.assert_close(clip.depth, own.depth, atol=2e-4, rtol=0)
        else:
            assert clip.depth is None


def test_smaller_pictures_keep_the_geometry(tmp_path, rig):
    (truth,) = [object_clip(3, rig, SIDE)]
    write_objects(tmp_path, rig, [truth])
    views = (2, 0, 1)
    clip = ObjectRenders(tmp_path, SIDE // 2, scale_of(rig), views).clip(0)
    assert clip.video.shape == (3, 1, 3, SIDE // 2, SIDE // 2)
    small = truth.camera[list(views)].resized((SIDE // 2, SIDE // 2))
    torch.testing.assert_close(clip.camera.K, small.K, atol=1e-4, rtol=0)
    torch.testing.assert_close(clip.camera.c2w, small.c2w, atol=1e-5, rtol=0)
    pooled = torch.nn.functional.avg_pool2d(truth.video[list(views), 0], 2)
    assert (clip.video[:, 0] - pooled).abs().mean() < 0.02


def test_what_is_no_render_of_an_object_is_refused(tmp_path, rig):
    write_objects(tmp_path / "objects", rig, [object_clip(3, rig, SIDE)])
    count = 6 if rig == "wonder3d" else 16
    with pytest.raises(ValueError, match=f"has views 0 to {count - 1}, not {count}"):
        ObjectRenders(tmp_path / "objects", SIDE, scale_of(rig), (0, count)).clip(0)
    if rig == "wonder3d":
        with pytest.raises(ValueError, match="--ortho-scale"):
            ObjectRenders(tmp_path / "objects", SIDE).clip(0)
    clip = tmp_path / "clips/a"
    clip.mkdir(parents=True)
    np.savez(clip / "tracks.npz", xy=np.zeros(1))
    with pytest.raises(ValueError, match="no layout that is known"):
        ObjectRenders(tmp_path / "clips", SIDE)
