import pytest
import torch
from einops import rearrange

from mvtrack.correspondence.loss import correspondence_loss
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
    )


def obvious_loss(q, k, t: CorrespondenceTargets) -> torch.Tensor:
    """Method §6, written out: softmax over each frame's keys, mean over heads, -log at the label, mean over samples."""
    flat = rearrange(q, "b v f h w n d -> b (v f h w) n d")
    samples = []
    for b in range(B):
        total, weight = 0.0, 0.0
        for i in range(Q):
            for v in range(V):
                for f in range(F):
                    if v * F + f == t.query[b, i] // (H * W):
                        continue
                    o = t.weight[b, i, v, f]
                    keys = k[b, v, f].reshape(H * W, HEADS, D)
                    logits = torch.stack([keys[:, n] @ flat[b, t.query[b, i], n] for n in range(HEADS)]) / D**0.5
                    p = logits.softmax(-1).mean(0)[t.label[b, i, v, f]]
                    total, weight = total - o * p.log(), weight + o
        samples.append(total / weight)
    return sum(samples) / B


def test_equals_the_obvious_loss_in_value_and_gradient(generator):
    q, k = features(generator)
    asked = targets(generator)
    ours = correspondence_loss(q, k, asked)
    ours_grad = torch.autograd.grad(ours, (q, k))
    reference = obvious_loss(q, k, asked)
    torch.testing.assert_close(ours.double(), reference, atol=1e-5, rtol=0)
    for a, b in zip(ours_grad, torch.autograd.grad(reference, (q, k)), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


def test_nothing_asked_costs_nothing(generator):
    q, k = features(generator)
    loss = correspondence_loss(q, k, targets(generator, density=0.0))
    assert loss.item() == 0


def test_perfect_attention_costs_nothing():
    q = torch.zeros(1, 2, 1, 2, 2, 1, 4)
    k = 60 * torch.eye(4).view(1, 1, 1, 2, 2, 1, 4).repeat(1, 2, 1, 1, 1, 1, 1)
    q[0, 1, 0] = torch.eye(4).view(2, 2, 1, 4)
    label = torch.arange(4).view(1, 4, 1, 1).expand(1, 4, 2, 1)
    weight = torch.tensor([1.0, 0.0]).view(1, 1, 2, 1).expand(1, 4, 2, 1)
    good = CorrespondenceTargets(torch.arange(4, 8)[None], label, weight, (2, 2))
    assert correspondence_loss(q, k, good).item() == pytest.approx(0, abs=1e-4)
    wrong = CorrespondenceTargets(torch.arange(4, 8)[None], label.flip(1), weight, (2, 2))
    assert correspondence_loss(q, k, wrong).item() > 10


def test_half_precision_features_are_compared_in_float32(generator):
    q, k = features(generator)
    asked = targets(generator)
    low = correspondence_loss(q.bfloat16(), k.bfloat16(), asked)
    assert low.dtype == torch.float32
    assert low.item() == pytest.approx(correspondence_loss(q, k, asked).item(), rel=0.02)


def test_another_grid_is_refused(generator):
    q, k = features(generator)
    asked = CorrespondenceTargets(*[getattr(targets(generator), n) for n in ("query", "label", "weight")], (W, H))
    with pytest.raises(ValueError, match=r"token grid of \(5, 3\), features have \(3, 5\)"):
        correspondence_loss(q, k, asked)
