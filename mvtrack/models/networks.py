"""The network that a model's config names."""

from dataclasses import replace

import torch

from mvtrack.config.model import ModelConfig
from mvtrack.models.cat3d_unet import CAT3DUNet
from mvtrack.models.dit import WanDiT
from mvtrack.models.feature_projector import FeatureProjector
from mvtrack.models.hunyuan_views import HunyuanViews
from mvtrack.models.view_attention import DiffusersBackbone

Network = WanDiT | DiffusersBackbone


def build_network(config: ModelConfig) -> Network:
    """With parameters of the current default device, to be filled. Raises ValueError where diffusers is missing."""
    if config.cat3d:
        network = CAT3DUNet(replace(config.cat3d, logit_heads=config.logit_heads))
    elif config.hunyuan:
        network = HunyuanViews(replace(config.hunyuan, logit_heads=config.logit_heads))
    else:
        return WanDiT(config.dit, config.rays, config.tracking, config.logit_heads, config.feature_projector)
    if config.feature_projector:
        width = config.backbone.layer_width(config.feature_projector.layer)
        network.feature_projector = FeatureProjector(width, config.feature_projector)
    return network


def empty_network(config: ModelConfig) -> Network:
    """Without storage (meta tensors)."""
    with torch.device("meta"):
        return build_network(config)
