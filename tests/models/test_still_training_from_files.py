"""The full-size recipes of still views at reduced size, through the real commands: prepare, train, load."""

import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from mvtrack.cli.main import main as cli
from mvtrack.config.run import RunConfig, load_config
from mvtrack.config.tree import to_tree
from mvtrack.data.latents import LatentFolder
from mvtrack.models.reshoot_model import build_model, load_model, save_model
from mvtrack.models.sd_vae import empty_autoencoder
from tests.trained_by_command import last_metrics

ROOT = Path(__file__).parents[2]
SIZE = (64, 96)
VAE = {
    "block_out_channels": (4, 8, 8, 8), "layers_per_block": 1, "latent_channels": 4, "norm_num_groups": 4,
    "down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4,
}  # fmt: skip
SMALL = {
    "cat3d": {"block_channels": (8, 16, 16), "num_heads": (1, 2, 2), "layers_per_block": 1, "norm_groups": 4},
    "hunyuan": {"num_layers": 4, "num_heads": 2, "head_dim": 8, "text_dims": (5, 8), "text_lengths": (2, 3),
                "pooled_dim": 6, "rope_base": 4},
    "dit": {"dim": 24, "ffn_dim": 28, "num_heads": 2, "num_layers": 4, "text_dim": 12, "freq_dim": 10},
}  # fmt: skip


def reduced(run: RunConfig, kind: str, vae: Path, umt5: Path, tmp_path: Path) -> RunConfig:
    """A shipped config with a tiny network and tiny encoders; everything else is its own."""
    model = run.model
    backbone = replace(getattr(model, kind), **SMALL[kind])
    codec = replace(model.codec, weights=str(vae))
    if codec.kind == "sd_vae":
        codec = replace(codec, scaling=0.18215)
    text = model.text and replace(model.text, weights=str(umt5), length=7)
    model = replace(
        model, **{kind: backbone}, codec=codec, text=text, tap_layer=3, logit_heads=(3,), sizes=(SIZE,)
    )  # fmt: skip
    latents = replace(run.data.latents[0], root=str(tmp_path / "latents"), size=SIZE, held_out=1, points=None)
    train = replace(
        run.train, steps=3, batch_size=2, micro_batch_size=1, compile=False, log_every=1, save_every=2,
        validate_every=3, validate_clips=1, keep_every=None, init_from=str(tmp_path / "start"),
        run_dir=str(tmp_path / "run"),
    )  # fmt: skip
    return replace(run, model=model, data=replace(run.data, latents=(latents,), workers=0), train=train)


@pytest.mark.slow
@pytest.mark.parametrize("kind", SMALL)
def test_recipe_trains_at_reduced_size(kind, umt5, wan_vae_file, tmp_path, monkeypatch, capsys):
    if kind == "dit" and not importlib.util.find_spec("diffsynth"):
        pytest.skip("diffsynth is not installed")
    monkeypatch.setenv("MVTRACK_CACHE", str(tmp_path / "cache"))
    torch.manual_seed(5)
    empty_autoencoder("sd_vae", VAE).save_pretrained(tmp_path / "pipeline/vae")
    name = {"dit": "cameo_wan"}.get(kind, f"cameo_{kind}")
    vae = wan_vae_file if kind == "dit" else tmp_path / "pipeline"
    run = reduced(load_config(ROOT / f"configs/{name}.yaml"), kind, vae, umt5, tmp_path)
    save_model(build_model(replace(run.model, logit_heads=()), seed=5), tmp_path / "start")
    config = tmp_path / "run.yaml"
    config.write_text(yaml.safe_dump(to_tree(run)))
    assert cli(["prepare", "--rendered", "3", "--config", str(config)]) == 0, capsys.readouterr().err
    folder = LatentFolder(run.data.latents[0], 1)
    clip = folder.clip("rendered_000000", [0, 3, 5, 6])
    assert clip.latents.shape == (4, 1, run.model.codec.channels, 8, 12)
    assert clip.domain == ("re10k" if kind == "cat3d" else "rendered")
    last = last_metrics(config)
    assert last["step"] == 3
    denoising = "flow" if kind == "dit" else "diffusion"
    assert all(last[f"loss/{part}"] > 0 for part in (denoising, "correspondence"))
    assert last["validation/psnr_db"] > 0
    assert last["validation/alignment_error"] > 0
    assert load_model(tmp_path / "run/model").config == run.model
