"""The losses against CoTracker3's numbers where definitions agree, and by hand where they do not."""

import pytest
import torch

from tracking_head import HeadOutput, TrackLossConfig, Tracks, track_loss
from tracking_head.losses import logit_loss, position_loss

ITERATIONS, B, V, T, N = 3, 2, 2, 5, 7


@pytest.mark.parametrize("case", [0, 1])
def test_golden_losses(case, golden_numbers):
    """Values and gradients of each term; the peer's batch axis is one of our samples' view axis.

    The peer's confidence loss divides by all points, ours by visible ones, and its visibility loss has no mask.
    """
    golden = {name: torch.from_numpy(x).double() for name, x in golden_numbers(f"track_losses_{case}").items()}
    windows, iterations = golden["pred_coords"].shape[:2]
    leaves = {name: golden[name].clone().requires_grad_() for name in ("pred_coords", "vis_logits", "conf_logits")}

    def terms(window: int, gamma: float, confident_px: float) -> dict[str, torch.Tensor]:
        xy, vis, conf = (leaves[name][window][:, None] for name in leaves)  # a batch of one sample
        target = golden["gt_coords"][window].expand(iterations, 1, -1, -1, -1, -1)
        visible, valid = golden["vis"][window][None], golden["valid"][window][None]
        weights = gamma ** torch.arange(iterations - 1, -1, -1.0, dtype=torch.float64)
        close = ((xy.detach() - target).square().sum(-1) <= confident_px**2).double()
        share = visible.sum() / visible.numel()
        return {
            "seq_huber_visible": (weights * position_loss(xy, target, valid * visible, 6.0)).mean(),
            "seq_huber_all": (weights * position_loss(xy, target, valid, 6.0)).mean(),
            "seq_l1_visible": (weights * position_loss(xy, target, valid * visible, None)).mean(),
            "seq_l1_all": (weights * position_loss(xy, target, valid, None)).mean(),
            "seq_l1_invisible": (weights * position_loss(xy, target, valid * (1 - visible), None)).mean(),
            "vis_bce": logit_loss(vis, visible.expand_as(vis), torch.ones_like(visible)).mean(),
            "conf_bce": logit_loss(conf, close, visible).mean() * share,
        }

    def compare(name: str, of: str, gamma: float = 0.8, confident_px: float = 12.0) -> torch.Tensor:
        value = torch.stack([terms(i, gamma, confident_px)[of] for i in range(windows)]).mean()
        assert value.item() == pytest.approx(float(golden[name]), rel=1e-5), name
        leaf = {"seq": "pred_coords", "vis": "vis_logits", "con": "conf_logits"}[name[:3]]
        gradient = torch.autograd.grad(value, leaves[leaf])[0]
        torch.testing.assert_close(gradient, golden[f"{name}.grad"], atol=1e-6, rtol=1e-5)
        return value.detach()

    terms_alike = ("seq_huber_visible", "seq_huber_all", "seq_l1_visible", "seq_l1_all", "seq_l1_invisible")
    found = {name: compare(name, name) for name in (*terms_alike, "vis_bce", "conf_bce")}
    compare("seq_huber_visible_gamma1", "seq_huber_visible", gamma=1.0)
    compare("conf_bce_thresh5", "conf_bce", confident_px=5.0)
    total = 0.05 * found["seq_huber_visible"] + found["vis_bce"] + found["conf_bce"]
    assert total.item() == pytest.approx(float(golden["mvtap_weights_total"]), rel=1e-5)
    total = total + 0.01 * found["seq_l1_invisible"]
    assert total.item() == pytest.approx(float(golden["cotracker3_total"]), rel=1e-5)


def example(generator) -> tuple[HeadOutput, Tracks]:
    truth = Tracks(
        torch.rand(B, V, T, N, 2, generator=generator) * 40,
        torch.rand(B, V, T, N, generator=generator) < 0.6,
        torch.rand(B, V, N, generator=generator) < 0.8,
    )
    xy = truth.xy + 9 * torch.randn(ITERATIONS, B, V, T, N, 2, generator=generator)
    logits = 2 * torch.randn(2, ITERATIONS, B, V, T, N, generator=generator)
    return HeadOutput(xy.requires_grad_(), *logits.requires_grad_()), truth


def test_track_loss_equals_obvious_loss(generator):
    output, truth = example(generator)
    width, config = 64.0, TrackLossConfig(hidden=0.01)
    ours = track_loss(output, truth, width, config)
    scale = 512 / width
    sums = dict.fromkeys(("position", "confidence", "visibility", "hidden"), 0.0)
    for i in range(ITERATIONS):
        for b in range(B):
            valid = truth.valid[b][:, None].expand(-1, T, -1)
            seen, unseen = truth.visible[b] & valid, ~truth.visible[b] & valid
            error = (output.xy[i, b] - truth.xy[b]) * scale
            a = error.abs()
            huber = torch.where(a <= 6, a * a / 2, 6 * (a - 3)).mean(-1)
            close = (error.norm(dim=-1) <= 12).float()
            cross = torch.nn.functional.binary_cross_entropy
            conf, vis = output.confidence_logit[i, b].sigmoid(), output.visible_logit[i, b].sigmoid()
            weight = 0.8 ** (ITERATIONS - 1 - i)
            sums["position"] += weight * huber[seen].mean()
            sums["hidden"] += weight * a.mean(-1)[unseen].mean()
            sums["confidence"] += cross(conf[seen], close[seen])
            sums["visibility"] += cross(vis[valid], truth.visible[b][valid].float())
    for name, value in sums.items():
        torch.testing.assert_close(getattr(ours, name), value / (ITERATIONS * B), rtol=1e-4, atol=1e-5)
    total = 0.05 * ours.position + ours.confidence + ours.visibility + 0.01 * ours.hidden
    torch.testing.assert_close(ours.total, total)


def test_track_loss_of_batch_is_mean(generator):
    output, truth = example(generator)
    whole = track_loss(output, truth, 40.0, TrackLossConfig())
    parts = []
    for b in range(B):
        one = slice(b, b + 1)
        cut = Tracks(truth.xy[one], truth.visible[one], truth.valid[one])
        parts.append(track_loss(HeadOutput(*(x[:, one] for x in output)), cut, 40.0, TrackLossConfig()))
    for name in whole._fields:
        torch.testing.assert_close(getattr(whole, name), torch.stack([getattr(p, name) for p in parts]).mean())


def test_hidden_points_get_no_gradient(generator):
    output, truth = example(generator)
    track_loss(output, truth, 40.0, TrackLossConfig()).total.backward()
    valid = truth.valid[:, :, None].expand(-1, -1, T, -1)
    seen = (valid & truth.visible).expand(ITERATIONS, -1, -1, -1, -1)
    assert (output.xy.grad[~seen] == 0).all()
    assert (output.xy.grad[seen].abs().sum(-1) > 0).all()


def test_track_loss_is_invariant_to_resolution(generator):
    output, truth = example(generator)
    doubled = HeadOutput(output.xy * 2, output.visible_logit, output.confidence_logit)
    torch.testing.assert_close(
        track_loss(doubled, truth.resized(2, 2), 80.0, TrackLossConfig()).total,
        track_loss(output, truth, 40.0, TrackLossConfig()).total,
    )


def test_hidden_tracks_cost_no_position(generator):
    output, truth = example(generator)
    hidden = Tracks(truth.xy, torch.zeros_like(truth.visible), truth.valid)
    loss = track_loss(output, hidden, 40.0, TrackLossConfig())
    assert loss.position.item() == loss.confidence.item() == 0
    assert loss.visibility.item() > 0


@pytest.mark.usefixtures("unchecked")
def test_invalid_input_raises(generator):
    output, truth = example(generator)
    with pytest.raises(ValueError, match=r"truth must be \(2, 2, 5, 7, 2\) \(B, V, T, N, 2\), got \(2, 2, 3, 7, 2\)"):
        track_loss(output, truth.frames(slice(0, 3)), 40.0, TrackLossConfig())
    with pytest.raises(ValueError, match="gamma must lie in"):
        TrackLossConfig(gamma=0.0)
    with pytest.raises(ValueError, match="must be positive"):
        TrackLossConfig(huber_px=0.0)
