import pytest
import torch

from mvtrack.data.clip import Clip, anchor_frames, num_latent_frames, padded_length, resize_frames
from mvtrack.geometry.camera import Camera, intrinsics_from_fov, project, unproject
from tracking_head import Tracks

V, T, N, H, W = 2, 5, 3, 22, 26


def clip() -> Clip:
    """One bright pixel block per view and frame, with a track, depth and point map through its centre."""
    camera = Camera(torch.eye(4).expand(V, T, 4, 4), intrinsics_from_fov(60.0, (H, W)).expand(V, T, 3, 3), (H, W))
    video = -torch.ones(V, T, 3, H, W)
    video[..., 8:12, 10:14] = 1
    xy = torch.tensor([12.0, 10.0]).expand(V, T, N, 2)
    depth = torch.full((V, T, H, W), 2.0)
    visible = torch.ones(V, T, N, dtype=torch.bool)
    point_map = torch.arange(V * T * 3 * H * W, dtype=torch.float32).view(V, T, 3, H, W)
    tracks = Tracks(xy, visible, torch.ones(V, N, dtype=torch.bool))
    return Clip(video, camera, 24.0, tracks=tracks, depth=depth, point_map=point_map)


def bright_centre(video: torch.Tensor) -> torch.Tensor:
    """Centroid (x, y) of what is bright, raster coordinates."""
    weight = (video[:, :, 0] + 1).clamp_min(0)
    y, x = torch.meshgrid(torch.arange(weight.shape[-2]) + 0.5, torch.arange(weight.shape[-1]) + 0.5, indexing="ij")
    total = weight.sum((-2, -1))
    return torch.stack([(weight * x).sum((-2, -1)) / total, (weight * y).sum((-2, -1)) / total], -1)


@pytest.mark.parametrize("change", ["none", "crop", "halve", "stretch"])
def test_resizing_and_cropping_keep_tracks_on_pixels(change):
    changed = {
        "none": lambda c: c,
        "crop": lambda c: c.cropped(5, 3, (13, 17)),
        "halve": lambda c: c.resized((H // 2, W // 2)),
        "stretch": lambda c: c.resized((H * 2, W * 3)),
    }[change](clip())
    torch.testing.assert_close(changed.tracks.xy[:, :, 0], bright_centre(changed.video), atol=0.15, rtol=0)
    point = unproject(torch.tensor([[12.0, 10.0]]), torch.full((V, T, 1), 2.0), clip().camera)
    seen, _ = project(point, changed.camera)
    torch.testing.assert_close(seen[:, :, 0], changed.tracks.xy[:, :, 0], atol=1e-4, rtol=0)
    assert changed.depth.shape == (V, T, *changed.camera.size)
    assert changed.point_map.shape == (V, T, 3, *changed.camera.size)


def test_cropping_hides_points_outside():
    cropped = clip().cropped(13, 0, (H, 13))
    assert not cropped.tracks.visible.any()
    assert cropped.tracks.valid.all()
    with pytest.raises(ValueError, match="leaves the image"):
        clip().cropped(15, 0, (H, 13))


def test_clip_selects_views_and_frames():
    picked = clip().views([1, 0]).frames(slice(1, 4))
    assert picked.video.shape == (V, 3, 3, H, W)
    assert torch.equal(picked.point_map, clip().point_map[[1, 0], 1:4])
    assert picked.tracks.xy.shape == (V, 3, N, 2)


def test_resizing_averages_pixels():
    checker = torch.tensor([[-1.0, 1], [1, -1]]).repeat(8, 8).expand(3, -1, -1)
    assert resize_frames(checker, (4, 4)).abs().max() < 0.2


@pytest.mark.usefixtures("unchecked")
def test_invalid_clips_raise():
    good = clip()
    with pytest.raises(ValueError, match=r"video must be \(V, T, 3, H, W\)"):
        Clip(good.video[0], good.camera)
    with pytest.raises(ValueError, match=r"leading shape \(2, 5\), got \(2, 3\)"):
        Clip(good.video, good.camera[:, :3])
    with pytest.raises(ValueError, match=r"camera is for images of \(22, 26\), video is \(22, 24\)"):
        Clip(good.video[..., :24], good.camera)


def test_latent_frames_and_anchors_by_hand():
    assert [num_latent_frames(n) for n in (1, 5, 17, 81)] == [1, 2, 5, 21]
    assert [padded_length(n) for n in (1, 2, 5, 6, 80, 81)] == [1, 5, 5, 9, 81, 81]
    assert anchor_frames(4).tolist() == [0, 4, 8, 12]
    for n in (0, 2, 80):
        with pytest.raises(ValueError, match=f"got {n}"):
            num_latent_frames(n)
