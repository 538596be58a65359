"""MV-TAP whole against its own numbers: encoder, blocks, tokens, windows, tracks; and what its weights are called."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from einops import rearrange

from tracking_head import MVTAP, Cameras, CorrelationConfig, HeadConfig, MVTAPConfig, Queries, Tracker, load_released
from tracking_head.correlation import CorrelationFeatures, prepare
from tracking_head.encodings import common_frame, estimate_rays, time_embedding
from tracking_head.mvtap_weights import released_name


def model_of(golden: dict[str, np.ndarray]) -> MVTAP:
    """The model of a golden file in float64, with every weight of its head; the file has none of the encoder."""
    cfg = {name.removeprefix("cfg."): golden[name] for name in golden if name.startswith("cfg.")}
    head = HeadConfig(
        correlation=CorrelationConfig(
            levels=int(cfg["corr_levels"]), radius=int(cfg["corr_radius"]), base_stride_px=int(cfg["stride"]),
            softmax="none", scaled=False, coarse="pool", coordinates="index",
        ),
        correlation_hidden=golden["param.corr_mlp.fc1.bias"].shape[0],
        correlation_dim=int(cfg["corr_emb"]), dim=int(cfg["hidden"]), heads=int(cfg["heads"]),
        layers=int(cfg["depth"]), mlp_ratio=float(cfg["mlp_ratio"]), virtual_tracks=int(cfg["virtual_tracks"]),
        view_attention=bool(cfg["view_attention"]), iterations=int(cfg["iters"]), displacement=True,
        camera="mvtap" if cfg["camera_embedding"] else "none", time_length=int(cfg["window_len"]),
    )  # fmt: skip
    config = MVTAPConfig(head, width=golden["raw_fmaps"].shape[2] // 4 * 4, window=int(cfg["window_len"]))
    state = {name.removeprefix("param."): torch.from_numpy(golden[name]) for name in golden if "param." in name}
    for name, value in MVTAP(config).encoder.state_dict().items():
        state[released_name(f"encoder.{name}")] = value
    return load_released(state, config).double()


def features_of(golden: dict[str, np.ndarray]) -> torch.Tensor:
    """(B, V, T, h, w, heads, d)."""
    maps = array(golden, "raw_fmaps")
    maps = maps / maps.square().sum(2, keepdim=True).clamp_min(1e-12).sqrt()
    return rearrange(maps, "v t c h w -> 1 v t h w 1 c")


def cameras_of(golden: dict[str, np.ndarray]) -> Cameras | None:
    if not golden["cfg.camera_embedding"]:
        return None
    return Cameras(torch.linalg.inv(array(golden, "extrinsics_w2c"))[None], array(golden, "intrinsics")[None])


def window_of(model: MVTAP, golden: dict[str, np.ndarray]) -> tuple[CorrelationFeatures, int]:
    """The first window's correlation features, and how many frames it has."""
    features, txy = features_of(golden), array(golden, "queries_txy")[None]
    frames = golden["win0_coords"].shape[2]
    prepared = prepare(features, features, txy, 4, model.config.head.correlation)
    return prepared._replace(shown=torch.arange(frames), active=(txy[..., 0] < frames).flatten()), frames


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
    head = model_of(golden).head
    views, points = golden["win0_it0_tokens"].shape[:2]
    valid = torch.ones(1, views, points, dtype=torch.bool)
    for i in range(int(golden["cfg.iters"])):
        delta = head.transformer(array(golden, f"win0_it{i}_tokens")[None], valid)[0]
        torch.testing.assert_close(delta, array(golden, f"win0_it{i}_delta"), atol=1e-5, rtol=0)


@torch.no_grad()
def test_golden_blocks(golden):
    """Each block's output, fed with the peer's own output of the block before."""
    head = model_of(golden).head
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
    """Features to tokens to coordinates and logits over all iterations of the first window, step by step."""
    model = model_of(golden)
    head, (prepared, frames) = model.head, window_of(model, golden)
    xy = array(golden, "win0_coords_init_cells")[None] * 4
    logits = torch.zeros_like(xy)
    height, width = golden["cfg.model_resolution_hw"].tolist()
    valid = torch.ones(*xy.shape[:2], xy.shape[3], dtype=torch.bool)
    cameras = cameras_of(golden)
    for i in range(head.config.iterations):
        rays = None
        if cameras is not None:
            frame = common_frame(cameras.c2w[:, :, :frames], "mvtap")
            rays = estimate_rays(xy, *frame, cameras.K[:, :, :frames])
            expected = rearrange(array(golden, f"win0_it{i}_plucker"), "v n t c -> 1 v t n c")
            torch.testing.assert_close(rays, expected, atol=1e-5, rtol=0)
        tokens = head.tokens(xy, logits, head.correlation(prepared, xy), (width, height), rays)
        torch.testing.assert_close(tokens[0], array(golden, f"win0_it{i}_tokens"), atol=1e-5, rtol=0)
        update = rearrange(head.transformer(tokens, valid), "b v n t c -> b v t n c")
        xy, logits = xy + update[..., :2] * 4, logits + update[..., 2:]
        torch.testing.assert_close(xy[0], array(golden, "win0_coords")[i], atol=1e-4, rtol=0)
        torch.testing.assert_close(logits[0, ..., 0], array(golden, "win0_vis_logit")[i], atol=1e-5, rtol=0)
        torch.testing.assert_close(logits[0, ..., 1], array(golden, "win0_conf_logit")[i], atol=1e-5, rtol=0)


def sweep_arguments(model: MVTAP, golden: dict[str, np.ndarray]) -> tuple:
    features, txy = features_of(golden), array(golden, "queries_txy")[None]
    prepared = prepare(features, features, txy, 4, model.config.head.correlation)
    valid = torch.ones(txy.shape[:-1], dtype=torch.bool)
    extent = golden["cfg.model_resolution_hw"][::-1].tolist()
    return prepared, txy, valid, tuple(extent), cameras_of(golden), torch.arange(features.shape[2])


@torch.no_grad()
def test_golden_windows_and_tracks(golden_numbers):
    """Every window's estimates after every iteration, and the tracks of the whole clip, from features and queries."""
    golden = golden_numbers("mvtap_forward")
    model = model_of(golden)
    arguments = sweep_arguments(model, golden)
    windows = list(model.windows(*arguments))
    assert [start for start, _ in windows] == [0, 3]
    for i, (_, output) in enumerate(windows):
        for ours, name, atol in zip(output, ("coords", "vis_logit", "conf_logit"), (1e-4, 1e-5, 1e-5), strict=True):
            torch.testing.assert_close(ours[:, 0], array(golden, f"win{i}_{name}"), atol=atol, rtol=0)
    output = model.sweep(*arguments)
    torch.testing.assert_close(output.xy[0, 0], array(golden, "out_coords"), atol=1e-4, rtol=0)
    torch.testing.assert_close(output.visible_logit[0, 0].sigmoid(), array(golden, "out_vis"), atol=1e-5, rtol=0)
    torch.testing.assert_close(output.confidence_logit[0, 0].sigmoid(), array(golden, "out_conf"), atol=1e-5, rtol=0)


@torch.no_grad()
def test_golden_single_window_of_another_length(golden_numbers):
    """The head alone, on a clip shorter than the window: the time embedding is stretched."""
    golden = golden_numbers("mvtap_window_nocam_noview")
    features, txy = features_of(golden), array(golden, "queries_txy")[None]
    valid = torch.ones(txy.shape[:-1], dtype=torch.bool)
    output = model_of(golden).head(features, features, txy, valid, int(golden["cfg.stride"]))
    torch.testing.assert_close(output.xy[:, 0], array(golden, "win0_coords"), atol=1e-4, rtol=0)
    torch.testing.assert_close(output.visible_logit[:, 0], array(golden, "win0_vis_logit"), atol=1e-5, rtol=0)
    torch.testing.assert_close(output.confidence_logit[:, 0], array(golden, "win0_conf_logit"), atol=1e-5, rtol=0)


@torch.no_grad()
def test_golden_encoder(golden_numbers):
    golden = golden_numbers("mvtap_encoder")
    model = MVTAP(MVTAPConfig(width=16)).double()
    state = {name: array(golden, f"param.{released_name(f'encoder.{name}')}") for name in model.encoder.state_dict()}
    assert len(state) == sum(name.startswith("param.") for name in golden)
    model.encoder.load_state_dict(state)
    features = model.encode(array(golden, "video") / 127.5 - 1)
    expected = rearrange(array(golden, "fmaps"), "v t c h w -> v t h w 1 c")
    torch.testing.assert_close(features.q, expected, atol=1e-5, rtol=0)


def test_golden_released_names_and_shapes(released_shapes):
    """The released file fits, tensor by tensor; one that is missing, unknown, turned or not a constant is named."""
    shapes = released_shapes("mvtap")
    state = {name: torch.zeros(shape) for name, shape in shapes.items()}
    state["time_emb"] = time_embedding(*shapes["time_emb"][1:])[None]
    model = load_released({f"model.{name}": value for name, value in state.items()})
    assert sum(p.numel() for p in model.parameters()) == 30_714_474
    for change, message in (
        ({"fnet.conv1.bias": None}, "fnet.conv1.bias is missing"),
        ({"extra": torch.zeros(1)}, "extra is unknown"),
        ({"cam_proj.weight": torch.zeros(6, 1110)}, r"cam_proj.weight is \(6, 1110\), expected \(1110, 6\)"),
        ({"time_emb": state["time_emb"] + 1}, "time_emb holds other values"),
    ):
        changed = {name: value for name, value in (state | change).items() if value is not None}
        with pytest.raises(ValueError, match=message):
            load_released(changed, where="weights.ckpt")


HEAD = HeadConfig(
    correlation=CorrelationConfig(
        levels=2, radius=1, softmax="none", scaled=False, coarse="pool", coordinates="index"
    ),
    correlation_hidden=8, correlation_dim=8, dim=16, heads=2, layers=2, virtual_tracks=3, iterations=2,
    displacement=True, camera="mvtap", time_length=4,
)  # fmt: skip
VIEWS, FRAMES, POINTS, SIZE = 3, 11, 5, (28, 44)


@pytest.fixture
def scene(generator) -> tuple[MVTAP, torch.Tensor, torch.Tensor, torch.Tensor, Cameras]:
    """A model whose outputs matter, a video of any size, queries at several frames, one of them not valid."""
    torch.manual_seed(3)
    model = MVTAP(MVTAPConfig(HEAD, width=8, window=4)).double()
    for layer in (model.head.transformer.to_shift, model.head.transformer.to_logits):
        torch.nn.init.normal_(layer.weight, std=0.05)
    video = torch.rand(VIEWS, FRAMES, 3, *SIZE, generator=generator).double() * 2 - 1
    txy = torch.rand(VIEWS, POINTS, 3, generator=generator).double() * torch.tensor([FRAMES, SIZE[1], SIZE[0]])
    txy[..., 0] = txy[..., 0].floor()
    valid = torch.ones(VIEWS, POINTS, dtype=torch.bool)
    valid[1, 2] = False
    rotation = torch.linalg.qr(torch.randn(VIEWS, FRAMES, 3, 3, generator=generator).double()).Q
    c2w = torch.eye(4).double().repeat(VIEWS, FRAMES, 1, 1)
    c2w[..., :3, :3] = rotation * torch.linalg.det(rotation)[..., None, None]
    c2w[..., :3, 3] = torch.randn(VIEWS, FRAMES, 3, generator=generator)
    K = torch.tensor([[30.0, 0, 22], [0, 30, 14], [0, 0, 1]]).double().expand(VIEWS, FRAMES, 3, 3)
    return model, video, txy, valid, Cameras(c2w, K)


def tracked(model: MVTAP, video, txy, valid, cameras: Cameras | None):
    return Tracker(model).soft(model.encode(video), Queries(txy, valid, video.shape[1], SIZE), cameras)


def assert_same(ours, expected) -> None:
    for name in ("xy", "visible", "confidence"):
        torch.testing.assert_close(getattr(ours, name), getattr(expected, name), atol=1e-6, rtol=0)


def test_reversed_video_reverses_tracks(scene):
    model, video, txy, valid, cameras = scene
    expected = tracked(model, video, txy, valid, cameras)
    turned = torch.cat([FRAMES - 1 - txy[..., :1], txy[..., 1:]], -1)
    ours = tracked(model, video.flip(1), turned, valid, Cameras(*(x.flip(1) for x in cameras)))
    moment = torch.arange(FRAMES)[None, :, None] == txy[:, None, :, 0]  # logits of the query's frame are one sweep's
    for name in ("xy", "visible", "confidence"):
        a, b = getattr(ours, name).flip(1), getattr(expected, name)
        a, b = (torch.where(moment if x.ndim == 3 and name != "xy" else moment[..., None], 0.0, x) for x in (a, b))
        torch.testing.assert_close(a, b, atol=1e-6, rtol=0)
    here = expected.xy.gather(1, txy[:, None, :, :1].long().expand(-1, -1, -1, 2))[:, 0]
    torch.testing.assert_close(here[valid], txy[..., 1:][valid])


@pytest.mark.parametrize(("camera", "order"), [("mvtap", [0, 2, 1]), ("none", [2, 0, 1])])
def test_permuted_views_permute_tracks(scene, camera, order):
    """All of them without cameras; with MV-TAP's camera frame all but the first."""
    model, video, txy, valid, cameras = scene
    if camera == "none":
        model.head.config = replace(HEAD, camera="none")
        cameras = None
    expected = tracked(model, video, txy, valid, cameras)
    permuted = None if cameras is None else Cameras(*(x[order] for x in cameras))
    ours = tracked(model, video[order], txy[order], valid[order], permuted)
    for name in ("xy", "visible", "confidence"):
        torch.testing.assert_close(getattr(ours, name), getattr(expected, name)[order], atol=1e-6, rtol=0)


def test_windows_before_all_queries_change_nothing(scene):
    """In a batch with a clip that asks early no window is left out."""
    model, video, txy, valid, cameras = scene
    txy[..., 0] = 9
    alone = tracked(model, video, txy, valid, cameras)
    early = torch.cat([torch.zeros_like(txy[..., :1]), txy[..., 1:]], -1)
    features = model.encode(video).q
    both = model(
        torch.stack([features, features.flip(0)]), torch.stack([features, features.flip(0)]), torch.stack([txy, early]),
        torch.stack([valid, valid]), 4, Cameras(*(torch.stack([x, x]) for x in cameras)),
    )  # fmt: skip
    seen = valid[:, None, :, None]
    torch.testing.assert_close(both.xy[0, 0] * seen, alone.xy, atol=1e-6, rtol=0)


def test_chunks_of_sequences_and_points_change_nothing(scene, monkeypatch):
    expected = tracked(*scene)
    monkeypatch.setattr("tracking_head.attention._PART_BYTES", 4096)
    monkeypatch.setattr("tracking_head.head._HIDDEN_BYTES", 4096)
    monkeypatch.setattr("tracking_head.mvtap._FRAMES", 2)
    assert_same(tracked(*scene), expected)


def test_sides_that_the_encoder_cannot_take_are_refused():
    with pytest.raises(ValueError, match=r"multiples of 4, got \(30, 44\)"):
        MVTAP(MVTAPConfig(HEAD, width=8)).encode(torch.zeros(1, 1, 3, 30, 44))
