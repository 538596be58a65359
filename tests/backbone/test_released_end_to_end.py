"""From files as releases have them to a video: transformer, VAE, text encoder and tokenizer, all tiny."""

import importlib.util

import pytest
import torch
import yaml

from mvtrack.backbone.model import build_model, load_model
from mvtrack.backbone.prompts import make_prompts
from mvtrack.camera import Camera, intrinsics_from_fov
from mvtrack.config import CodecConfig, DiTConfig, ModelConfig, RayConfig, TextConfig
from mvtrack.config_tree import to_tree
from mvtrack.convert import main as convert
from mvtrack.generate import SampleConfig, generate

pytestmark = pytest.mark.skipif(not importlib.util.find_spec("diffsynth"), reason="diffsynth is not installed")
T, H, W = 5, 32, 48


def test_a_converted_model_makes_a_video(umt5, wan_vae_file, tmp_path, monkeypatch):
    monkeypatch.setenv("MVTRACK_CACHE", str(tmp_path / "cache"))
    config = ModelConfig(
        dit=DiTConfig(dim=24, ffn_dim=28, num_heads=2, num_layers=2, text_dim=12, freq_dim=10),
        rays=RayConfig(token_px=16, stride=8),
        codec=CodecConfig(kind="wan_vae", channels=16, stride=8, weights=str(wan_vae_file)),
        text=TextConfig(weights=str(umt5), length=7),
        tap_layer=1,
        sizes=((H, W),),
        num_frames=T,
    )
    made = build_model(config, seed=3).dit.state_dict()
    released = {k: v for k, v in made.items() if not k.startswith("ray_encoder.") and ".camera_proj." not in k}
    torch.save(released, tmp_path / "step20000.ckpt")
    tree = {"model": to_tree(config), "data": {"num_frames": T, "banks": [{"size": [H, W], "num_frames": T}]}}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(tree))
    assert convert([str(tmp_path), str(tmp_path / "model"), "--config", str(tmp_path / "run.yaml")]) == 0

    model = load_model(tmp_path / "model")
    reference = torch.rand(T, 3, H, W, generator=torch.Generator().manual_seed(1)) * 2 - 1
    camera = Camera(torch.eye(4).expand(2, T, 4, 4), intrinsics_from_fov(60.0, (H, W)).expand(2, T, 3, 3), (H, W))

    def video(caption: str, guidance: float) -> torch.Tensor:
        told = make_prompts(model.config, reference[0], caption, guidance=guidance)
        sample = SampleConfig(steps=2, guidance=guidance)
        return generate(model, reference, camera, sample, scene_depth=4.0, prompts=told)

    first = video("a red ball", 5.0)
    assert first.shape == reference.shape
    assert first.isfinite().all()
    assert torch.equal(video("a red ball", 5.0), first)
    assert not torch.equal(video("down the hill", 5.0), first)
    assert not torch.equal(video("a red ball", 1.0), first)
    empty = generate(model, reference, camera, SampleConfig(steps=2), scene_depth=4.0)
    assert torch.equal(video("", 1.0), empty)
    unguided = make_prompts(model.config, reference[0], "a red ball")
    with pytest.raises(ValueError, match="guidance needs the features of two captions"):
        generate(model, reference, camera, SampleConfig(2, guidance=5.0), scene_depth=4.0, prompts=unguided)
