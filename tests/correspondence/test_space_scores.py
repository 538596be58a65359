import pytest
import torch

from mvtrack.correspondence.probe import probe_rows
from mvtrack.correspondence.space_scores import ANGLE_EDGES_DEG, space_truth, sum_space
from mvtrack.correspondence.targets import CorrespondenceTargets

B, V, F, H, W, Q = 2, 3, 2, 3, 5, 13
CELLS = H * W


@pytest.fixture
def scene(generator):
    """Cameras around the origin, points of every token near it, random queries and labels."""
    points = 0.1 * torch.randn(B, V, F, CELLS, 3, generator=generator)
    points[0, 1, 1, 4] = torch.nan
    centres = 3 * torch.nn.functional.normalize(torch.randn(B, V, F, 3, generator=generator), dim=-1)
    centres[:, 1] = centres[:, 0] + 0.3 * torch.randn(B, F, 3, generator=generator)
    targets = CorrespondenceTargets(
        torch.randint(V * F * CELLS, (B, Q), generator=generator),
        torch.randint(CELLS, (B, Q, V, F), generator=generator),
        (torch.rand(B, Q, V, F, generator=generator) < 0.7).float(),
        (H, W),
    )
    return targets, points, centres


def test_space_counts_equal_loops(scene, generator, monkeypatch):
    monkeypatch.setattr("mvtrack.correspondence.space_scores._QUERIES", 3)
    targets, points, centres = scene
    q, k = torch.randn(2, B, V, F, H, W, 2, 7, generator=generator).unbind(0)
    rows, threshold = probe_rows(q, k, targets, 4), torch.tensor([0.1, 0.15])
    sums = sum_space(rows, targets, space_truth(targets, points, centres, threshold))
    expected = torch.zeros(3, len(ANGLE_EDGES_DEG) - 1)
    for b in range(B):
        for i in range(Q):
            view, time, cell = (int(x) for x in torch.unravel_index(targets.query[b, i], (V, F, CELLS)))
            start = points[b, view, time, cell]
            for v in range(V):
                if v == view or targets.weight[b, i, v, time] == 0 or start.isnan().any():
                    continue
                a, c = (x / x.norm() for x in (start - centres[b, view, time], start - centres[b, v, time]))
                angle = torch.rad2deg(2 * torch.asin((a - c).norm() / 2)).item()
                n = max(j for j, edge in enumerate(ANGLE_EDGES_DEG) if edge <= angle)
                gaps = (points[b, v, time] - start).norm(dim=-1)
                expected[:, n] += torch.tensor(
                    [1.0, gaps[rows.match[b, i, v, time]] <= threshold[b], (gaps <= threshold[b]).any()]
                )
    torch.testing.assert_close(torch.stack([sums.rows, sums.near, sums.reachable]).float(), expected)
    assert (expected[0] > 0).sum() >= 2
    assert 0 < expected[1].sum() <= expected[2].sum() < expected[0].sum()


def test_perfect_matcher_reaches_everything_reachable(generator):
    """Both views see the same points at the same tokens; matches are the tokens themselves."""
    points = torch.randn(1, 1, 1, CELLS, 3, generator=generator).expand(1, 2, F, -1, -1)
    query = torch.arange(2 * F * CELLS)[None]
    label = (query % CELLS)[..., None, None].expand(-1, -1, 2, F)
    targets = CorrespondenceTargets(query, label, torch.ones(label.shape), (H, W))
    right = 40 * torch.eye(CELLS).view(1, 1, 1, H, W, 1, CELLS).expand(1, 2, F, H, W, 1, CELLS)
    centres = torch.tensor([[0.0, 0, -9], [0, 9, 0]])[None, :, None].expand(1, 2, F, 3)
    truth = space_truth(targets, points, centres, torch.tensor([1e-6]))
    sums = sum_space(probe_rows(right, right, targets, 4), targets, truth)
    assert sums.rows.sum() == 2 * F * CELLS
    assert torch.equal(sums.near, sums.rows)
    assert torch.equal(sums.reachable, sums.rows)
    assert sums.rows[-1] > 0.9 * sums.rows.sum()  # the cameras see them from a right angle
    doubled = sums + sums
    assert torch.equal(doubled.near, 2 * sums.near)
