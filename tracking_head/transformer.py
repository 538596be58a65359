"""The update network: attention over time, over views, and among points through a few virtual tracks (method §5)."""

import torch
from einops import rearrange, repeat
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tracking_head.attention import AttentionBlock
from tracking_head.config import HeadConfig
from tracking_head.shapes import Bool, Float

_KEPT_WIDTHS = 64  # what a layer keeps of a token for its backward pass, in widths of the token
_SMALL = 1e-3  # standard deviation of the output layers, so that a fresh head hardly moves points


class UpdateLayer(nn.Module):
    """One round. M = points + virtual tracks, points first."""

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        sizes = (config.dim, config.heads, config.mlp_ratio)
        self.time = AttentionBlock(*sizes)
        self.view = AttentionBlock(*sizes) if config.view_attention else None
        self.virtual_from_points = AttentionBlock(*sizes, cross=True)
        self.virtual_self = AttentionBlock(*sizes)
        self.points_from_virtual = AttentionBlock(*sizes, cross=True)

    def forward(self, x: Float[Tensor, "B V M T D"], valid: Bool[Tensor, "B V N"]) -> Float[Tensor, "B V M T D"]:
        batch, views, tracks, frames, _ = x.shape
        sizes = {"b": batch, "v": views, "t": frames}
        x = rearrange(
            self.time(rearrange(x, "b v m t d -> (b v m) t d")), "(b v m) t d -> b v m t d", m=tracks, **sizes
        )
        if self.view is not None:
            allowed = repeat(_view_mask(valid, tracks), "b m i j -> (b m t) i j", t=frames)
            x = self.view(rearrange(x, "b v m t d -> (b m t) v d"), allowed=allowed)
            x = rearrange(x, "(b m t) v d -> b v m t d", m=tracks, **sizes)
        x = rearrange(x, "b v m t d -> (b v t) m d")
        points, virtual = x[:, : valid.shape[-1]], x[:, valid.shape[-1] :]
        someone = valid | ~valid.any(-1, keepdim=True)  # a view without points must not divide by zero
        virtual = self.virtual_from_points(virtual, points, repeat(someone, "b v n -> (b v t) 1 n", t=frames))
        virtual = self.virtual_self(virtual)
        points = self.points_from_virtual(points, virtual)
        return rearrange(torch.cat([points, virtual], 1), "(b v t) m d -> b v m t d", **sizes)


def _view_mask(valid: Bool[Tensor, "B V N"], tracks: int) -> Bool[Tensor, "B M V V"]:
    """Which views a track may look at in view attention: its own, and those in which it means something."""
    virtual = valid.any(-1, keepdim=True).expand(-1, -1, tracks - valid.shape[-1])
    seen = rearrange(torch.cat([valid, virtual], -1), "b v m -> b m 1 v")
    return seen | torch.eye(valid.shape[1], dtype=torch.bool, device=valid.device)


def call(module: nn.Module, *inputs: Tensor, recompute: bool) -> Tensor:
    """A module's output; its activations are computed again in the backward pass, or kept."""
    if recompute and torch.is_grad_enabled():
        return checkpoint(module, *inputs, use_reentrant=False)
    return module(*inputs)


class UpdateTransformer(nn.Module):
    """Tokens of all points to their updates: (dx, dy) in cells of the finest level, and two logits' increments."""

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = nn.Linear(config.token_dim, config.dim)
        self.virtual_tracks = nn.Parameter(torch.randn(config.virtual_tracks, config.dim))
        self.layers = nn.ModuleList(UpdateLayer(config) for _ in range(config.layers))
        self.to_shift = nn.Linear(config.dim, 2)
        self.to_logits = nn.Linear(config.dim, 2)
        for module in self.modules():
            if isinstance(module, nn.Linear) and module.weight.ndim == 2:  # ZeRO-3's parts are filled from outside
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        for output in (self.to_shift, self.to_logits):
            nn.init.trunc_normal_(output.weight, std=_SMALL)

    def forward(self, tokens: Float[Tensor, "B V N T C"], valid: Bool[Tensor, "B V N"]) -> Float[Tensor, "B V N T 4"]:
        """Points that are not valid in a view neither give nor count there; what they get has no meaning."""
        x = self.embed(tokens)
        virtual = repeat(self.virtual_tracks, "k d -> b v k t d", b=x.shape[0], v=x.shape[1], t=x.shape[3])
        x = torch.cat([x, virtual.to(x.dtype)], 2)
        recompute = self.config.recomputes(_KEPT_WIDTHS * x.numel() * len(self.layers))
        for layer in self.layers:
            x = call(layer, x, valid, recompute=recompute)
        points = x[:, :, : tokens.shape[2]]
        return torch.cat([self.to_shift(points), self.to_logits(points)], -1)
