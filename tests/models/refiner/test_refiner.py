import pytest
import torch

from mvtrack.geometry.camera import Camera
from mvtrack.inference.full_resolution.plan import shipped_refiner
from mvtrack.models.refiner.cost_volume import CHANNELS, FAR, NEAR, PLANES, ViewPair, cost_volume
from mvtrack.models.refiner.files import FILE, Refiner, load_refiner, save_refiner
from mvtrack.models.refiner.source_depth import convex_upsampled, expected_inverse_depth
from mvtrack.video.resize import still_camera


def pair(shift: float, size=(22, 26), frames: int = 3) -> ViewPair:
    """A plane at the subject's distance: the result shows the source's picture moved by whole pixels."""
    generator = torch.Generator().manual_seed(0)
    source = torch.rand(frames, 3, *size, generator=generator) * 2 - 1
    still = still_camera(60.0, size, frames)
    pixels = round(shift * float(still.K[0, 0, 0]))
    moved = still.c2w.clone()
    moved[:, 0, 3] = pixels / float(still.K[0, 0, 0])
    camera = Camera(torch.stack([still.c2w, moved]), torch.stack([still.K, still.K]), size)
    return ViewPair(source, source.roll(-pixels, -1), camera)


def test_cost_is_least_on_the_true_plane():
    volume = cost_volume(pair(0.2), torch.tensor([1]))
    assert volume.shape == (1, CHANNELS, 22, 26)
    best = volume[0, :PLANES, 5:-5, 8:-8].mean((1, 2)).argmin()
    assert FAR + float(best) * (NEAR - FAR) / (PLANES - 1) == pytest.approx(1.0, abs=0.06)


def test_cost_without_result_or_other_moments_says_nothing():
    views = pair(0.2)
    volume = cost_volume(ViewPair(views.source, None, views.camera), torch.tensor([0, 1]), offsets=())
    assert (volume[:, : 3 * PLANES] == 0.3).all()
    assert (volume[:, 3 * PLANES :] == 0).all()


def test_expected_inverse_depth_lies_on_the_certain_plane_and_enlarging_keeps_constants():
    logits = torch.zeros(1, PLANES, 3, 5)
    logits[:, 17] = 50
    mean, mass = expected_inverse_depth(logits)[0]
    torch.testing.assert_close(mean, torch.full((3, 5), FAR + 17 * (NEAR - FAR) / (PLANES - 1)))
    assert (mass > 0.99).all()
    large = convex_upsampled(torch.full((1, 2, 3, 5), 0.7), torch.randn(1, 36, 3, 5))
    torch.testing.assert_close(large, torch.full((1, 2, 6, 10), 0.7))


def test_refiner_survives_its_file(tmp_path):
    torch.manual_seed(0)
    refiner = Refiner((8, 8, 8, 8), (8, 8, 8))
    loaded = load_refiner(save_refiner(refiner, tmp_path).parent)
    for (name, a), b in zip(refiner.named_parameters(), loaded.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-3, rtol=1e-3, msg=name)
    assert not any(p.requires_grad for p in loaded.parameters())


@pytest.mark.parametrize("content", [b"", b"not weights"])
def test_other_files_are_refused(tmp_path, content):
    (tmp_path / FILE).write_bytes(content)
    with pytest.raises(ValueError, match=FILE):
        load_refiner(tmp_path)
    with pytest.raises(ValueError, match="train-refiner"):
        load_refiner(tmp_path / "nowhere")


def test_shipped_refiner_is_small_and_loads():
    assert (shipped_refiner() / FILE).stat().st_size <= 4_000_000
    assert load_refiner(shipped_refiner()).settings["blend"]
