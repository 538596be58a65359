import math

import pytest
import torch
from einops import rearrange

from mvtrack.correspondence.probe import probe_rows
from mvtrack.correspondence.probe_scores import KINDS, kinds_of_rows, precision_3d, sum_scores
from mvtrack.correspondence.targets import CorrespondenceTargets, targets_from_tracks
from tracking_head import Tracks

B, V, F, H, W, HEADS, D, Q, PX = 2, 3, 2, 3, 5, 2, 7, 11, 4


def features(generator):
    return torch.randn(2, B, V, F, H, W, HEADS, D, generator=generator).unbind(0)


def targets(generator) -> CorrespondenceTargets:
    return CorrespondenceTargets(
        torch.randint(V * F * H * W, (B, Q), generator=generator),
        torch.randint(H * W, (B, Q, V, F), generator=generator),
        (torch.rand(B, Q, V, F, generator=generator) < 0.4).float(),
        (H, W),
    )


def centre(cell: int) -> torch.Tensor:
    return torch.tensor([cell % W + 0.5, cell // W + 0.5]) * PX


def test_probe_rows_equal_full_attention_matrix(generator, monkeypatch):
    q, k = features(generator)
    asked = targets(generator)
    monkeypatch.setattr("mvtrack.correspondence.probe._BLOCK", 3 * HEADS * H * W)
    rows = probe_rows(q, k, asked, PX)
    for b in range(B):
        flat_q, flat_k = (rearrange(x[b], "v f h w n d -> n (v f h w) d") for x in (q, k))
        logits = flat_q @ flat_k.mT / math.sqrt(D)
        joint = logits.softmax(-1).mean(0)
        framed = logits.unflatten(-1, (V * F, H * W)).log_softmax(-1)
        mean = framed.exp().mean(0)
        for i in range(Q):
            token = int(asked.query[b, i])
            for s in range(V * F):
                at, label = (b, i, s // F, s % F), int(asked.label[b, i].flatten()[s])
                expected = asked.weight[at] > 0 and s != token // (H * W)
                assert rows.asked[at] == expected
                if not expected:
                    assert rows.confidence[at] == rows.attention[at] == rows.error_px[at] == rows.cycle_px[at] == 0
                    assert not rows.nll[(slice(None), *at)].any()
                    continue
                match = int(mean[token, s].argmax())
                back = int(mean[s * H * W + match, token // (H * W)].argmax())
                assert rows.match[at] == match
                near = {"atol": 1e-5, "rtol": 1e-5}
                torch.testing.assert_close(rows.confidence[at], mean[token, s].max(), **near)
                torch.testing.assert_close(rows.attention[at], joint[token, s * H * W + label], **near)
                torch.testing.assert_close(rows.nll[(slice(None), *at)], -framed[:, token, s, label], **near)
                torch.testing.assert_close(rows.error_px[at], (centre(match) - centre(label)).norm(), **near)
                torch.testing.assert_close(rows.cycle_px[at], (centre(back) - centre(token % (H * W))).norm(), **near)


def test_probe_scores_are_means_per_kind(generator):
    q, k = features(generator)
    asked = targets(generator)
    rows = probe_rows(q, k, asked, PX)
    both = sum_scores(rows, asked, threshold_px=PX)
    halves = []
    for b in range(B):
        one = CorrespondenceTargets(*(getattr(asked, n)[b : b + 1] for n in ("query", "label", "weight")), (H, W))
        halves.append(sum_scores(probe_rows(q[b : b + 1], k[b : b + 1], one, PX), one, PX))
    torch.testing.assert_close((halves[0] + halves[1]).nll, both.nll)
    means, kinds = both.means(), kinds_of_rows(asked)
    for i, kind in enumerate(KINDS):
        chosen = kinds[i] & rows.asked
        right = (rows.error_px[chosen] <= PX) & (rows.cycle_px[chosen] <= PX)
        assert means[kind]["rows"] == chosen.sum()
        assert means[kind]["pck"] == pytest.approx(right.float().mean().item())
        assert means[kind]["attention_score"] == pytest.approx(rows.attention[chosen].mean().item(), rel=1e-5)
        assert means[kind]["confidence_score"] == pytest.approx(rows.confidence[chosen].mean().item(), rel=1e-5)
        assert means[kind]["alignment_error"] == pytest.approx(rows.nll[:, chosen].mean().item(), rel=1e-5)
        assert both.alignment_error_per_head(kind) == pytest.approx(rows.nll[:, chosen].mean(1).tolist(), rel=1e-5)


def test_row_kinds_follow_views_and_roles(generator):
    asked = targets(generator)
    kinds = kinds_of_rows(asked, reference=2)
    assert torch.equal(kinds.sum(0), torch.ones_like(asked.label))
    for b, i, v, f in torch.cartesian_prod(*map(torch.arange, (B, Q, V, F))).tolist():
        own = int(asked.query[b, i]) // (F * H * W)
        expected = 2 if own != v else (0 if own < 2 else 1)
        assert kinds[expected, b, i, v, f]


def test_row_kinds_follow_reference_mask(generator):
    asked = targets(generator)
    reference = torch.rand(B, V, F, generator=generator) < 0.5
    kinds = kinds_of_rows(asked, reference=reference)
    assert torch.equal(kinds.sum(0), torch.ones_like(asked.label))
    for b, i, v, f in torch.cartesian_prod(*map(torch.arange, (B, Q, V, F))).tolist():
        own = int(asked.query[b, i]) // (H * W)
        given = reference[b, own // F, own % F]
        assert kinds[2 if own // F != v else (0 if given else 1), b, i, v, f]
    q, k = features(generator)
    rows = probe_rows(q, k, asked, PX)
    whole = sum_scores(rows, asked, float(PX), reference=reference).over_all_kinds()
    assert whole["alignment_error"] == pytest.approx(rows.nll[:, rows.asked].mean().item(), rel=1e-5)
    right = (rows.error_px <= PX) & (rows.cycle_px <= PX)
    assert whole["pck"] == pytest.approx(right[rows.asked].float().mean().item())


def tracked(generator) -> tuple[Tracks, CorrespondenceTargets]:
    """One point a token, in the same places in every view and frame."""
    cells = torch.arange(H * W)
    place = (torch.stack([cells % W, cells // W], -1) + torch.rand(H * W, 2, generator=generator) * 0.9) * PX
    xy = place.expand(1, 2, 5, -1, -1)
    tracks = Tracks(xy, torch.ones(1, 2, 5, H * W, dtype=torch.bool), torch.ones(1, 2, H * W, dtype=torch.bool))
    return tracks, targets_from_tracks(tracks, (H * PX, W * PX), PX, num_queries=None)


def test_probe_scores_of_perfect_and_lost_attention(generator):
    _, asked = tracked(generator)
    right = 40 * torch.eye(H * W).view(1, 1, 1, H, W, 1, H * W).expand(1, 2, 2, H, W, HEADS, H * W)
    sums = sum_scores(probe_rows(right, right, asked, PX), asked, threshold_px=PX)
    for kind in KINDS:
        scores = sums.means()[kind]
        assert scores["pck"] == 1
        assert scores["confidence_score"] == pytest.approx(1, abs=1e-5)
        assert scores["attention_score"] == pytest.approx(0.25, abs=1e-5)  # of four frames alike
        assert scores["alignment_error"] == pytest.approx(0, abs=1e-4)
    lost = right.clone()
    lost[:, 1] = right[:, 1].flip(2, 3)  # target queries look at the opposite cell, so cross matches do not come back
    means = sum_scores(probe_rows(lost, right, asked, PX), asked, PX).means()
    assert means["reference_temporal"]["pck"] == 1
    assert means["cross_view"]["pck"] < 0.1


def test_probe_errors_use_exact_positions(generator):
    _, asked = tracked(generator)
    right = 40 * torch.eye(H * W).view(1, 1, 1, H, W, 1, H * W).expand(1, 2, 2, H, W, 1, H * W)
    rows = probe_rows(right, right, asked, PX)
    expected = torch.stack([centre(int(c)) for c in asked.label.flatten()]).view(asked.label_xy.shape) - asked.label_xy
    torch.testing.assert_close(rows.error_px, expected.norm(dim=-1) * rows.asked)
    assert sum_scores(rows, asked, threshold_px=0.01).means()["cross_view"]["pck"] == 0


def test_precision_3d_counts_near_points(generator):
    _, asked = tracked(generator)
    right = 40 * torch.eye(H * W).view(1, 1, 1, H, W, 1, H * W).expand(1, 2, 2, H, W, 1, H * W)
    rows = probe_rows(right, right, asked, PX)
    points = torch.rand(H * W, 3, generator=generator).expand(1, 2, 2, -1, -1).clone()
    points[:, 1] += torch.tensor([0.03, 0, 0])
    found, gap = precision_3d(rows, asked, points)
    kinds = kinds_of_rows(asked)
    assert found[kinds[0] & rows.asked].all()
    assert not found[kinds[2]].any()
    torch.testing.assert_close(gap[kinds[2] & rows.asked], torch.full_like(gap[kinds[2] & rows.asked], 0.03))
    assert gap[~rows.asked].isnan().all()


def test_probe_of_no_rows_is_empty(generator, unchecked):
    q, k = features(generator)
    asked = targets(generator)
    none = CorrespondenceTargets(asked.query, asked.label, torch.zeros_like(asked.weight), (H, W))
    rows = probe_rows(q, k, none, PX)
    assert sum_scores(rows, none, PX).means() == {}
    with pytest.raises(ValueError, match="token grid of"):
        probe_rows(q.mT, k.mT, CorrespondenceTargets(asked.query, asked.label, asked.weight, (W, H)), PX)


def test_low_precision_features_compare_in_float32(generator):
    q, k = (x.bfloat16() for x in features(generator))
    asked = targets(generator)
    low, wide = probe_rows(q, k, asked, PX), probe_rows(q.float(), k.float(), asked, PX)
    with torch.autocast("cpu", torch.bfloat16):
        inside = probe_rows(q, k, asked, PX)
    for found in (low, inside):
        torch.testing.assert_close(found.nll, wide.nll)
        assert torch.equal(found.match, wide.match)
