"""MV-TAP's released weights under this package's names: every tensor is accounted for, or it is an error."""

import re
from collections.abc import Mapping

import torch
from einops import rearrange
from torch import Tensor

from tracking_head.encodings import time_embedding
from tracking_head.mvtap import MVTAP, MVTAPConfig

_TIME = "time_emb"  # a constant that is stored with the weights
_VIRTUAL = "head.transformer.virtual_tracks"
_PREFIX = "model."  # of training's files
_BLOCKS = {
    "time": "time_blocks",
    "view": "view_blocks",
    "virtual_from_points": "space_virtual2point_blocks",
    "virtual_self": "space_virtual_blocks",
    "points_from_virtual": "space_point2virtual_blocks",
}
_CROSS = ("virtual_from_points", "points_from_virtual")
_PARTS = {
    "attention.query": "to_q",
    "attention.key_value": "to_kv",
    "attention.out": "to_out",
    "mlp.0": "mlp.fc1",
    "mlp.2": "mlp.fc2",
    "context_norm": "norm_context",
}
_MODULES = {
    "head.correlation_mlp.0": "corr_mlp.fc1",
    "head.correlation_mlp.2": "corr_mlp.fc2",
    "head.transformer.embed": "updateformer.input_transform",
    "head.transformer.to_shift": "updateformer.flow_head",
    "head.transformer.to_logits": "updateformer.vis_conf_head",
    "head.camera_embed": "cam_proj",
    "head.camera_norm": "cam_norm",
    "encoder.stem": "fnet.conv1",
    "encoder.merge": "fnet.conv2",
    "encoder.project": "fnet.conv3",
}


def released_name(name: str) -> str:
    """What one of `MVTAP`'s tensors is called in the released file."""
    if name == _VIRTUAL:
        return "updateformer.virual_tracks"
    stem, kind = name.rsplit(".", 1)
    if stem in _MODULES:
        return f"{_MODULES[stem]}.{kind}"
    if found := re.fullmatch(r"encoder\.stages\.(\d)\.(\d)\.(\w+)", stem):
        stage, number, part = found.groups()
        return f"fnet.layer{int(stage) + 1}.{number}.{'downsample.0' if part == 'shortcut' else part}.{kind}"
    layer, block, part = stem.removeprefix("head.transformer.layers.").split(".", 2)
    within = "" if not part.startswith("attention") else "cross_attn." if block in _CROSS else "attn."
    return f"updateformer.{_BLOCKS[block]}.{layer}.{within}{_PARTS[part]}.{kind}"


def load_released(state: Mapping[str, Tensor], config: MVTAPConfig | None = None, where: str = "the file") -> MVTAP:
    """MV-TAP with released weights, in float32 and ready for use.

    state: the `state_dict` of the authors' file, whose names have a prefix, or one without it. Raises ValueError that
    shows the first names and shapes that differ.
    """
    if state and all(name.startswith(_PREFIX) for name in state):
        state = {name.removeprefix(_PREFIX): value for name, value in state.items()}
    with torch.device("meta"):
        model = MVTAP(config)
    own = {released_name(name): name for name in model.state_dict()}
    shapes = {name: _released_shape(name, value) for name, value in model.state_dict().items()}
    length, width = model.config.head.time_length or model.config.window, model.config.head.token_dim
    expected = {name: shapes[mine] for name, mine in own.items()} | {_TIME: (1, length, width)}
    found = {name: tuple(value.shape) for name, value in state.items()}
    problems = [f"{name} is missing" for name in expected if name not in found]
    problems += [f"{name} is unknown" for name in found if name not in expected]
    problems += [
        f"{name} is {found[name]}, expected {shape}"
        for name, shape in expected.items()
        if name in found and found[name] != shape
    ]
    if not problems and not torch.allclose(state[_TIME][0].float().cpu(), time_embedding(length, width), atol=1e-5):
        problems = [f"{_TIME} holds other values than sines and cosines"]
    if problems:
        raise ValueError(f"{where} does not hold MV-TAP's weights: {'; '.join(problems[:3])} ({len(problems)} differ)")
    weights = {mine: _own_layout(mine, state[name].detach().float()) for name, mine in own.items()}
    model.load_state_dict(weights, assign=True)
    return model.requires_grad_(False).eval()


def _released_shape(name: str, value: Tensor) -> tuple[int, ...]:
    shape = tuple(value.shape)
    return (1, shape[0], 1, shape[1]) if name == _VIRTUAL else shape


def _own_layout(name: str, value: Tensor) -> Tensor:
    if name == _VIRTUAL:
        return rearrange(value, "1 k 1 d -> k d")
    if name == "head.correlation_mlp.0.weight":  # offsets are counted column by column there
        side = round(value.shape[1] ** 0.25)
        sides = {"kx": side, "ky": side, "qx": side, "qy": side}
        return rearrange(value, "o (kx ky qx qy) -> o (ky kx qy qx)", **sides)
    return value
