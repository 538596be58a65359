"""The released models that this project builds on, as configs: `preset("redirector_1.3b")`.

A preset is the released architecture plus this project's rays of both views. `new_parameters` names what a released
file does not hold; everything else must be in it, name by name and shape by shape.
"""

import difflib
from dataclasses import replace
from fnmatch import fnmatchcase

from mvtrack.config.encoders import WAN_REPOSITORY, CodecConfig, ImageConfig, TextConfig
from mvtrack.config.model import DiTConfig, FlowConfig, ModelConfig, NativeCameraConfig, RayConfig, SamplingConfig

WAN_1_3B = DiTConfig()
WAN_14B = DiTConfig(dim=5120, ffn_dim=13824, num_heads=40, num_layers=40)
RECAMMASTER_1_3B = replace(WAN_1_3B, rope_frames="concat", pose_encoder=True, projector=True)
# ReDirector's base, Wan2.1-Fun-V1.1-1.3B-Control-Camera; its own weights add the phases
FUN_CAMERA_1_3B = replace(WAN_1_3B, rope_frames="shared", in_channels=32, control_adapter=True, image_dim=1280)
REDIRECTOR_1_3B = replace(FUN_CAMERA_1_3B, rope_phases=True)

# What this project adds to a released model; it starts at zero effect.
OURS = ("ray_encoder.*", "blocks.*.camera_proj.*", "tracking_head.*", "logit_heads.*")


def _released(dit: DiTConfig, native_camera: NativeCameraConfig | None = None) -> ModelConfig:
    """480x832, 81 frames, VAE of stride 8 with 16 channels; tap at 0.6 of the depth (18 of 30, method §3).

    Sampled as the authors of all three do: 50 steps, guidance 5, shift 5, bfloat16 weights.
    """
    return ModelConfig(
        dit=dit,
        rays=RayConfig(token_px=16, stride=4, scale="median_depth", proj_init="zero"),
        native_camera=native_camera or NativeCameraConfig(),
        codec=CodecConfig(kind="wan_vae", channels=16, stride=8, weights=WAN_REPOSITORY),
        text=TextConfig(),
        image=ImageConfig() if dit.image_dim else None,
        flow=FlowConfig(shift=5.0, prediction="velocity", weighting="wan"),
        sampling=SamplingConfig(steps=50, guidance=5.0, precision="bfloat16"),
        tap_layer=dit.num_layers * 3 // 5,
    )


# As their authors sample: ReCamMaster gives every token the target's pose, ReDirector maps of both views, and both
# start each path at its own first frame. Training, theirs and ours, is relative to the reference's first frame:
# `training_preset`.
PRESETS = {
    "wan2.1_t2v_1.3b": _released(WAN_1_3B),
    "wan2.1_t2v_14b": _released(WAN_14B),
    "recammaster_1.3b": _released(RECAMMASTER_1_3B, NativeCameraConfig(origin="own", pose_view="target")),
    "redirector_1.3b": _released(REDIRECTOR_1_3B, NativeCameraConfig(origin="own", map_order="moment_first")),
}


def preset(name: str) -> ModelConfig:
    """A released model's config, cameras as its authors use them for sampling. Raises ValueError for other names."""
    if name not in PRESETS:
        close = difflib.get_close_matches(name, PRESETS, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"no preset {name!r}{hint} Known: {', '.join(PRESETS)}")
    return PRESETS[name]


def training_preset(name: str) -> ModelConfig:
    """The same with all poses relative to the reference's first frame, as in its authors' training and in ours."""
    config = preset(name)
    return replace(config, native_camera=replace(config.native_camera, origin="reference"))


def is_new_parameter(name: str) -> bool:
    """Whether a parameter is this project's own and may be missing from a released file."""
    return any(fnmatchcase(name, pattern) for pattern in OURS)
