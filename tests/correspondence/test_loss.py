from dataclasses import replace
from itertools import product

import pytest
import torch
from einops import rearrange

from mvtrack.config.losses import CorrespondenceLossConfig
from mvtrack.correspondence.features import features_from_tokens
from mvtrack.correspondence.logit_head import LogitHead
from mvtrack.correspondence.loss import (
    MVTRACK4GEN,
    correspondence_loss,
    correspondence_loss_per_layer,
    correspondence_loss_reference,
)
from mvtrack.correspondence.targets import CorrespondenceTargets

B, V, F, H, W, HEADS, D, Q = 2, 3, 2, 3, 5, 2, 7, 11


def features(generator) -> tuple[torch.Tensor, torch.Tensor]:
    return tuple(torch.randn(2, B, V, F, H, W, HEADS, D, generator=generator, dtype=torch.float64).requires_grad_())


def targets(generator, density: float = 0.4) -> CorrespondenceTargets:
    return CorrespondenceTargets(
        torch.randint(V * F * H * W, (B, Q), generator=generator),
        torch.randint(H * W, (B, Q, V, F), generator=generator),
        (torch.rand(B, Q, V, F, generator=generator) < density).float() * torch.rand(B, Q, V, F, generator=generator),
        (H, W),
        torch.rand(B, Q, V, F, generator=generator),
    )


def obvious_loss(q, k, t, config, head=None, num_reference=1) -> torch.Tensor:
    """Method §6-§7 written out, one row at a time."""
    flat = rearrange(q, "b v f h w n d -> b (v f h w) n d")
    rows = []  # (sample, is reference, weight, loss)
    for b, i in product(range(B), range(Q)):
        own = int(t.query[b, i]) // (H * W)
        keys = [
            (v, f)
            for v, f in product(range(V), range(F))
            if not (config.exclude == "own_frame" and v * F + f == own)
            and not (config.exclude == "own_view" and v == own // F)
        ]
        nearest = min(keys, key=lambda at: t.distance[b, i, at[0], at[1]])
        for v, f in keys:
            logits = torch.einsum("cnd,nd->nc", k[b, v, f].reshape(H * W, HEADS, D), flat[b, t.query[b, i]]) / D**0.5
            if config.heads == "mlp":
                p = head(logits.T)[None].softmax(-1)
            elif config.heads == "logit_mean":
                p = logits.mean(0, keepdim=True).softmax(-1)
            elif config.heads == "prob_mean":
                p = logits.softmax(-1).mean(0, keepdim=True)
            else:
                p = logits.softmax(-1)
            wanted = torch.zeros(H * W, dtype=p.dtype)
            wanted[t.label[b, i, v, f]] = float(config.label_scope == "per_pair" or (v, f) == nearest)
            loss = (p - wanted).abs().mean(1) if config.loss == "l1" else -(wanted * p.log()).sum(1)
            rows.append((b, own // F < num_reference, t.weight[b, i, v, f], loss.mean()))

    def mean(chosen):
        weight = sum(row[2] for row in chosen)
        return sum(row[2] * row[3] for row in chosen) / weight if weight else 0.0

    def part(kept):
        if config.average == "batch":
            return mean(kept)
        return sum(mean([row for row in kept if row[0] == b]) for b in range(B)) / B

    if config.reduction == "weighted_mean":
        return part(rows)
    return part([row for row in rows if row[1]]) + part([row for row in rows if not row[1]])


CONFIGS = [
    MVTRACK4GEN,
    CorrespondenceLossConfig(heads="per_head", exclude="own_view"),
    CorrespondenceLossConfig(heads="logit_mean", exclude="nothing", average="batch"),
    CorrespondenceLossConfig(heads="mlp", reduction="ref_plus_tgt"),
    CorrespondenceLossConfig(heads="prob_mean", reduction="ref_plus_tgt", average="batch", exclude="own_view"),
    CorrespondenceLossConfig(heads="prob_mean", loss="l1"),
    CorrespondenceLossConfig(heads="per_head", loss="l1", average="batch"),
    CorrespondenceLossConfig(heads="mlp", label_scope="best_view", reduction="ref_plus_tgt", exclude="own_view"),
    CorrespondenceLossConfig(heads="logit_mean", loss="l1", label_scope="best_view"),
]


def name_of(config: CorrespondenceLossConfig) -> str:
    changed = [str(v) for n, v in vars(config).items() if v != getattr(MVTRACK4GEN, n)]
    return "-".join(changed) or "mvtrack4gen"


@pytest.mark.parametrize("config", CONFIGS, ids=name_of)
def test_loss_and_gradients_equal_obvious_loss(generator, config):
    q, k = features(generator)
    asked, head = targets(generator), LogitHead(HEADS).double() if config.heads == "mlp" else None
    inputs = (q, k, *(head.parameters() if head else ()))
    truth = obvious_loss(q, k, asked, config, head)
    truth_grads = torch.autograd.grad(truth, inputs)
    for function in (correspondence_loss, correspondence_loss_reference):
        ours = function(q, k, asked, config, head)
        torch.testing.assert_close(ours, truth.double(), atol=1e-6, rtol=1e-6)  # weights are float32
        for a, b in zip(torch.autograd.grad(ours, inputs), truth_grads, strict=True):
            torch.testing.assert_close(a, b, atol=1e-7, rtol=1e-5)


@pytest.mark.parametrize("heads", ["prob_mean", "per_head", "logit_mean"])
def test_blocks_of_rows_keep_loss(generator, monkeypatch, heads):
    q, k = features(generator)
    asked, config = targets(generator), CorrespondenceLossConfig(heads=heads)
    whole = correspondence_loss(q, k, asked, config)
    grads = torch.autograd.grad(whole, (q, k))
    monkeypatch.setattr("mvtrack.correspondence.label_log_prob._BLOCK_CPU", 2 * H * W)  # two rows of one head
    for function in (correspondence_loss, correspondence_loss_reference):
        pieces = function(q, k, asked, config)
        torch.testing.assert_close(pieces, whole)
        for a, b in zip(torch.autograd.grad(pieces, (q, k)), grads, strict=True):
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize("config", CONFIGS, ids=name_of)
def test_empty_targets_give_zero_loss_and_gradient(generator, config):
    q, k = features(generator)
    head = LogitHead(HEADS) if config.heads == "mlp" else None
    asked = targets(generator, density=0.0)
    none = {name: getattr(asked, name)[:, :0] for name in ("query", "label", "weight", "distance")}
    for empty in (asked, replace(asked, **none)):
        loss = correspondence_loss(q, k, empty, config, head)
        assert loss.item() == 0
        for grad in torch.autograd.grad(loss, (q, k)):
            assert torch.equal(grad, torch.zeros_like(grad))


def test_loss_computes_in_float32(generator):
    q, k = (x.detach().bfloat16().requires_grad_() for x in features(generator))
    asked = targets(generator)
    wide = [x.detach().float().requires_grad_() for x in (q, k)]
    truth = correspondence_loss(*wide, asked)
    truth_grads = torch.autograd.grad(truth, wide)
    for context in (torch.autocast("cpu", torch.bfloat16), torch.autocast("cpu", enabled=False)):
        with context:
            low = correspondence_loss(q, k, asked)
        assert low.dtype == torch.float32
        assert low.item() == pytest.approx(truth.item(), rel=1e-6)
        for a, b in zip(torch.autograd.grad(low, (q, k)), truth_grads, strict=True):
            assert a.dtype == torch.bfloat16
            torch.testing.assert_close(a, b.bfloat16())


def test_huge_logits_stay_finite(generator):
    q, k = (1e4 * x.detach().float().requires_grad_() for x in features(generator))
    loss = correspondence_loss(q, k, targets(generator))
    assert loss.isfinite()
    assert all(g.isfinite().all() for g in torch.autograd.grad(loss, (q, k)))


def test_loss_is_invariant_to_view_and_frame_order(generator):
    q, k = (x.detach() for x in features(generator))
    asked = targets(generator)
    truth = correspondence_loss(q, k, asked)
    views, frames = torch.tensor([2, 0, 1]), torch.tensor([1, 0])
    cell, own = asked.query % (H * W), asked.own_frame
    query = (views.argsort()[own // F] * F + frames.argsort()[own % F]) * H * W + cell
    moved = CorrespondenceTargets(
        query, asked.label[:, :, views][..., frames], asked.weight[:, :, views][..., frames], (H, W)
    )
    again = correspondence_loss(q[:, views][:, :, frames], k[:, views][:, :, frames], moved)
    torch.testing.assert_close(again, truth)


def test_reference_mask_works_per_sample(generator):
    """Marked frame by frame they give what the number of leading views gives, and each sample has its own."""
    q, k = (x.detach() for x in features(generator))
    asked, config = targets(generator), CorrespondenceLossConfig(reduction="ref_plus_tgt")
    leading = [(torch.arange(V) < n)[:, None].expand(1, V, F) for n in (1, 2)]
    for n, mask in zip((1, 2), leading, strict=True):
        marked = correspondence_loss(q, k, asked, config, reference=mask.expand(B, V, F))
        torch.testing.assert_close(marked, correspondence_loss(q, k, asked, config, reference=n))
    both = correspondence_loss(q, k, asked, config, reference=torch.cat(leading))
    single = []
    for b, mask in enumerate(leading):
        own = replace(asked, **{n: getattr(asked, n)[b : b + 1] for n in ("query", "label", "weight", "distance")})
        single.append(correspondence_loss(q[b : b + 1], k[b : b + 1], own, config, reference=mask))
    torch.testing.assert_close(both, torch.stack(single).mean())


def test_fresh_logit_head_rises_with_every_head(generator):
    """Else supervision could be obeyed by attention that avoids the true cell."""
    logits = torch.randn(11, HEADS, generator=generator).requires_grad_()
    for seed in range(3):
        LogitHead(HEADS, seed)(logits + 2).sum().backward()
    assert (logits.grad > 0).all()


def test_loss_of_layers_is_their_mean(generator):
    first, second = features(generator), features(generator)
    asked = targets(generator)
    both = correspondence_loss_per_layer([first, second], asked)
    single = [correspondence_loss(*taps, asked) for taps in (first, second)]
    torch.testing.assert_close(both, torch.stack(single))


def test_invalid_input_raises(generator, unchecked):
    q, k = features(generator)
    asked = targets(generator)
    for call, message in (
        (lambda: correspondence_loss(q.mT, k, asked), "q and k must both be"),
        (lambda: correspondence_loss(q, k, replace(asked, grid=(W, H))), r"grid of \(5, 3\), features have \(3, 5\)"),
        (lambda: correspondence_loss(q[:, :2], k[:, :2], asked), r"\(2, 3, 2\), features have \(2, 2, 2\)"),
        (lambda: correspondence_loss(q, k, asked, MVTRACK4GEN, LogitHead(HEADS)), "logit head goes with heads: mlp"),
        (lambda: correspondence_loss(q, k, asked, CONFIGS[3], LogitHead(3)), "is for 3 heads, features have 2"),
        (lambda: correspondence_loss(q, k, asked, CONFIGS[3], LogitHead(HEADS), 3), r"reference views in \[1, 2\]"),
        (lambda: correspondence_loss(q, k, replace(asked, distance=None), CONFIGS[-1]), "best_view needs targets with"),
        (lambda: correspondence_loss_per_layer([], asked), "taps is empty"),
        (lambda: correspondence_loss_per_layer([(q, k)], asked, MVTRACK4GEN, []), "as many logit heads, got 0"),
        (lambda: replace(asked, label=asked.label + H * W), r"label must lie in \[0, 14\]"),
        (lambda: replace(asked, query=asked.query - 999), r"query must lie in \[0, 89\]"),
        (lambda: features_from_tokens(torch.zeros(1, 90, 7), V, F, (H, W), 2), "width 7 does not divide into 2 heads"),
        (lambda: features_from_tokens(torch.zeros(1, 89, 8), V, F, (H, W), 2), "tokens are 90, got 89"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_features_from_tokens_inverts_flattening(generator):
    q, _ = (x.detach() for x in features(generator))
    tokens = rearrange(q, "b v f h w n d -> b (v f h w) (n d)")
    assert torch.equal(features_from_tokens(tokens, V, F, (H, W), HEADS), q)
