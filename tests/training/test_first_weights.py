from dataclasses import replace

import torch

from mvtrack.backbone.codec import build_codec
from mvtrack.config import DataConfig, ModelConfig, RunConfig
from mvtrack.data.loader import BatchDataset
from mvtrack.encoder_config import CodecConfig
from mvtrack.training.run import _first_weights


def test_a_codec_with_weights_of_its_own_is_not_fitted():
    """Nothing is read from the bank, and the VAE's weights are not needed yet."""
    codec = CodecConfig(kind="wan_vae", channels=16, stride=8, weights="nowhere")
    model = ModelConfig(codec=codec)
    small = replace(model.dit, dim=24, ffn_dim=28, num_heads=2, num_layers=1, text_dim=7, freq_dim=10)
    config = RunConfig(model=replace(model, dit=small, tap_layer=0), data=DataConfig())
    unread = object.__new__(BatchDataset)
    weights = dict(_first_weights(config, None, build_codec(codec), unread))
    assert weights["head.modulation"].shape == torch.Size([1, 2, 24])
