from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from mvtrack.cli.main import main as cli
from mvtrack.geometry.camera import Camera, intrinsics_from_fov
from mvtrack.geometry.path_language import parse_path
from mvtrack.inference.pipeline import Shot, shot_cameras
from mvtrack.inference.preview import DARK, Warper, closed, flat_depth, gaps_filled, preview_file
from mvtrack.models.reshoot_model import save_model
from mvtrack.video.depth_file import DepthFile
from mvtrack.video.reader import open_video
from mvtrack.video.resize import plan_fit

T = 7


def test_the_preview_and_the_render_use_the_same_cameras(video, small_model, tmp_path, monkeypatch):
    """To the bit: what `preview` warps through is what the model is given."""
    import mvtrack.inference.pipeline as reshooting
    import mvtrack.inference.preview as previewing

    seen = {}

    pairs = previewing.Warper.pairs

    def watch_preview(self, cameras):
        seen["preview"] = cameras
        return pairs(self, cameras)

    generate_stream = reshooting.generate_stream

    def watch_render(model, video, *rest):
        seen["render"] = video.camera
        return generate_stream(model, video, *rest)

    monkeypatch.setattr(previewing.Warper, "pairs", watch_preview)
    monkeypatch.setattr(reshooting, "generate_stream", watch_render)
    shot = Shot(parse_path("arc_left 20 ease; dolly_in 0.3d + lens_in 1.2"), sample=reshooting.SamplerOptions(1))
    preview_file(video, shot, small_model.config, tmp_path / "p")
    reshooting.reshoot_file(video, shot.path, small_model, tmp_path / "r", shot)
    assert torch.equal(seen["preview"].c2w, seen["render"].c2w)
    assert torch.equal(seen["preview"].K, seen["render"].K)


def test_a_camera_at_rest_shows_the_source(video, small_model):
    footage = open_video(video)
    fit = plan_fit(footage.size, small_model.config, "crop")
    shot = Shot(parse_path("static"))
    [(source, warped)] = list(Warper(footage, fit, None, 4.0).pairs(shot_cameras(shot, footage, fit)))
    assert source.shape == (T, 3, 240, 320)
    torch.testing.assert_close(warped, source, atol=2e-2, rtol=0)


def test_a_flat_picture_shifts_as_a_plane_does(video, small_model):
    """A sideways move by 0.1 subject distances shifts a plane there by 0.1 focal lengths."""
    footage = open_video(video)
    fit = plan_fit(footage.size, small_model.config, "crop")
    cameras = shot_cameras(Shot(parse_path("truck_right 0.1d")), footage, fit)
    [(source, warped)] = list(Warper(footage, fit, None, 4.0).pairs(cameras))
    shift = float(cameras.K[0, 0, 0, 0]) * 240 / 24 * 0.1
    rolled = source[-1, :, :, round(shift) :]
    error = (warped[-1, :, :, : rolled.shape[-1]] - rolled).abs()
    assert error.mean() < 0.02
    assert (warped[-1, :, 100, -3:] == -0.85).all()  # what the source never saw stays dark


def test_gaps_take_the_colours_around_them_dimmed():
    picture = torch.full((1, 3, 11, 13), 0.4)
    picture[..., 5:, 8:] = DARK
    out = gaps_filled(picture)
    assert (out[picture != DARK] == 0.4).all()
    torch.testing.assert_close(out[..., 5:, 8:], torch.full((1, 3, 6, 5), (0.4 + DARK) / 2))


def test_flat_depth_is_the_first_frames_plane():
    K = intrinsics_from_fov(50.0, (24, 32))
    first = Camera(torch.eye(4), K, (24, 32))
    assert torch.allclose(flat_depth(first, first, 3.0), torch.full((24, 32), 3.0))
    nearer = replace(first, c2w=parse_path("dolly_in 1").poses(1)[0].float())
    assert torch.allclose(flat_depth(nearer, first, 3.0), torch.full((24, 32), 2.0))
    behind = replace(first, c2w=parse_path("dolly_in 5").poses(1)[0].float())
    assert torch.isinf(flat_depth(behind, first, 3.0)).all()


def test_depth_files(video, small_model, tmp_path):
    footage = open_video(video)
    fit = plan_fit(footage.size, small_model.config, "crop")
    depth = np.linspace(1, 2, 45 * 80, dtype=np.float32).reshape(45, 80)
    np.save(tmp_path / "one.npy", depth)
    np.savez(tmp_path / "all.npz", depth=np.stack([depth + i for i in range(T)]), other=np.zeros(3))
    one, each = DepthFile(tmp_path / "one.npy", footage), DepthFile(tmp_path / "all.npz", footage)
    torch.testing.assert_close(each.read(3, fit), one.read(0, fit) + 3)
    assert one.read(0, fit).shape == fit.model


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.ones((T + 1, 45, 80)), rf"must hold depth \(H, W\) or \({T}, H, W\)"),
        (np.ones((45, 45)), "another aspect"),
        (np.full((45, 80), np.nan), "no depth that is positive"),
        (np.ones(5), "must hold depth"),
        (np.array([{}], dtype=object), "cannot read"),
    ],
)
def test_bad_depth_files(video, tmp_path, array, message):
    np.save(tmp_path / "d.npy", array, allow_pickle=True)
    with pytest.raises(ValueError, match=message):
        DepthFile(tmp_path / "d.npy", open_video(video))


def test_the_command(video, small_model, tmp_path, capsys):
    folder = save_model(small_model, tmp_path / "m").parent
    out = tmp_path / "o"
    arguments = ["preview", str(video), "--camera", "pan_left 80", "--model", str(folder), "--out", str(out)]
    assert cli(arguments) == 0
    printed = capsys.readouterr()
    assert printed.out.splitlines() == [str(out / "preview.mp4"), str(out / "frusta.png")]
    assert "too fast to look smooth" in printed.err
    assert len(open_video(out / "preview.mp4")) == T
    assert cli(arguments) == 2
    assert "exists already" in capsys.readouterr().err


@pytest.mark.parametrize("path", ["lens_in 2.5", "dolly_in 2.5"])
@pytest.mark.parametrize("depth", ["flat", "file"])
def test_magnified_pictures_have_no_holes(video, small_model, tmp_path, path, depth):
    footage = open_video(video)
    fit = plan_fit(footage.size, small_model.config, "crop")
    np.save(tmp_path / "d.npy", np.full((45, 80), 4.0, np.float32))
    cameras = shot_cameras(Shot(parse_path(path)), footage, fit)
    warper = Warper(footage, fit, DepthFile(tmp_path / "d.npy", footage) if depth == "file" else None, 4.0)
    [(_, warped)] = list(warper.pairs(cameras))
    assert not (warped[-1] == DARK).all(0).any()


@pytest.mark.parametrize("path", ["dolly_in 2.5", "lens_in 2.5", "orbit_right 10"])
def test_steep_depth_leaves_no_specks(video, small_model, tmp_path, path):
    """Contours of a rough near surface before a far one: whatever is dark is as wide as what was never seen."""
    footage = open_video(video)
    fit = plan_fit(footage.size, small_model.config, "crop")
    depth = 4 + 0.3 * np.random.default_rng(3).random((45, 80), np.float32)
    depth[12:33, 25:55] = 2.8 + 0.2 * np.random.default_rng(4).random((21, 30), np.float32)
    np.save(tmp_path / "d.npy", depth)
    cameras = shot_cameras(Shot(parse_path(path)), footage, fit)
    [(_, warped)] = list(Warper(footage, fit, DepthFile(tmp_path / "d.npy", footage), 4.0).pairs(cameras))
    dark = (warped[-1] == DARK).all(0).float()[None, None]
    opened = torch.nn.functional.max_pool2d(-torch.nn.functional.max_pool2d(-dark, 3, 1, 1), 3, 1, 1)
    assert int((dark - opened > 0).sum()) <= 0.002 * dark.numel()  # corners of wide gaps
    assert path != "lens_in 2.5" or not dark.any()


def test_slits_are_closed_and_wide_gaps_stay_dark():
    picture, seen = torch.full((3, 40, 60), 0.25), torch.ones(40, 60, dtype=torch.bool)
    seen[:, 20:24], seen[:, 40:49], seen[5, 3] = False, False, False
    made = closed(picture, seen, 2)
    torch.testing.assert_close(made[:, :, :40], picture[:, :, :40])
    assert (made[:, :, 40:49] == DARK).all()
    assert (made[:, :, 49:] == 0.25).all()


def test_all_presets_are_shown_on_one_sheet(video, small_model, tmp_path, capsys):
    folder = save_model(small_model, tmp_path / "m").parent
    arguments = ["preview", str(video), "--camera", "all", "--model", str(folder), "--out", str(tmp_path / "o")]
    assert cli(arguments) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'o' / 'presets.png'}\n"
    sheet = cv2.imread(str(tmp_path / "o" / "presets.png"))  # the source, then five pairs
    assert sheet.shape == (6 * (8 + 24 + 180 + 8), 2 * (3 * 320 + 2 * 4 + 2 * 8), 3)
    assert (sheet[:200, -980:] == 255).all()
    assert min(sheet[-180:-8, left : left + 300].std() for left in (10, 340, 1000, 1640)) > 5
