"""Memory and time of new views, said or refused before the model is loaded."""

from dataclasses import replace

import pytest
import torch

from mvtrack.config.backbones import UNetConfig
from mvtrack.config.placement import Placement
from mvtrack.inference.memory import check_memory, forecast
from mvtrack.inference.memory.check_memory import Memory
from mvtrack.inference.memory.inference import Work, estimate_inference, weights_bytes
from mvtrack.inference.memory.memory_tracker import MemoryCounter
from mvtrack.inference.sampler import SamplerOptions
from mvtrack.inference.views.generate import StillScene, generate_views
from mvtrack.inference.views.pipeline import views_from_photos
from mvtrack.inference.views.request import ViewsRequest
from mvtrack.models.networks import empty_network

CPU = Placement("cpu")


def counted(model, scene, size) -> int:
    """Bytes beside the weights at the peak of making the views of one batch."""
    count = model.config.views.count
    camera = scene.camera[:count, 0].resized(size)
    references = torch.nn.functional.interpolate(scene.video[:1, 0], size)
    counter = MemoryCounter()
    counter.ignore([*model.dit.parameters(), *model.codec.parameters(), *model.codec.buffers()])
    with counter:
        generate_views(model, references, camera, SamplerOptions(1), StillScene(4.0))
    return counter.peak


def test_memory_of_a_batch_is_what_is_measured(diffusers_model, rendered):
    config, size = diffusers_model.config, (64, 128)
    estimate = estimate_inference(config, size, 1, SamplerOptions(1), CPU)
    weights, _ = weights_bytes(config, torch.float32)
    assert weights == sum(4 * p.numel() for p in diffusers_model.dit.parameters())
    assert estimate.peak - weights == pytest.approx(counted(diffusers_model, rendered, size), rel=0.15)


def test_work_grows_with_batches_steps_and_guidance(diffusers_model, still_model):
    for model in (diffusers_model, still_model):
        config, size = model.config, model.config.sizes[0]
        one = estimate_inference(config, size, 1, SamplerOptions(1), CPU)
        more = estimate_inference(config, size, 1, SamplerOptions(5, camera_guidance=2.0), CPU, Work(batches=3))
        assert more.flops == pytest.approx(one.flops * 3 * 5 * 2)
        assert more.codec_flops == pytest.approx(one.codec_flops * 3)
        assert more.peak == one.peak


def test_networks_with_depth_are_counted_too(diffusers_model):
    config = replace(
        diffusers_model.config, cat3d=UNetConfig((32, 64), (1, 2), 1, 4, channels=12, depth_priors=True), hunyuan=None
    )
    assert estimate_inference(config, (32, 64), 1, SamplerOptions(1), CPU).flops > 0
    assert empty_network(config).config.depth_priors


def test_views_that_do_not_fit_are_refused_and_can_be_made_all_the_same(scene, model_folder, monkeypatch):
    monkeypatch.setattr(check_memory, "free_memory", lambda *_: Memory(1000, shared=True))
    photos, cameras = [scene / "photos"], str(scene / "cameras.json")
    request = ViewsRequest(cameras, frames=2, sample=SamplerOptions(1), placement=CPU)
    with pytest.raises(ValueError, match=r"24x32 pictures, 3 views at a time, takes about .* --ignore-memory"):
        views_from_photos(photos, "arc_left 5deg", model_folder, scene / "out", request)
    assert not (scene / "out").exists()
    made = views_from_photos(photos, "arc_left 5deg", model_folder, scene / "out", replace(request, ignore_memory=True))
    assert made.video.is_file()


def test_what_takes_long_is_said_before(scene, model_folder, monkeypatch):
    monkeypatch.setattr(forecast, "cpu_flops", lambda: 1e4)
    lines = []
    request = ViewsRequest(str(scene / "cameras.json"), frames=5, sample=SamplerOptions(1), placement=CPU)
    views_from_photos([scene / "photos"], "arc_left 5deg", model_folder, scene / "out", request, lines.append)
    assert any(line.startswith("5 views of 24x32 in 1 steps, shown at 48x64: about ") for line in lines)
