"""Against numbers that CAMEO's released code produced (its own logit head, cost, cycle check and loss block)."""

from dataclasses import replace

import pytest
import torch
from einops import rearrange

from mvtrack.config.losses import PointMatchConfig
from mvtrack.correspondence.logit_head import LogitHead
from mvtrack.correspondence.loss import CAMEO, correspondence_loss, correspondence_loss_reference
from mvtrack.correspondence.nearest_neighbours import PointMaps, targets_from_points, token_points

UNGATED = PointMatchConfig(max_spacings=None)  # it knows no limit of distance
RELEASED = replace(CAMEO, label_scope="best_view")  # one label a query, as the released code has it


@pytest.fixture(params=[0, 1])
def case(request, golden_numbers):
    z = {name: torch.from_numpy(x) for name, x in golden_numbers(f"cameo_{request.param}").items()}
    views = z["point_map"].shape[1]
    side = int((z["q"].shape[2] // views) ** 0.5)
    q, k = (rearrange(z[n].double(), "b n (v f h w) d -> b v f h w n d", v=views, f=1, h=side) for n in "qk")
    head = LogitHead(q.shape[-2]).double()
    head.load_state_dict({name[5:]: value for name, value in z.items() if name.startswith("head.")})
    return z, q.requires_grad_(), k.requires_grad_(), head, z["point_map"][:, :, None], (side, side)


def by_pair(x, z):
    """(B, Q, V, 1) of all tokens as (B, Fq, HW, Fk)."""
    return x[..., 0].unflatten(1, (z["point_map"].shape[1], -1))


def test_golden_labels_and_cycle_masks(case):
    z, _, _, _, points, grid = case
    place, _ = token_points(points, torch.ones_like(points[:, :, :, 0], dtype=torch.bool), grid)
    torch.testing.assert_close(place[:, :, 0], z["token_points"], atol=1e-5, rtol=0)
    targets = targets_from_points(PointMaps(points), grid, UNGATED)
    assert torch.equal(by_pair(targets.label, z), z["pair_nn"].long())
    assert torch.equal(by_pair(targets.weight, z) > 0, z["cycle_mask"])
    torch.testing.assert_close(by_pair(targets.distance, z), -z["pair_cost_best"], atol=1e-5, rtol=0)
    coarse = targets_from_points(PointMaps(points), grid, replace(UNGATED, cycle_cells=round(grid[0] / 10)))
    assert torch.equal(by_pair(coarse.weight, z) > 0, z["cycle_mask_threshold_none"])


def test_golden_cameo_losses(case):
    z, q, k, head, points, grid = case
    targets, num_reference, views = (
        targets_from_points(PointMaps(points), grid, UNGATED),
        int(z["num_reference"]),
        q.shape[1],
    )
    unchecked = targets_from_points(PointMaps(points), grid, replace(UNGATED, cycle_cells=None))
    coarse = targets_from_points(PointMaps(points), grid, replace(UNGATED, cycle_cells=round(grid[0] / 10)))
    banned = (targets.own_frame < num_reference)[..., None, None] | (torch.arange(views) >= num_reference)[:, None]
    to_reference = replace(
        targets, weight=targets.weight * ~banned, distance=targets.distance.masked_fill(banned, torch.inf)
    )
    heads = {"mlp": head, "prob_mean": None}
    for name, asked, config, factor in (
        ("default", targets, RELEASED, 1),
        ("headmean", targets, replace(RELEASED, heads="prob_mean"), 1),
        ("l1", targets, replace(RELEASED, loss="l1"), 1),
        ("with_self_key", targets, replace(RELEASED, exclude="nothing"), 1),
        ("threshold_none", coarse, RELEASED, 1),
        ("nomask", unchecked, RELEASED, views - 1),  # its rows are queries, ours pairs
        ("independent_per_pair_label", targets, CAMEO, 1),
        ("target_query_reference_key_only", to_reference, RELEASED, 1),
    ):
        loss = factor * correspondence_loss(q, k, asked, config, heads[config.heads], num_reference)
        assert loss.item() == pytest.approx(z[f"{name}.loss"].item(), rel=2e-5), name


def test_golden_cameo_gradients(case):
    z, q, k, head, points, grid = case
    targets, num_reference = targets_from_points(PointMaps(points), grid, UNGATED), int(z["num_reference"])

    def check(ours, name):
        peer = z[name].double()
        assert (ours - peer).abs().max() <= 1e-4 * peer.abs().max(), name

    for option, config in (("default", RELEASED), ("headmean", replace(RELEASED, heads="prob_mean"))):
        own_head = head if config.heads == "mlp" else None
        for function in (correspondence_loss, correspondence_loss_reference):
            weights = list(head.parameters()) if own_head else []
            loss = function(q, k, targets, config, own_head, num_reference)
            grads = torch.autograd.grad(loss, (q, k, *weights))
            for name, grad in zip(("grad_q", "grad_k"), grads, strict=False):
                check(rearrange(grad, "b v f h w n d -> b n (v f h w) d"), f"{option}.{name}")
            for (name, _), grad in zip(head.named_parameters(), grads[2:], strict=False):
                if name != "mlp.2.bias":  # it cancels in the softmax: both are rounding
                    check(grad, f"default.grad_head.{name}")
