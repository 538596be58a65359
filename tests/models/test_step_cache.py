from dataclasses import replace

import pytest
import torch

from mvtrack.geometry.camera import Camera, intrinsics_from_fov
from mvtrack.geometry.trajectory import CameraPath
from mvtrack.inference.calibration import calibrated, observed_scene, write_calibrated
from mvtrack.inference.sampler import SamplerOptions, generate
from mvtrack.models.conditioning import Window
from mvtrack.models.reshoot_model import load_model, save_model
from mvtrack.models.step_cache import Pass, StepCache, evaluate, relative_change


def window(model) -> tuple[torch.Tensor, Window]:
    size, frames = model.config.sizes[0], model.config.num_frames
    poses = torch.stack([torch.eye(4).expand(frames, 4, 4), CameraPath("arc_left").poses(frames).float()])
    camera = Camera(poses, intrinsics_from_fov(50.0, size).expand(2, frames, 3, 3), size)
    video = torch.rand(frames, 3, *size, generator=torch.Generator().manual_seed(3)) * 2 - 1
    return video, Window(camera, 4.0)


class Counted:
    """How often the first block runs."""

    def __init__(self, model, monkeypatch) -> None:
        self.runs, block = 0, model.dit.blocks[0]
        forward = block.forward

        def counted(*arguments, **options):
            self.runs += 1
            return forward(*arguments, **options)

        monkeypatch.setattr(block, "forward", counted)


def test_a_cache_that_never_waits_changes_nothing(small_model, monkeypatch):
    reference, shot = window(small_model)
    plain = generate(small_model, reference, shot, SamplerOptions(5))
    counted = Counted(small_model, monkeypatch)
    assert torch.equal(generate(small_model, reference, shot, SamplerOptions(5, cache=1e-12)), plain)
    assert counted.runs == 5
    assert small_model.dit.step_cache is None


def test_blocks_rest_while_little_changes(small_model, monkeypatch):
    reference, shot = window(small_model)
    plain = generate(small_model, reference, shot, SamplerOptions(20))
    counted, errors = Counted(small_model, monkeypatch), []
    for threshold in (0.005, 0.02):
        counted.runs = 0
        made = generate(small_model, reference, shot, SamplerOptions(20, cache=threshold))
        assert 2 < counted.runs < 20
        errors.append(((made - plain).abs().mean().item(), -counted.runs))
    assert errors == sorted(errors)  # fewer runs, larger difference
    assert 0 < errors[0][0] < 0.05


def test_resting_adds_what_was_added_last(small_model):
    reference, shot = window(small_model)
    cache = StepCache(0.0, 9)
    x, time = torch.randn(2, 11, 8), torch.randn(2, 6, 8)
    added, other = torch.randn(2, 2, 11, 8)
    for key, kept in ((1, added), (2, other)):  # the two predictions of a guided step
        cache.branch(key)
        assert cache.reuse(x, time) is None
        cache.keep(kept)
    cache.threshold = 0.5
    for key, kept in ((1, added), (2, other)):
        cache.branch(key)
        assert cache.reuse(x * (1 + 1e-3), time) is kept
    cache.branch(1)
    assert cache.reuse(torch.randn(2, 11, 8), time) is None  # another input
    cache.branch(2)
    assert cache.reuse(x, time) is other
    assert (cache.asked, cache.reused) == (6, 3)


def test_first_and_last_steps_always_run():
    cache, x, time = StepCache(1e9, 5), torch.randn(1, 7, 4), torch.zeros(1, 6, 4)
    ran = []
    for step in range(5):
        cache.branch(0)
        if cache.reuse(x + 1e-3 * step * torch.randn(1, 7, 4), time) is None:
            cache.keep(x)
            ran.append(step)
    assert ran == [0, 4]


def test_a_cache_that_would_hardly_ever_run_is_refused(small_model):
    reference, shot = window(small_model)
    with pytest.raises(ValueError, match=r"step cache at 1e\+06 the network rests for 7 of 18 steps in a row: lower"):
        generate(small_model, reference, shot, SamplerOptions(18, cache=1e6))
    assert small_model.dit.step_cache is None


@pytest.mark.parametrize("steps", [1, 2])
def test_a_cache_that_could_never_reuse_is_refused(steps):
    with pytest.raises(ValueError, match=f"does nothing in {steps} steps"):
        SamplerOptions(steps, cache=0.1)


def test_the_networks_of_diffusers_have_no_step_cache():
    from mvtrack.config.run import load_config

    config = load_config("configs/cameo_cat3d_tiny.yaml").model
    with pytest.raises(ValueError, match="step cache is for WanDiT, this model's network is diffusers'"):
        SamplerOptions.of(config, cache=0.1)


def test_a_fit_foretells_the_outputs_change(small_model, tmp_path):
    scenes = [observed_scene(small_model, number, SamplerOptions(6)) for number in range(2)]
    assert [len(scene) for scene in scenes] == [5, 5]  # the first step has none before it
    assert all(one.input > 0 and one.output > 0 for scene in scenes for one in scene)
    law = [[Pass(x, 2 * x**2 + 0.1) for x in xs] for xs in ((0.1, 0.3, 0.7, 0.2), (0.5, 0.4, 0.9, 0.6))]
    found = calibrated(law)
    assert found.error < 1e-6
    assert evaluate(found.fit, 0.35) == pytest.approx(2 * 0.35**2 + 0.1, abs=1e-6)
    assert list(found.shares.values()) == sorted(found.shares.values(), reverse=True)
    with pytest.raises(ValueError, match="two scenes or more"):
        calibrated(law[:1])
    save_model(small_model, tmp_path / "model")
    write_calibrated(tmp_path / "model", found.fit, tmp_path / "fitted")
    again = load_model(tmp_path / "fitted")
    assert again.config == replace(
        small_model.config, sampling=replace(small_model.config.sampling, cache_fit=found.fit)
    )
    assert all(torch.equal(a, b) for a, b in zip(again.dit.parameters(), small_model.dit.parameters(), strict=True))
    with pytest.raises(ValueError, match="is there already: choose another folder"):
        write_calibrated(tmp_path / "model", found.fit, tmp_path / "fitted")


def test_relative_changes_are_by_mean_of_absolute_values():
    before = torch.tensor([1.0, -3.0])
    assert relative_change(torch.tensor([2.0, -3.0]), before) == pytest.approx(0.25)
