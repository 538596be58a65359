from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mvtrack.config.data import DataConfig
from mvtrack.config.encoders import CodecConfig
from mvtrack.config.model import DiTConfig, ModelConfig
from mvtrack.config.run import RunConfig
from mvtrack.config.training import TrainConfig
from mvtrack.data.loader import BatchDataset
from mvtrack.models.pca_codec import build_codec
from mvtrack.models.reshoot_model import build_model, save_model
from mvtrack.training.run import _first_weights


def small_wan(weights: str) -> ModelConfig:
    codec = CodecConfig(kind="wan_vae", channels=16, stride=8, weights=weights)
    dit = DiTConfig(dim=24, ffn_dim=28, num_heads=2, num_layers=1, text_dim=7, freq_dim=10)
    return ModelConfig(dit=dit, codec=codec, tap_layer=0)


def started(model: ModelConfig, start: Path) -> dict:
    config = RunConfig(model=model, train=TrainConfig(init_from=str(start)))
    return dict(_first_weights(config, None, build_codec(model.codec), object.__new__(BatchDataset)))


def test_initial_model_may_move_vae_not_change_kind(tmp_path):
    start = small_wan("Wan-AI/Wan2.1-T2V-1.3B")
    made = build_model(start)
    save_model(made, tmp_path)
    weights = started(small_wan("/local/Wan2.1_VAE.pth"), tmp_path)
    assert torch.equal(weights["head.modulation"], made.dit.head.modulation)
    tiled = replace(start, codec=replace(start.codec, tile=(30, 52)))
    pca = replace(start, codec=CodecConfig(channels=16, stride=8))
    for other in (tiled, pca, replace(start, dit=replace(start.dit, ffn_dim=32))):
        with pytest.raises(ValueError, match="holds another architecture than model and model.codec"):
            started(other, tmp_path)


def test_a_start_may_attend_otherwise(tmp_path):
    """Full attention becomes factorised, or the reference's its own, in fine-tuning: the parameters are the same."""
    start = small_wan("nowhere")
    save_model(build_model(start), tmp_path)
    depth = start.dit.num_layers
    dit = replace(start.dit, attention="factorised", full_attention_blocks=depth, reference_attention="own")
    assert started(replace(start, dit=dit), tmp_path).keys() == started(start, tmp_path).keys()


def test_pretrained_codec_is_not_fitted():
    """Nothing is read from the bank, and the VAE's weights are not needed yet."""
    config = RunConfig(model=small_wan("nowhere"), data=DataConfig())
    unread = object.__new__(BatchDataset)
    weights = dict(_first_weights(config, None, build_codec(config.model.codec), unread))
    assert weights["head.modulation"].shape == torch.Size([1, 2, 24])
