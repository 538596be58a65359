"""What the architecture promises: orders that do not matter, points that do not count, worlds that may move."""

import pytest
import torch

from tracking_head import Cameras, CorrelationConfig, HeadConfig, TrackingHead
from tracking_head.encodings import common_frame, displacement_features, time_embedding

B, V, T, N, h, w, HEADS, D = 2, 3, 5, 7, 3, 4, 2, 2
TOKEN_PX = 8
SIZE = torch.tensor([w * TOKEN_PX, h * TOKEN_PX]).double()


def small_head(**changes) -> TrackingHead:
    torch.manual_seed(3)
    options = {
        "correlation": CorrelationConfig(levels=2, radius=1), "correlation_hidden": 11, "correlation_dim": 6,
        "dim": 12, "heads": 2, "layers": 2, "virtual_tracks": 3, "iterations": 2, "displacement": True,
    }  # fmt: skip
    head = TrackingHead(HeadConfig(**options | changes)).double()  # so that tolerances can be tight
    for output in (head.transformer.to_shift, head.transformer.to_logits):
        torch.nn.init.normal_(output.weight, std=0.3)  # a fresh head hardly moves: everything would look invariant
    return head


def clip(generator, batch=B, views=V) -> tuple[torch.Tensor, ...]:
    q, k = (2 * torch.randn(batch, views, T, h, w, HEADS, D, generator=generator).double() for _ in range(2))
    xy = torch.rand(batch, views, N, 2, generator=generator).double() * SIZE
    t = torch.randint(0, T, (batch, views, N, 1), generator=generator).double()
    valid = torch.rand(batch, views, N, generator=generator) < 0.7
    valid[:, :, 0] = True
    return q, k, torch.cat([t, xy], -1), valid


def cameras(generator, batch=B, views=V) -> Cameras:
    turn = torch.linalg.matrix_exp(0.3 * _skew(torch.randn(batch, views, T, 3, generator=generator).double()))
    c2w = torch.eye(4).double().repeat(batch, views, T, 1, 1)
    c2w[..., :3, :3] = turn
    c2w[..., :3, 3] = torch.randn(batch, views, T, 3, generator=generator)
    K = torch.tensor([[30.0, 0, 16], [0, 29, 12], [0, 0, 1]]).repeat(batch, views, T, 1, 1)
    return Cameras(c2w, K.double())


def _skew(v: torch.Tensor) -> torch.Tensor:
    x, y, z = v.unbind(-1)
    o = torch.zeros_like(x)
    return torch.stack([o, -z, y, z, o, -x, -y, x, o], -1).unflatten(-1, (3, 3))


def assert_equal(ours, other, seen, atol=1e-6) -> None:
    """Equal outputs wherever a point counts."""
    assert (ours.xy[-1] - ours.xy[0]).abs().max() > 0.5  # something moves
    for a, b in zip(ours, other, strict=True):
        mask = seen[None, :, :, None].expand(a.shape[:5])
        torch.testing.assert_close(a[mask], b[mask], atol=atol, rtol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("camera", ["none", "mean"])
def test_head_is_equivariant_to_view_order(camera, generator):
    q, k, txy, valid = clip(generator)
    head, shot = small_head(camera=camera), None if camera == "none" else cameras(generator)
    order = [2, 0, 1]
    plain = head(q, k, txy, valid, TOKEN_PX, shot)
    moved = None if shot is None else Cameras(*(x[:, order] for x in shot))
    permuted = head(q[:, order], k[:, order], txy[:, order], valid[:, order], TOKEN_PX, moved)
    assert_equal(type(plain)(*(x[:, :, order] for x in plain)), permuted, valid[:, order])


@torch.no_grad()
def test_head_is_equivariant_to_point_order(generator):
    q, k, txy, valid = clip(generator)
    head, order = small_head(), torch.randperm(N, generator=generator)
    plain = head(q, k, txy, valid, TOKEN_PX)
    assert_equal(type(plain)(*(x[:, :, :, :, order] for x in plain)),
                 head(q, k, txy[:, :, order], valid[:, :, order], TOKEN_PX), valid[:, :, order])  # fmt: skip


@torch.no_grad()
@pytest.mark.parametrize("camera", ["mean", "reference"])
def test_head_is_invariant_to_world_frame(camera, generator):
    q, k, txy, valid = clip(generator)
    head, shot = small_head(camera=camera), cameras(generator)
    world = torch.eye(4).double()
    world[:3, :3] = torch.linalg.matrix_exp(_skew(torch.tensor([0.9, -2.0, 1.3]).double()))
    world[:3, 3] = torch.tensor([3.0, -5.0, 7.0])
    moved = shot.c2w.clone()
    moved[..., :3, 3] *= 2.5  # the world's unit does not matter either
    plain = head(q, k, txy, valid, TOKEN_PX, shot)
    assert_equal(plain, head(q, k, txy, valid, TOKEN_PX, Cameras(world @ moved, shot.K)), valid, atol=1e-5)
    turned = shot.c2w.clone()
    turned[:, 1] = turned[:, 1] @ world  # but cameras that stand differently to each other do
    other = head(q, k, txy, valid, TOKEN_PX, Cameras(turned, shot.K))
    assert (other.xy - plain.xy).abs().max() > 0.01


@torch.no_grad()
def test_invalid_points_change_nothing(generator):
    q, k, txy, valid = clip(generator)
    head = small_head()
    plain = head(q, k, txy, valid, TOKEN_PX)
    nonsense = torch.where(valid[..., None], txy, torch.tensor([torch.nan, -1e9, 1e9]).double())
    assert_equal(plain, head(q, k, nonsense, valid, TOKEN_PX), valid, atol=0)
    kept = [n for n in range(N) if n != 4]
    valid[:, :, 4] = False
    dropped = head(q, k, txy, valid, TOKEN_PX)
    without = head(q, k, txy[:, :, kept], valid[:, :, kept], TOKEN_PX)
    assert_equal(type(plain)(*(x[:, :, :, :, kept] for x in dropped)), without, valid[:, :, kept])


@torch.no_grad()
def test_empty_view_equals_absent_view(generator):
    q, k, txy, valid = clip(generator)
    head = small_head()
    valid[:, 1] = False
    with_it = head(q, k, txy, valid, TOKEN_PX)
    assert all(x.isfinite().all() for x in with_it)
    rest = [0, 2]
    without = head(q[:, rest], k[:, rest], txy[:, rest], valid[:, rest], TOKEN_PX)
    assert_equal(type(without)(*(x[:, :, rest] for x in with_it)), without, valid[:, rest])


@torch.no_grad()
def test_view_attention_alone_links_views(generator):
    q, k, txy, valid = clip(generator)
    changed = q.clone(), k.clone()
    for x in changed:
        x[:, 1] = torch.randn(x[:, 1].shape, generator=generator)
    for view_attention in (True, False):
        head = small_head(view_attention=view_attention)
        a, b = head(q, k, txy, valid, TOKEN_PX), head(*changed, txy, valid, TOKEN_PX)
        same = torch.allclose(a.xy[:, :, [0, 2]], b.xy[:, :, [0, 2]], atol=1e-5)
        assert same != view_attention
    alone = head(q[:, :1], k[:, :1], txy[:, :1], valid[:, :1], TOKEN_PX)  # one view is enough
    torch.testing.assert_close(alone.xy, a.xy[:, :, :1], atol=1e-6, rtol=0)


@torch.no_grad()
def test_head_keeps_clips_of_a_batch_apart(generator):
    q, k, txy, valid = clip(generator)
    head = small_head(camera="mean")
    shot = cameras(generator)
    together = head(q, k, txy, valid, TOKEN_PX, shot)
    for b in range(B):
        one = slice(b, b + 1)
        single = head(q[one], k[one], txy[one], valid[one], TOKEN_PX, Cameras(*(x[one] for x in shot)))
        assert_equal(type(single)(*(x[:, one] for x in together)), single, valid[one])


def test_recomputing_keeps_gradients(generator, monkeypatch):
    q, k, txy, valid = clip(generator)
    results = []
    for recompute in (True, False):
        head = small_head(recompute=recompute)
        leaves = [q.clone().requires_grad_(), k.clone().requires_grad_(), *head.parameters()]
        output = head(*leaves[:2], txy, valid, TOKEN_PX)
        loss = output.xy.square().mean() + output.visible_logit.square().mean() + output.confidence_logit.mean()
        results.append(torch.autograd.grad(loss, leaves))
        monkeypatch.setattr("tracking_head.head._HIDDEN_BYTES", 400)  # the second time in parts of a few points
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, atol=1e-9, rtol=1e-6)
    assert results[0][0].abs().sum() > 0  # both features learn
    assert results[0][1].abs().sum() > 0


def test_positions_detach_between_iterations(generator):
    """What the first iteration's shift adds to the second's position carries no gradient; its logits do."""
    q, k, txy, valid = clip(generator)
    head = small_head(iterations=1)
    shifts = []
    head.transformer.to_shift.register_forward_hook(lambda _, __, out: shifts.append(out))
    object.__setattr__(head.config, "iterations", 2)
    output = head(q, k, txy, valid, TOKEN_PX)
    first, _ = shifts
    assert torch.autograd.grad(output.xy[1].sum(), first, retain_graph=True)[0].abs().sum() == 0
    assert torch.autograd.grad(output.xy[0].sum(), first)[0].abs().sum() > 0


@torch.no_grad()
def test_bfloat16_head_gives_float32_tracks(generator):
    q, k, txy, valid = (x.float() if x.is_floating_point() else x for x in clip(generator))
    exact = small_head().float()(q, k, txy, valid, TOKEN_PX)
    rounded = small_head().bfloat16()(q.bfloat16(), k.bfloat16(), txy, valid, TOKEN_PX)
    assert rounded.xy.dtype == rounded.visible_logit.dtype == torch.float32
    assert (rounded.xy[0] - exact.xy[0]).abs().mean() < 0.1 * (exact.xy[0] - txy[:, :, None, :, 1:]).abs().mean()
    with torch.autocast("cpu", torch.bfloat16):
        assert small_head().float()(q, k, txy, valid, TOKEN_PX).xy.dtype == torch.float32


def test_displacement_features_by_hand():
    xy = torch.tensor([[1.0, 2.0], [5.0, 2.0], [5.0, 8.0]])[:, None]  # (T, N = 1, 2)
    features = displacement_features(xy, (8.0, 12.0))[:, 0]
    expected = torch.tensor([[-0.5, 0, 0, 0], [0, -0.5, 0.5, 0], [0, 0, 0, 0.5]])
    torch.testing.assert_close(features[:, :4], expected)
    torch.testing.assert_close(features[:, 4 + 4 : 4 + 8], (2 * expected).sin())
    torch.testing.assert_close(features[:, 44 + 4 : 44 + 8], (2 * expected).cos())
    assert features.shape[-1] == 84


def test_time_embedding_stretches():
    torch.testing.assert_close(time_embedding(7, 6, length=7), time_embedding(7, 6))
    longer = time_embedding(13, 6, length=5)
    assert longer.shape == (13, 6)
    torch.testing.assert_close(longer[[0, -1]], time_embedding(5, 6)[[0, -1]])


def test_mean_camera_frame_by_hand(generator):
    c2w = cameras(generator).c2w
    rotation, centre = common_frame(c2w, "mean")
    torch.testing.assert_close(centre.mean((1, 2)), torch.zeros(B, 3).double(), atol=1e-5, rtol=0)
    assert centre.norm(dim=-1).amax() == pytest.approx(1.0, abs=1e-5)
    torch.testing.assert_close(rotation @ rotation.mT, torch.eye(3).double().expand_as(rotation), atol=1e-5, rtol=0)
    assert (torch.linalg.det(rotation) > 0).all()
    ring = torch.eye(4).repeat(1, 2, 1, 1, 1)
    ring[0, 1, 0, :3, :3] = torch.diag(torch.tensor([-1.0, 1, -1]))
    with pytest.raises(ValueError, match="rotations have no mean; set head.camera: reference"):
        common_frame(ring, "mean")


@pytest.mark.usefixtures("unchecked")
def test_mismatched_inputs_raise(generator):
    q, k, txy, valid = clip(generator)
    head = small_head()
    with pytest.raises(ValueError, match=r"query_txy must be \(B, V, N, 3\) with B, V = \(2, 3\), got \(2, 2, 7, 3\)"):
        head(q, k, txy[:, :2], valid[:, :2], TOKEN_PX)
    with pytest.raises(ValueError, match=r"valid must be \(2, 3, 7\) \(B, V, N\), got \(2, 3, 6\)"):
        head(q, k, txy, valid[..., :6], TOKEN_PX)
    with pytest.raises(ValueError, match="head.camera is none, but cameras were given"):
        head(q, k, txy, valid, TOKEN_PX, cameras(generator))
    with pytest.raises(ValueError, match="head.camera is mean, but cameras were not given"):
        small_head(camera="mean")(q, k, txy, valid, TOKEN_PX)
    with pytest.raises(ValueError, match=r"cameras must be for \(B, V, T\) = \(2, 3, 5\), got c2w \(2, 2, 5, 4, 4\)"):
        small_head(camera="mean")(q, k, txy, valid, TOKEN_PX, cameras(generator, views=2))
    with pytest.raises(ValueError, match="head.dim 10 must be divisible by head.heads 4"):
        HeadConfig(dim=10, heads=4)
    with pytest.raises(ValueError, match="iterations must be at least 1, got 0"):
        HeadConfig(iterations=0)
