import numpy as np
import pytest
import torch

from mvtrack.geometry.camera import Camera
from mvtrack.inference.full_resolution import plan as planning
from mvtrack.inference.full_resolution.geometry import FileGeometry, affine_fit
from mvtrack.inference.full_resolution.monocular import load_estimator
from mvtrack.inference.full_resolution.region import MAX_PIXELS, plan_region
from mvtrack.models.diffsynth_parts import declare_torchvision_operators
from mvtrack.video.reader import open_video
from mvtrack.video.resize import fit_to, still_camera
from mvtrack.video.writer import from_bytes, write_video
from tests.inference.full_resolution.conftest import H, T, W


@pytest.fixture(scope="module")
def film(tmp_path_factory, frames):
    return open_video(write_video(tmp_path_factory.mktemp("film") / "film.mp4", from_bytes(frames), 24))


def chosen(depth, refiner, film, distance=4.0):
    region = plan_region(fit_to((H, W), (34, 46)), "source")
    return planning.choose_geometry(depth, refiner, region, film, distance, motion_known=False)


@pytest.mark.parametrize(
    ("values", "reason"),
    [(-4.0, "change the sign"), (4000.0, "must be in one unit"), (np.nan, "no depth that is positive")],
)
def test_depth_of_another_unit_or_sign_is_refused(tmp_path, refiner, film, values, reason):
    maps = np.full((T, H, W), values, np.float32)
    maps[:, 0, 0] = 4.0 if np.isfinite(values) else values
    np.save(tmp_path / "depth.npy", maps)
    with pytest.raises(ValueError, match=reason):
        chosen(tmp_path / "depth.npy", refiner, film)


def test_depth_of_another_size_is_refused_and_a_right_one_is_read(tmp_path, refiner, film):
    np.save(tmp_path / "wrong.npy", np.ones((T + 1, H, W), np.float32))
    with pytest.raises(ValueError, match="one map a frame"):
        chosen(tmp_path / "wrong.npy", refiner, film)
    np.save(tmp_path / "half.npy", np.full((T, H // 2, W // 2), 2.0, np.float32))
    geometry = chosen(tmp_path / "half.npy", refiner, film)
    assert isinstance(geometry, FileGeometry)
    assert geometry.measured
    assert (geometry.read(3) == 2.0).all()


def test_missing_depth_network_names_the_command_that_brings_it(monkeypatch):
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("the network was asked"))
    with pytest.raises(ValueError, match="hf download some/where"):
        load_estimator("some/where")


def test_depth_network_runs_from_a_folder(tmp_path, refiner, film):
    """Wiring only: a tiny network with random weights."""
    declare_torchvision_operators()
    transformers = pytest.importorskip("transformers")
    network = transformers.DepthAnythingForDepthEstimation
    backbone = transformers.Dinov2Config(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=56, patch_size=14,
        out_features=["stage1", "stage2"], reshape_hidden_states=False, apply_layernorm=True,
    )  # fmt: skip
    config = transformers.DepthAnythingConfig(
        backbone_config=backbone, reassemble_hidden_size=16, neck_hidden_sizes=[8, 8], reassemble_factors=[2, 1],
        fusion_hidden_size=8, head_hidden_size=8, patch_size=14,
    )  # fmt: skip
    network(config).save_pretrained(tmp_path)
    estimate = load_estimator(str(tmp_path))
    depth = estimate(torch.randint(0, 255, (3, H, W), dtype=torch.uint8))
    assert depth.ndim == 2
    assert depth.isfinite().all()
    geometry = chosen(str(tmp_path), refiner, film)
    assert str(tmp_path) in geometry.name
    assert not geometry.measured


def test_affine_fit_ignores_outliers():
    x = torch.linspace(0, 1, 101)
    y = 2 * x + 0.3
    y[::10] = 9.0
    scale, shift = affine_fit(x, y, torch.ones(101))
    assert float(scale) == pytest.approx(2.0, abs=0.05)
    assert float(shift) == pytest.approx(0.3, abs=0.05)


def test_result_larger_than_memory_is_refused_with_numbers(monkeypatch):
    monkeypatch.setattr(planning, "free_gib", lambda device: 0.001)
    with pytest.raises(ValueError, match=r"takes \d+\.\d GiB, 0\.0 GiB are free"):
        planning.refuse_too_large(plan_region(fit_to((720, 1280), (64, 112)), "source"))


@pytest.mark.parametrize("source", [(720, 1280), (1280, 720), (64, 64), (4320, 7680), (101, 67)])
def test_region_shows_all_of_a_source_of_nearly_the_models_aspect(source):
    small = (64, 112) if source[1] > source[0] else (112, 64) if source[0] > source[1] else (64, 64)
    region = plan_region(fit_to(source, small), "source")
    assert region.box == (0, 0, *source) or source == (101, 67)
    assert region.size[0] * region.size[1] <= MAX_PIXELS * 1.001


def test_region_cameras_are_the_sources():
    fit = fit_to((72, 128), (32, 56))
    source = still_camera(50.0, (72, 128), T)
    cameras = fit.camera(Camera.stack([source, source]))
    region = plan_region(fit, "source")
    torch.testing.assert_close(region.camera(cameras).K[0], source.K, atol=1e-3, rtol=1e-5)
    chosen_size = plan_region(fit, (36, 36))
    assert chosen_size.box[2] == chosen_size.box[3] == 72
    assert plan_region(fit, "model") is None
    with pytest.raises(ValueError, match="16 to 8192"):
        plan_region(fit, (9000, 16))


def test_a_size_of_another_aspect_says_what_it_cuts_off():
    for source, asked, said in (
        ((1920, 1080), (720, 1280), "68 % of the picture is cut off above and below; --resolution 1280x720, or source"),
        ((40, 1600), (16, 16), "98 % of the picture is cut off left and right; --resolution 16x640, or source"),
        ((1080, 1920), (720, 1280), None),
    ):
        notes = list(planning.region_notes(plan_region(fit_to(source, (64, 112), "pad"), asked), asked))
        assert len(notes) == (said is not None)
        assert said is None or said in notes[0]
