"""The loss and the probe on a backbone that is not ours: a joint-attention block of photographs, in CAMEO's manner.

The adapter is all that such a backbone needs (docs/correspondence.md): two hooks and `features_from_tokens`.
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mvtrack.correspondence.features import features_from_tokens
from mvtrack.correspondence.logit_head import LogitHead
from mvtrack.correspondence.loss import CAMEO, correspondence_loss
from mvtrack.correspondence.nearest_neighbours import PointMaps, targets_from_points
from mvtrack.correspondence.probe import probe_rows
from mvtrack.correspondence.probe_scores import sum_scores

B, VIEWS, GRID, HEADS, WIDTH, TEXT, PX = 2, 3, (5, 7), 2, 26, 11, 8
CELLS = GRID[0] * GRID[1]


class JointAttention(nn.Module):
    """Attention over all views of a scene and some text tokens in front, q and k normalised per head."""

    def __init__(self) -> None:
        super().__init__()
        self.to_qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.norm_q, self.norm_k = nn.LayerNorm(WIDTH // HEADS), nn.LayerNorm(WIDTH // HEADS)

    def forward(self, text: Tensor, images: Tensor) -> Tensor:
        """text (B, L, D), images (B V, h w, D) -> (B V, h w, D)."""
        joint = torch.cat([text, rearrange(images, "(b v) n d -> b (v n) d", v=VIEWS)], 1)
        q, k, v = (rearrange(x, "b n (i d) -> b i n d", i=HEADS) for x in self.to_qkv(joint).chunk(3, -1))
        out = F.scaled_dot_product_attention(self.norm_q(q), self.norm_k(k), v)
        return rearrange(out[:, :, TEXT:], "b i (v n) d -> (b v) n (i d)", v=VIEWS)


class UNetLike(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Conv2d(3, WIDTH, PX, PX)
        self.blocks = nn.ModuleList(JointAttention() for _ in range(2))

    def forward(self, photos: Tensor, text: Tensor, recompute: bool = False) -> Tensor:
        """photos (B V, 3, H, W)."""
        x = self.embed(photos).flatten(2).mT
        for block in self.blocks:
            x = x + (checkpoint(block, text, x, use_reentrant=False) if recompute else block(text, x))
        return x


class Adapter:
    """Hands out one block's q and k, as they enter the attention, in the shape that loss and probe take."""

    def __init__(self, block: JointAttention) -> None:
        self.found: dict[str, Tensor] = {}
        block.norm_q.register_forward_hook(lambda _m, _i, out: self.found.setdefault("q", out))
        block.norm_k.register_forward_hook(lambda _m, _i, out: self.found.setdefault("k", out))

    def features(self) -> tuple[Tensor, Tensor]:
        """(B, V, 1, h, w, heads, d) each. Forgets them: a recomputation in the backward pass must not replace them."""
        tokens = (rearrange(self.found.pop(n)[:, :, TEXT:], "b i n d -> b n (i d)") for n in "qk")
        return tuple(features_from_tokens(x, VIEWS, 1, GRID, HEADS) for x in tokens)


def scene(generator) -> tuple[Tensor, Tensor, Tensor]:
    """Photographs of a textured plane by cameras that shift by whole tokens, its points, and text."""
    height, width = GRID[0] * PX, (GRID[1] + VIEWS - 1) * PX
    wall = torch.rand(B, 3, height, width, generator=generator)
    ys, xs = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    place = torch.stack([xs, ys, torch.full_like(xs, 3.0)]).expand(B, 3, -1, -1)

    def cut(x: Tensor) -> Tensor:
        return torch.stack([x[..., v * PX : (v + GRID[1]) * PX] for v in range(VIEWS)], 1)

    return cut(wall).flatten(0, 1), cut(place)[:, :, None], torch.randn(B, TEXT, WIDTH, generator=generator)


def test_loss_and_probe_work_on_foreign_backbone(generator):
    """Its weights learn to look where the points are, through a layer that knows nothing of the loss."""
    photos, points, text = scene(generator)
    net, head = UNetLike(), LogitHead(HEADS)
    adapter = Adapter(net.blocks[1])
    targets = targets_from_points(PointMaps(points), GRID)
    shift = targets.label[0, CELLS + 1, 0, 0]  # the second token of view 1, seen from view 0: one cell to the right
    assert shift == 2
    optimizer = torch.optim.Adam([*net.parameters(), *head.parameters()], lr=3e-3)
    errors = []
    for _ in range(25):
        net(photos, text)
        q, k = adapter.features()
        assert q.shape == (B, VIEWS, 1, *GRID, HEADS, WIDTH // HEADS)
        errors.append(sum_scores(probe_rows(q, k, targets, PX), targets, float(PX)).over_all_kinds())
        optimizer.zero_grad()
        correspondence_loss(q, k, targets, CAMEO, head).backward()
        optimizer.step()
    assert errors[-1]["alignment_error"] < 0.75 * errors[0]["alignment_error"]
    assert errors[-1]["pck"] > errors[0]["pck"] + 0.2


def test_recomputed_blocks_keep_gradients(generator):
    photos, points, text = scene(generator)
    targets, gradients = targets_from_points(PointMaps(points), GRID), []
    for recompute in (False, True):
        net = UNetLike()
        adapter = Adapter(net.blocks[1])
        out = net(photos, text, recompute)
        q, k = adapter.features()
        (out.square().mean() + correspondence_loss(q, k, targets, CAMEO, LogitHead(HEADS))).backward()
        gradients.append({name: p.grad for name, p in net.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, msg=name)
    assert gradients[0]["blocks.1.to_qkv.weight"].abs().sum() > 0
