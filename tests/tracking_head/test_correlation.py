"""The fast correlation against the slow one, the peers' numbers, and its promises about memory and chunks."""

import itertools
from dataclasses import replace

import pytest
import torch
from einops import rearrange

from tracking_head.correlation import correlate, embed_correlation, prepare
from tracking_head.correlation_reference import reference_volume
from tracking_head.pyramid import CorrelationConfig, pyramid_levels

B, V, T, N, h, w, HEADS, D = 2, 3, 2, 5, 5, 7, 2, 3
TOKEN_PX = 8


def inputs(generator, dtype=torch.float64, grid=(h, w), token_px=TOKEN_PX, heads=HEADS):
    q, k = (torch.randn(B, V, T, *grid, heads, D, generator=generator, dtype=dtype) for _ in range(2))
    size = torch.tensor([grid[1] * token_px, grid[0] * token_px], dtype=torch.float64)
    xy = torch.rand(B, V, N, 2, generator=generator, dtype=torch.float64) * size
    t = torch.randint(0, T, (B, V, N, 1), generator=generator).double()
    estimate = (torch.rand(B, V, T, N, 2, generator=generator, dtype=torch.float64) * 1.8 - 0.4) * size  # also outside
    return q, k, torch.cat([t, xy], -1), estimate


def fast_volume(q, k, txy, estimate, token_px, level, config):
    prepared = prepare(q, k, txy, token_px, config)
    volume = correlate(prepared, rearrange(estimate, "b v t n c -> (b v n) t c"), level, config)
    return rearrange(volume, "(b v n) t p o -> b v t n p o", b=B, v=V)


CONFIGS = [
    CorrelationConfig(levels=4, radius=2, base_stride_px=2, chunk_points=4),
    CorrelationConfig(levels=3, radius=1, base_stride_px=4, softmax="all", heads="sum"),
    CorrelationConfig(levels=3, radius=3, base_stride_px=4, softmax="none", coarse="pool"),
    CorrelationConfig(levels=2, radius=2, base_stride_px=8, softmax="none", heads="sum", scaled=False),
    CorrelationConfig(levels=3, radius=2, base_stride_px=4, coordinates="index", coarse="pool", chunk_points=7),
    CorrelationConfig(levels=3, radius=2, base_stride_px=5, softmax="all"),  # strides that do not divide the extent
]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: f"{c.softmax}-{c.heads}-{c.coarse}-{c.base_stride_px}")
def test_correlation_and_gradients_equal_reference(config, generator):
    q, k, txy, estimate = inputs(generator, torch.float32)
    q.requires_grad_()
    k.requires_grad_()
    for level in range(config.levels):
        fast = fast_volume(q, k, txy.float(), estimate.float(), TOKEN_PX, level, config)
        slow = reference_volume(q, k, txy.float(), estimate.float(), TOKEN_PX, level, config)
        torch.testing.assert_close(fast, slow, atol=1e-5, rtol=0)
        weight = torch.randn(fast.shape, generator=generator)
        fast_grads = torch.autograd.grad((fast * weight).sum(), (q, k))
        slow_grads = torch.autograd.grad((slow * weight).sum(), (q, k))
        for a, b in zip(fast_grads, slow_grads, strict=True):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_estimate_gradient_equals_reference(generator):
    q, k, txy, estimate = inputs(generator, torch.float32)
    txy, estimate = txy.float(), estimate.float().clamp(9, 30)
    config = CorrelationConfig(levels=2, radius=1, estimate_gradient=True)
    weight = torch.randn(B, V, T, N, 9, 9, generator=generator)
    grads = []
    for volume in (fast_volume, reference_volume):
        leaf = estimate.clone().requires_grad_()
        grads.append(torch.autograd.grad((volume(q, k, txy, leaf, TOKEN_PX, 1, config) * weight).sum(), leaf)[0])
    torch.testing.assert_close(*grads, atol=1e-5, rtol=1e-4)
    cut = fast_volume(q, k, txy, estimate.requires_grad_(), TOKEN_PX, 1, CorrelationConfig(levels=2, radius=1))
    assert not cut.requires_grad


def test_correlation_chunks_change_nothing(generator):
    q, k, txy, estimate = (x.float() for x in inputs(generator))
    whole, single = CorrelationConfig(levels=2), CorrelationConfig(levels=2, chunk_points=1)
    flat = rearrange(estimate, "b v t n c -> (b v n) t c")
    prepared = prepare(q, k, txy, TOKEN_PX, whole)
    volume = correlate(prepared, flat, 1, whole)
    torch.testing.assert_close(correlate(prepared, flat, 1, single), volume)
    torch.testing.assert_close(correlate(prepared, flat[7:18], 1, whole, first_point=7), volume[7:18])


@pytest.mark.parametrize("config", CONFIGS[:3], ids=lambda c: f"{c.softmax}-{c.heads}-{c.coarse}")
@pytest.mark.parametrize("keep", [False, True], ids=["recomputed", "kept"])
def test_embedded_correlation_equals_linear_layer_on_volumes(config, keep, generator):
    """Values and gradients, also of the estimates."""
    q, k, txy, estimate = inputs(generator)
    weight = torch.randn(11, config.offsets**2, generator=generator, dtype=torch.float64)
    flat = rearrange(estimate, "b v t n c -> (b v n) t c")
    config = replace(config, estimate_gradient=True)
    results = []
    for fused in (True, False):
        leaves = [x.clone().requires_grad_() for x in (q, k, flat, weight)]
        prepared = prepare(*leaves[:2], txy, TOKEN_PX, config)
        if fused:
            hidden = embed_correlation(prepared, leaves[2][3:], config, leaves[3], 3, keep)
        else:
            volumes = [correlate(prepared, leaves[2][3:], s, config, first_point=3) for s in range(config.levels)]
            hidden = torch.stack([x.flatten(-2) @ leaves[3].mT for x in volumes], -2)
        results.append([hidden, *torch.autograd.grad(hidden.square().mean(), leaves)])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=1e-9)
        assert a.abs().sum() > 0


def test_embedded_correlation_takes_autocasts_dtype(generator):
    q, k, txy, estimate = (x.float() for x in inputs(generator))
    prepared = prepare(q, k, txy, TOKEN_PX, CorrelationConfig())
    weight = torch.randn(11, 49**2, generator=generator)
    flat = rearrange(estimate, "b v t n c -> (b v n) t c")
    exact = embed_correlation(prepared, flat, CorrelationConfig(), weight)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = embed_correlation(prepared, flat, CorrelationConfig(), weight.requires_grad_())
    assert rounded.dtype == torch.bfloat16
    torch.testing.assert_close(rounded.float(), exact, atol=2e-2, rtol=2e-2)
    rounded.float().sum().backward()
    assert weight.grad.dtype == torch.float32


def test_correlation_of_bfloat16_stays_close(generator):
    q, k, txy, estimate = (x.float() for x in inputs(generator))
    exact = fast_volume(q, k, txy, estimate, TOKEN_PX, 1, CorrelationConfig())
    q, k = q.bfloat16().requires_grad_(), k.bfloat16().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        rounded = fast_volume(q, k, txy, estimate, TOKEN_PX, 1, CorrelationConfig())
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded, exact, atol=2e-2, rtol=0)
    rounded.square().sum().backward()
    assert q.grad.dtype == k.grad.dtype == torch.bfloat16
    assert q.grad.isfinite().all()
    assert k.grad.abs().sum() > 0


def test_correlation_stores_no_upsampled_map(generator):
    q, k, txy, _ = (x.float() for x in inputs(generator))
    config = CorrelationConfig(levels=4, base_stride_px=2)
    prepared = prepare(q, k, txy, TOKEN_PX, config)
    assert all(keys.numel() <= k.numel() for keys in prepared.keys)
    assert [level.y.cells for level in prepared.levels] == [20, 10, 5, 2]
    assert prepared.keys[0].data_ptr() == prepared.keys[2].data_ptr()  # the same tokens, not copies


def test_correlation_peaks_at_cell_under_pixel():
    """A single bright token answers loudest at the offset that points to its centre."""
    q = torch.zeros(1, 1, 1, h, w, 1, 1)
    q[..., 3, 4, 0, 0] = 1
    centre = torch.tensor([4.5, 3.5]) * TOKEN_PX
    config = CorrelationConfig(levels=1, radius=2, base_stride_px=TOKEN_PX, softmax="none")
    prepared = prepare(q, q, torch.cat([torch.zeros(1), centre])[None, None, None], TOKEN_PX, config)
    estimate = (centre + torch.tensor([-TOKEN_PX, 2 * TOKEN_PX]))[None, None]
    volume = correlate(prepared, estimate, 0, config)[0, 0].view(5, 5, 5, 5)  # key y, key x, query y, query x
    assert volume[0, 3, 2, 2] == 1  # two cells up, one to the right, from the estimate
    assert volume.sum() == 1


@pytest.mark.parametrize("case", [0, 1])
def test_golden_correlation(case, golden_numbers):
    """CoTracker3's supports, key patches and volumes, and the gradient of half their sum of squares."""
    golden = golden_numbers(f"correlation_{case}")
    stride, radius, levels = (int(golden[name]) for name in ("stride", "radius", "levels"))
    raw = torch.from_numpy(golden["raw_fmaps"]).requires_grad_()
    maps = raw / raw.square().sum(1, keepdim=True).clamp_min(1e-12).sqrt()
    torch.testing.assert_close(maps, torch.from_numpy(golden["fmaps_l0"]), atol=1e-6, rtol=0)
    features = rearrange(maps, "t c h w -> 1 1 t h w 1 c")
    txy = torch.from_numpy(golden["queries_txy"])[None, None]
    estimate = rearrange(torch.from_numpy(golden["coords_xy_cells"]) * stride, "t n c -> n t c")
    config = CorrelationConfig(
        levels=levels, radius=radius, base_stride_px=stride, softmax="none", scaled=False, coarse="pool",
        coordinates="index",
    )  # fmt: skip
    prepared = prepare(features, features, txy, stride, config)
    total = 0.0
    for level in range(levels):
        support = torch.from_numpy(golden[f"support_l{level}"])
        ours = rearrange(prepared.supports[level], "1 n (y x) c -> n x y c", y=2 * radius + 1)
        torch.testing.assert_close(ours, support, atol=1e-5, rtol=0)
        volume = correlate(prepared, estimate, level, config)
        shape = dict.fromkeys(("y", "x", "i", "j"), 2 * radius + 1)
        peers = rearrange(volume, "n t (y x) (i j) -> t n x y j i", **shape)
        torch.testing.assert_close(peers, torch.from_numpy(golden[f"volume_l{level}"]), atol=1e-5, rtol=0)
        total = total + 0.5 * volume.square().sum()
    assert total.item() == pytest.approx(float(golden["half_sq_sum"]), rel=1e-4)
    total.backward()
    expected = torch.from_numpy(golden["grad_raw_fmaps"])
    torch.testing.assert_close(raw.grad, expected, atol=1e-4 * float(expected.abs().max()), rtol=0)


def test_correlation_passes_gradcheck(generator):
    """Float64 finite differences, chunks included."""
    q, k = (torch.randn(1, 1, 2, 3, 2, 2, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    txy = torch.tensor([[[[0.0, 3.1, 5.2], [1.0, 6.7, 10.9]]]], dtype=torch.float64)
    estimate = torch.tensor([[[4.3, 7.1], [-3.0, 2.2]], [[7.7, 1.1], [2.6, 13.0]]], dtype=torch.float64)
    for softmax, heads in itertools.product(("keys", "none"), ("mean", "sum")):
        config = CorrelationConfig(levels=2, radius=1, base_stride_px=2, chunk_points=1, softmax=softmax, heads=heads)

        def volume(q, k, config=config):
            return correlate(prepare(q, k, txy, 4, config), estimate, 0, config)

        assert torch.autograd.gradcheck(volume, (q.requires_grad_(), k.requires_grad_()), fast_mode=True)


@pytest.mark.usefixtures("unchecked")
def test_invalid_input_raises(generator):
    q, k, txy, _ = inputs(generator)
    with pytest.raises(
        ValueError, match=r"q and k must both be .*got \(2, 3, 2, 5, 7, 2, 3\) and \(2, 3, 2, 5, 6, 2, 3\)"
    ):
        prepare(q, k[:, :, :, :, :-1], txy, TOKEN_PX, CorrelationConfig())
    with pytest.raises(ValueError, match=r"query_txy must be \(2, 3, 5, 3\) \(B, V, N, 3\), got \(2, 2, 5, 3\)"):
        prepare(q, k, txy[:, :2], TOKEN_PX, CorrelationConfig())
    with pytest.raises(ValueError, match="chunk_points must be at least 1"):
        CorrelationConfig(chunk_points=0)
    with pytest.raises(ValueError, match="levels must be at least 1, got 0"):
        CorrelationConfig(levels=0)
    with pytest.raises(ValueError, match="a grid of 5 tokens cannot be pooled to level 3"):
        pyramid_levels((h, w), 4, CorrelationConfig(levels=5, coarse="pool"))
    with pytest.raises(ValueError, match=r"needs a level at the tokens' own 8 px, got levels of \[3, 6, 12\]"):
        pyramid_levels((h, w), 8, CorrelationConfig(levels=3, base_stride_px=3, coarse="pool"))
