"""The head's blocks, tokens and iterations against MV-TAP's own numbers."""

import re

import numpy as np
import pytest
import torch
from einops import rearrange

from tracking_head import CorrelationConfig, HeadConfig, TrackingHead
from tracking_head.correlation import prepare
from tracking_head.encodings import time_embedding

_BLOCKS = {
    "time_blocks": "time",
    "view_blocks": "view",
    "space_virtual2point_blocks": "virtual_from_points",
    "space_virtual_blocks": "virtual_self",
    "space_point2virtual_blocks": "points_from_virtual",
}
_PARTS = {
    "cross_attn.to_q": "attention.query",
    "cross_attn.to_kv": "attention.key_value",
    "cross_attn.to_out": "attention.out",
    "attn.to_q": "attention.query",
    "attn.to_kv": "attention.key_value",
    "attn.to_out": "attention.out",
    "mlp.fc1": "mlp.0",
    "mlp.fc2": "mlp.2",
    "norm_context": "context_norm",
}
_NAMES = {
    "corr_mlp.fc1": "correlation_mlp.0",
    "corr_mlp.fc2": "correlation_mlp.2",
    "updateformer.input_transform": "transformer.embed",
    "updateformer.flow_head": "transformer.to_shift",
    "updateformer.vis_conf_head": "transformer.to_logits",
    "cam_proj": "camera_embed",
    "cam_norm": "camera_norm",
}


def head_of(golden: dict[str, np.ndarray]) -> TrackingHead:
    """The head of a golden file in float64, every weight accounted for. The time embedding is ours."""
    cfg = {name.removeprefix("cfg."): golden[name] for name in golden if name.startswith("cfg.")}
    config = HeadConfig(
        correlation=CorrelationConfig(
            levels=int(cfg["corr_levels"]), radius=int(cfg["corr_radius"]), base_stride_px=int(cfg["stride"]),
            softmax="none", scaled=False, coarse="pool", coordinates="index",
        ),
        correlation_hidden=golden["param.corr_mlp.fc1.bias"].shape[0],
        correlation_dim=int(cfg["corr_emb"]), dim=int(cfg["hidden"]), heads=int(cfg["heads"]),
        layers=int(cfg["depth"]), mlp_ratio=float(cfg["mlp_ratio"]), virtual_tracks=int(cfg["virtual_tracks"]),
        view_attention=bool(cfg["view_attention"]), iterations=int(cfg["iters"]), displacement=True,
        camera="reference" if cfg["camera_embedding"] else "none", time_length=int(cfg["window_len"]),
    )  # fmt: skip
    head = TrackingHead(config).double()
    state = {}
    for name in golden:
        if name.startswith("param.") and name != "param.time_emb":
            state[_rename(name.removeprefix("param."))] = torch.from_numpy(golden[name]).double()
    virtual = state["transformer.virtual_tracks"]
    state["transformer.virtual_tracks"] = rearrange(virtual, "1 k 1 d -> k d")
    side = {name: 2 * config.correlation.radius + 1 for name in ("kx", "ky", "qx", "qy")}  # noqa: C420
    first = state["correlation_mlp.0.weight"]  # the peer counts offsets column by column
    first = rearrange(first, "o (kx ky qx qy) -> o (ky kx qy qx)", **side)
    head.load_state_dict(state | {"correlation_mlp.0.weight": first}, strict=True)
    return head


def _rename(name: str) -> str:
    if name == "updateformer.virual_tracks":
        return "transformer.virtual_tracks"
    block = re.fullmatch(r"updateformer\.(\w+_blocks)\.(\d+)\.(.+)\.(weight|bias)", name)
    if block:
        kind, layer, part, what = block.groups()
        return f"transformer.layers.{layer}.{_BLOCKS[kind]}.{_PARTS[part]}.{what}"
    stem, what = name.rsplit(".", 1)
    return f"{_NAMES[stem]}.{what}"


CASES = ("mvtap_forward", "mvtap_window_nocam_noview")


@pytest.fixture(params=CASES)
def golden(request, golden_numbers):
    return golden_numbers(request.param)


def array(golden, name: str) -> torch.Tensor:
    return torch.from_numpy(golden[name]).double()


def test_golden_time_embedding(golden):
    expected = array(golden, "param.time_emb")[0]
    torch.testing.assert_close(time_embedding(*expected.shape).double(), expected, atol=1e-6, rtol=0)


@torch.no_grad()
def test_golden_transformer(golden):
    head = head_of(golden)
    views, points = golden["win0_it0_tokens"].shape[:2]
    valid = torch.ones(1, views, points, dtype=torch.bool)
    for i in range(int(golden["cfg.iters"])):
        delta = head.transformer(array(golden, f"win0_it{i}_tokens")[None], valid)[0]
        torch.testing.assert_close(delta, array(golden, f"win0_it{i}_delta"), atol=1e-5, rtol=0)


@torch.no_grad()
def test_golden_blocks(golden):
    """Each block's output, fed with the peer's own output of the block before."""
    head = head_of(golden)
    layer = head.transformer.layers[0]
    tokens = array(golden, "win0_it0_tokens")
    views, points, frames, _ = tokens.shape
    x = head.transformer.embed(tokens)
    if "win0_it0_tokens_after_input_transform" in golden:
        torch.testing.assert_close(x, array(golden, "win0_it0_tokens_after_input_transform"), atol=1e-5, rtol=0)
    virtual = head.transformer.virtual_tracks[None, :, None].expand(views, -1, frames, -1)
    tracks = points + virtual.shape[1]

    def check(ours: torch.Tensor, name: str) -> torch.Tensor:
        expected = array(golden, f"win0_it0_out_{name}0")
        torch.testing.assert_close(ours, expected, atol=1e-5, rtol=0)
        return expected

    x = check(layer.time(rearrange(torch.cat([x, virtual], 1), "v m t d -> (v m) t d")), "time_block")
    x = rearrange(x, "(v m) t d -> (m t) v d", v=views)
    if layer.view is not None:
        x = check(layer.view(x), "view_block")
    x = rearrange(x, "(m t) v d -> (v t) m d", m=tracks)
    seen = check(layer.virtual_from_points(x[:, points:], x[:, :points]), "virtual_from_points")
    seen = check(layer.virtual_self(seen), "virtual_self")
    check(layer.points_from_virtual(x[:, :points], seen), "points_from_virtual")


@torch.no_grad()
def test_golden_window(golden):
    """Features to tokens to coordinates and logits over all iterations of the first window.

    Queries beyond the window have no support there, as in the peer; its rays are fed in, because its camera frame
    depends on the order of views and ours does not.
    """
    head = head_of(golden)
    config = head.config.correlation
    frames = golden["win0_coords"].shape[2]
    maps = array(golden, "raw_fmaps")[:, :frames]
    maps = maps / maps.square().sum(2, keepdim=True).clamp_min(1e-12).sqrt()
    features = rearrange(maps, "v t c h w -> 1 v t h w 1 c")
    txy = array(golden, "queries_txy")[None]
    inside = txy[..., 0] < frames
    txy[..., 0] = txy[..., 0].clamp(max=frames - 1)
    prepared = prepare(features, features, txy, config.base_stride_px, config)
    kept = tuple(support * inside.flatten()[:, None, None, None] for support in prepared.supports)
    prepared = prepared._replace(supports=kept)

    xy = array(golden, "win0_coords_init_cells")[None] * config.base_stride_px
    logits = torch.zeros_like(xy)
    height, width = golden["cfg.model_resolution_hw"].tolist()
    valid = torch.ones(txy.shape[:-1], dtype=torch.bool)
    for i in range(head.config.iterations):
        rays = None
        if head.config.camera != "none":
            rays = rearrange(array(golden, f"win0_it{i}_plucker"), "v n t c -> 1 v t n c")
        tokens = head.tokens(xy, logits, head.correlation(prepared, xy), (width, height), rays)
        torch.testing.assert_close(tokens[0], array(golden, f"win0_it{i}_tokens"), atol=1e-5, rtol=0)
        update = rearrange(head.transformer(tokens, valid), "b v n t c -> b v t n c")
        xy, logits = xy + update[..., :2] * config.base_stride_px, logits + update[..., 2:]
        torch.testing.assert_close(xy[0], array(golden, "win0_coords")[i], atol=1e-4, rtol=0)
        torch.testing.assert_close(logits[0, ..., 0], array(golden, "win0_vis_logit")[i], atol=1e-5, rtol=0)
        torch.testing.assert_close(logits[0, ..., 1], array(golden, "win0_conf_logit")[i], atol=1e-5, rtol=0)


@torch.no_grad()
def test_golden_forward_of_a_clip_without_cameras(golden_numbers):
    """The whole module, from features and queries, on the clip that fits one window."""
    golden = golden_numbers("mvtap_window_nocam_noview")
    head = head_of(golden)
    maps = array(golden, "raw_fmaps")
    maps = maps / maps.square().sum(2, keepdim=True).clamp_min(1e-12).sqrt()
    features = rearrange(maps, "v t c h w -> 1 v t h w 1 c")
    txy = array(golden, "queries_txy")[None]
    valid = torch.ones(txy.shape[:-1], dtype=torch.bool)
    output = head(features, features, txy, valid, int(golden["cfg.stride"]))
    torch.testing.assert_close(output.xy[:, 0], array(golden, "win0_coords"), atol=1e-4, rtol=0)
    torch.testing.assert_close(output.visible_logit[:, 0], array(golden, "win0_vis_logit"), atol=1e-5, rtol=0)
    torch.testing.assert_close(output.confidence_logit[:, 0], array(golden, "win0_conf_logit"), atol=1e-5, rtol=0)
