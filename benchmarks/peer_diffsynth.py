"""DiffSynth's Wan transformer, imported only when a benchmark compares with it."""

import importlib.util

from torch import Tensor, nn

from mvtrack.config.model import DiTConfig
from mvtrack.models.diffsynth_parts import declare_torchvision_operators


def why_missing() -> str | None:
    """The reason why DiffSynth cannot be used here, or None."""
    if importlib.util.find_spec("diffsynth") is None:
        return "diffsynth is not installed: pip install -e '.[wan]'"
    declare_torchvision_operators()
    try:
        importlib.import_module("diffsynth.models.wan_video_dit")
    except (ImportError, RuntimeError) as error:
        return f"diffsynth does not import here ({str(error).splitlines()[0]})"
    return None


def build(config: DiTConfig) -> nn.Module:
    """Its transformer of the same sizes. On the device that is the default; the RoPE tables stay on the CPU."""
    from diffsynth.models.wan_video_dit import WanModel

    return WanModel(
        dim=config.dim, in_dim=config.in_channels, ffn_dim=config.ffn_dim, out_dim=config.out_channels,
        text_dim=config.text_dim, freq_dim=config.freq_dim, eps=config.eps, patch_size=config.patch_size,
        num_heads=config.num_heads, num_layers=config.num_layers, has_image_input=False,
    ).eval()  # fmt: skip


def forward(dit: nn.Module, latents: Tensor, timestep: Tensor, text: Tensor, checkpointing: bool = False) -> Tensor:
    """latents: (B, c, f, h, w), frames of all views one after the other."""
    from diffsynth.pipelines.wan_video import model_fn_wan_video

    return model_fn_wan_video(
        dit, latents=latents, timestep=timestep, context=text, use_gradient_checkpointing=checkpointing
    )
