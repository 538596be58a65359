"""Self-attention over the views of a scene for networks of diffusers, and their common half of `MultiViewBackbone`."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import isqrt
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mvtrack.correspondence.logit_head import LogitHead
from mvtrack.models.backbone import DiTOutput, Tap, Visit, check_layer
from mvtrack.models.conditioning import Conditioning


def fused_attention(
    q: Float[Tensor, "B N H d"], k: Float[Tensor, "B N H d"], v: Float[Tensor, "B N H d"], _kernel: str = "auto"
) -> Float[Tensor, "B N D"]:
    """PyTorch's own choice of kernel."""
    heads_first = (rearrange(x, "b n h d -> b h n d") for x in (q, k, v))
    return rearrange(F.scaled_dot_product_attention(*heads_first), "b h n d -> b n (h d)")


class ViewAttention:
    """A processor of diffusers' `Attention`: q and k normalised and turned within each view, then views side by side.

    scope: `all` joins the views' tokens (view, row, column), `view` leaves every view alone.
    """

    attend = staticmethod(fused_attention)  # what perturb.py replaces in one layer

    def __init__(self, scope: Literal["all", "view"] = "all") -> None:
        self.scope = scope
        self.views = 1  # of the pass that runs, set by the backbone
        self.visits: list[Visit] = []

    def __call__(
        self, attn: nn.Module, hidden_states: Float[Tensor, "BV n D"], encoder_hidden_states: None = None,
        attention_mask: None = None, temb: None = None, image_rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> Float[Tensor, "BV n D"]:  # fmt: skip
        if encoder_hidden_states is not None or attention_mask is not None:
            raise ValueError("attention over views is self-attention without a mask: leave both out")
        q, k, v = (
            rearrange(project(hidden_states), "b n (h d) -> b h n d", h=attn.heads)
            for project in (attn.to_q, attn.to_k, attn.to_v)
        )
        q = q if attn.norm_q is None else attn.norm_q(q).to(v.dtype)
        k = k if attn.norm_k is None else attn.norm_k(k).to(v.dtype)
        if image_rotary_emb is not None:
            from diffusers.models.embeddings import apply_rotary_emb

            q, k = (apply_rotary_emb(x, image_rotary_emb) for x in (q, k))
        q, k, v = (rearrange(x, "(b v) h n d -> b (v n) h d", v=self.views) for x in (q, k, v))
        for visit in self.visits:
            visit(q, k)
        apart = "b (v n) ... -> (b v) n ..."
        if self.scope == "all":
            out = rearrange(self.attend(q, k, v, "auto"), apart, v=self.views)
        else:
            out = self.attend(*(rearrange(x, apart, v=self.views) for x in (q, k, v)), "auto")
        return attn.to_out[1](attn.to_out[0](out))


class DiffusersBackbone(nn.Module):
    """Layers of a network of diffusers over still views: taps, visits, and the inputs that all of them share.

    A subclass hands over its layers' processors and heads, and calls its network inside `joint(views, tap_layers)`.
    """

    stride = 8  # pixels of a latent

    def __init__(
        self, attentions: Sequence[ViewAttention], blocks: Sequence[nn.Module], num_heads: Sequence[int],
        logit_heads: tuple[int, ...] = (),
    ) -> None:  # fmt: skip
        """blocks: around every layer's attention. num_heads: of every layer. logit_heads: layers with a head of the
        correspondence loss."""
        super().__init__()
        self._attentions, self._blocks = tuple(attentions), tuple(blocks)
        for layer in logit_heads:
            check_layer(self, layer)
        self.logit_heads = nn.ModuleDict({str(layer): LogitHead(num_heads[layer]) for layer in logit_heads})

    @property
    def num_layers(self) -> int:
        return len(self._attentions)

    def self_attention(self, layer: int) -> ViewAttention:
        check_layer(self, layer)
        return self._attentions[layer]

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return next(self.parameters()).dtype

    def recompute(self, blocks: bool) -> None:
        """Whether blocks forget their activations and compute them again in the backward pass."""
        raise NotImplementedError

    @contextmanager
    def observed(self, layer: int, visit: Visit) -> Iterator[None]:
        """See `MultiViewBackbone`."""
        visits = self.self_attention(layer).visits
        visits.append(visit)
        try:
            yield
        finally:
            visits.remove(visit)

    @contextmanager
    def joint(self, views: int, tap_layers: tuple[int, ...] = ()) -> Iterator[dict[int, dict[str, Tensor]]]:
        """While open, batches are (B V); of the tapped layers q and k (B, V n, heads, d) and what their block returns,
        `hidden` (B V, n, D), are put into what it gives."""
        found: dict[int, dict[str, Tensor]] = {layer: {} for layer in tap_layers}
        for layer in tap_layers:
            check_layer(self, layer)
        for attention in self._attentions:
            attention.views = views
        visits = {layer: lambda q, k, layer=layer: found[layer].update(q=q, k=k) for layer in tap_layers}
        hooks = [
            self._blocks[layer].register_forward_hook(lambda _m, _in, out, layer=layer: found[layer].update(hidden=out))
            for layer in tap_layers
        ]
        for layer, visit in visits.items():
            self._attentions[layer].visits.append(visit)
        try:
            yield found
        finally:
            for layer, visit in visits.items():
                self._attentions[layer].visits.remove(visit)
            for hook in hooks:
                hook.remove()

    def condition(self, latents: Tensor, conditioning: Conditioning) -> Float[Tensor, "BV 7 H W"]:
        """Mask (0 in references, 1 in what is to be made) and rays of every pixel.

        Raises ValueError for latents and conditioning that do not fit each other or such a network.
        """
        batch, views, frames, _, height, width = latents.shape
        if frames != 1:
            raise ValueError(f"this network is for still views of one frame each, got {frames} latent frames")
        extra = [n for n in ("text", "poses", "maps", "image") if getattr(conditioning, n) is not None]
        if extra:
            raise ValueError(f"this model has no use for conditioning.{extra[0]}: see docs/backbones.md")
        expected = (batch, views, 1, 6, height * self.stride, width * self.stride)
        if conditioning.rays is None or tuple(conditioning.rays.shape) != expected:
            got = None if conditioning.rays is None else tuple(conditioning.rays.shape)
            raise ValueError(f"conditioning.rays must be {expected}, got {got}: make them with view_rays")
        rays = rearrange(conditioning.rays, "b v 1 c h w -> (b v) c h w")
        mask = (~reference_mask(conditioning, batch, views, rays.device)).flatten().to(rays)
        return torch.cat([mask[:, None, None, None].expand(-1, 1, *rays.shape[-2:]), rays], 1)


def reference_mask(conditioning: Conditioning, batch: int, views: int, device: torch.device) -> Bool[Tensor, "B V"]:
    """Which still views are references."""
    if conditioning.reference is not None:
        return conditioning.reference[..., 0].to(device)
    return (torch.arange(views, device=device) < conditioning.num_reference).expand(batch, -1)


def output_on_grid(prediction: Float[Tensor, "BV c h w"], found: dict[int, dict[str, Tensor]], views: int) -> DiTOutput:
    """Taps by ascending layer, tokens on their own grid, which is the latents' reduced by a whole number."""
    height, width = prediction.shape[-2:]
    taps, hidden = [], []
    for layer in sorted(found):
        q, k, out = (found[layer][name] for name in ("q", "k", "hidden"))
        factor = isqrt(height * width // out.shape[1])
        sizes = {"v": views, "h": height // factor, "w": width // factor}
        taps.append(Tap(*(rearrange(x, "b (v h w) n d -> b v 1 h w n d", **sizes) for x in (q, k))))
        hidden.append(rearrange(out, "(b v) (h w) d -> b v 1 h w d", **sizes))
    return DiTOutput(rearrange(prediction, "(b v) c h w -> b v 1 c h w", v=views), tuple(taps), tuple(hidden))
