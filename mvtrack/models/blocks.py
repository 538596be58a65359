"""One Wan transformer block with switches: text, image, this project's camera rays, and what ReCamMaster and
ReDirector add to it. Parameter names are those of the released checkpoints.
"""

from typing import Literal, NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from mvtrack.config.model import DiTConfig
from mvtrack.models.attention import attend
from mvtrack.models.camera_encoding import CameraMatrices, apply_projection, camera_channels
from mvtrack.models.rope import add_phase, apply_phase, apply_rope, default_pairs

Scope = Literal["all", "view", "moment"]  # what a token attends to: all tokens, its view's, or its moment's
_GROUPS = {"view": ("b (v f n) h d", "(b v) (f n) h d"), "moment": ("b (v f n) h d", "(b f) (v n) h d")}


def scope_of(config: DiTConfig, layer: int) -> Scope:
    """What the tokens of block `layer` (counted from 0) attend to."""
    everything = config.attention == "full" or layer < config.full_attention_blocks
    return "all" if everything else ("view", "moment")[layer % 2]


class RMSNorm(nn.Module):
    """RMS normalisation over the full width (all heads together), in float32."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        wide = x.float()
        return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps) * self.weight.float()).to(x.dtype)


class Heads(NamedTuple):
    """Query and key handed to attention, after normalisation and RoPE (and its phases), heads split.

    plain: the same before RoPE (and its phases), where those are tapped. v: of references that others attend to.
    """

    q: Float[Tensor, "B N H d"]
    k: Float[Tensor, "B N H d"]
    plain: tuple[Float[Tensor, "B N H d"], Float[Tensor, "B N H d"]] | None = None
    v: Float[Tensor, "B N H d"] | None = None

    @property
    def tapped(self) -> tuple[Float[Tensor, "B N H d"], Float[Tensor, "B N H d"]]:
        """What the correspondence loss and the tracking head look at."""
        return (self.q, self.k) if self.plain is None else self.plain


class Context(NamedTuple):
    """Keys and values of views that have run already, to which the tokens at hand attend as well. views: how many."""

    k: Float[Tensor, "B N H d"]
    v: Float[Tensor, "B N H d"]
    views: int


class BlockConditioning(NamedTuple):
    """What every block gets beside its tokens; None where the model has no such branch.

    camera: this project's ray features. poses: ReCamMaster's, one row per view and frame (N is a multiple of M).
    control: ReDirector's camera tokens. image: CLIP's tokens, embedded. cameras: of PRoPE. views, frames: N is a
    multiple of V f. context: of references that have run before; returns_values: such a run, whose `Heads` hold v.
    """

    time: Float[Tensor, "B 6 D"]
    rope: tuple[Tensor, Tensor]
    views: int
    frames: int
    text: Float[Tensor, "B L D"] | None = None
    camera: Float[Tensor, "B N D"] | None = None
    poses: Float[Tensor, "B M 12"] | None = None
    control: Float[Tensor, "B N D"] | None = None
    image: Float[Tensor, "B I D"] | None = None
    cameras: CameraMatrices | None = None
    context: Context | None = None
    returns_values: bool = False

    def of_views(self, start: int, stop: int) -> "BlockConditioning":
        """Of the tokens of views [start, stop) alone."""

        def cut(rows: Tensor | None, dim: int = 1) -> Tensor | None:
            if rows is None:
                return None
            per_view = rows.shape[dim] // self.views
            return rows.narrow(dim, start * per_view, (stop - start) * per_view)

        cos, sin = self.rope
        return self._replace(
            rope=(cut(cos, 0), cut(sin, 0)), views=stop - start, camera=cut(self.camera), poses=cut(self.poses),
            control=cut(self.control), cameras=self.cameras and CameraMatrices(*map(cut, self.cameras)),
        )  # fmt: skip


class SelfAttention(nn.Module):
    """phase_pairs > 0 adds ReDirector's rotary camera phases (RoCE): tokens' own rotations of their row and column
    pairs, one set for query and key, one by which the value is turned back and the output forth. taps_plain: query
    and key before RoPE are returned too. scope: what tokens attend to.
    """

    attend = staticmethod(attend)  # what perturb.py replaces in one block

    def __init__(
        self, dim: int, num_heads: int, eps: float, phase_pairs: int = 0, taps_plain: bool = False, scope: Scope = "all"
    ) -> None:
        super().__init__()
        self.num_heads, self.taps_plain, self.scope = num_heads, taps_plain, scope
        self.q = nn.Linear(dim, dim)
        self.k = nn.Linear(dim, dim)
        self.v = nn.Linear(dim, dim)
        self.o = nn.Linear(dim, dim)
        self.norm_q = RMSNorm(dim, eps)
        self.norm_k = RMSNorm(dim, eps)
        self.has_phases = phase_pairs > 0
        if phase_pairs:
            self.rope_phase_qk = nn.Sequential(nn.SiLU(), nn.Linear(dim, num_heads * phase_pairs, bias=False))
            self.rope_phase_vo = nn.Sequential(nn.SiLU(), nn.Linear(dim, num_heads * phase_pairs, bias=False))

    def forward(
        self, x: Float[Tensor, "B N D"], conditioning: BlockConditioning, kernel: str
    ) -> tuple[Float[Tensor, "B N D"], Heads]:
        rope, control = conditioning.rope, conditioning.control if self.has_phases else None
        q, k, v = (self._split(t) for t in (self.norm_q(self.q(x)), self.norm_k(self.k(x)), self.v(x)))
        plain = (q.to(v.dtype), k.to(v.dtype)) if self.taps_plain else None
        if conditioning.cameras is not None:
            return self._attend_by_camera(q, k, v, kernel, conditioning, plain)
        if control is None:
            q, k = apply_rope(q, *rope).to(v.dtype), apply_rope(k, *rope).to(v.dtype)
            attended = self._attend_in_scope(q, k, v, kernel, conditioning)
            return self.o(attended), Heads(q, k, plain, v if conditioning.returns_values else None)
        phase_qk, phase_vo = (self._split(p(control)).float() for p in (self.rope_phase_qk, self.rope_phase_vo))
        rope = add_phase(*rope, phase_qk)
        q, k = apply_rope(q, *rope).to(v.dtype), apply_rope(k, *rope).to(v.dtype)
        v = apply_phase(v, -phase_vo)
        attended = self._split(self.o(self._attend_in_scope(q, k, v, kernel, conditioning)))
        heads = Heads(q, k, plain, v if conditioning.returns_values else None)
        return apply_phase(attended, phase_vo).flatten(-2), heads

    def _attend_by_camera(
        self, q: Tensor, k: Tensor, v: Tensor, kernel: str, conditioning: BlockConditioning, plain: tuple | None
    ) -> tuple[Float[Tensor, "B N D"], Heads]:
        """PRoPE: projections on half of the channels, RoPE on the others."""
        cameras, first = conditioning.cameras, camera_channels(q.shape[-1])
        q, k = (torch.cat([x[..., :first], apply_rope(x[..., first:], *conditioning.rope)], -1) for x in (q, k))
        q, k = (apply_projection(x, m).to(v.dtype) for x, m in ((q, cameras.query), (k, cameras.key)))
        v = apply_projection(v, cameras.key)
        out = self._split(self._attend_in_scope(q, k, v, kernel, conditioning))
        heads = Heads(q, k, plain, v if conditioning.returns_values else None)
        return self.o(apply_projection(out, cameras.output).flatten(-2)), heads

    def _attend_in_scope(self, q: Tensor, k: Tensor, v: Tensor, kernel: str, conditioning: BlockConditioning) -> Tensor:
        context = None if self.scope == "view" else conditioning.context
        sizes = {"b": len(q), "v": conditioning.views, "f": conditioning.frames}

        def grouped(x: Tensor, views: int) -> Tensor:
            if self.scope == "all":
                return x
            whole, groups = _GROUPS[self.scope]
            return rearrange(x, f"{whole} -> {groups}", **(sizes | {"v": views}))

        q, k, v = (grouped(x, conditioning.views) for x in (q, k, v))
        if context is not None:
            k = torch.cat([grouped(context.k, context.views), k], 1)
            v = torch.cat([grouped(context.v, context.views), v], 1)
        out = self.attend(q, k, v, kernel)
        if self.scope == "all":
            return out
        whole, groups = _GROUPS[self.scope]
        return rearrange(out, f"{groups} -> {whole}".replace("h d", "d"), **sizes)

    def _split(self, x: Float[Tensor, "B N D"]) -> Float[Tensor, "B N H d"]:
        return x.unflatten(-1, (self.num_heads, -1))


class CrossAttention(nn.Module):
    """Attention to text; has_image adds attention of the same queries to image tokens, summed before the output."""

    def __init__(self, dim: int, num_heads: int, eps: float, has_image: bool = False) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q = nn.Linear(dim, dim)
        self.k = nn.Linear(dim, dim)
        self.v = nn.Linear(dim, dim)
        self.o = nn.Linear(dim, dim)
        self.norm_q = RMSNorm(dim, eps)
        self.norm_k = RMSNorm(dim, eps)
        if has_image:
            self.k_img = nn.Linear(dim, dim)
            self.v_img = nn.Linear(dim, dim)
            self.norm_k_img = RMSNorm(dim, eps)

    def forward(
        self, x: Float[Tensor, "B N D"], text: Float[Tensor, "B L D"], kernel: str, image: Tensor | None = None
    ) -> Float[Tensor, "B N D"]:
        q, k, v = (self._split(t) for t in (self.norm_q(self.q(x)), self.norm_k(self.k(text)), self.v(text)))
        q = q.to(v.dtype)
        attended = attend(q, k.to(v.dtype), v, kernel)
        if image is not None:
            k, v = self._split(self.norm_k_img(self.k_img(image))), self._split(self.v_img(image))
            attended = attended + attend(q, k.to(v.dtype), v, kernel)
        return self.o(attended)

    def _split(self, x: Float[Tensor, "B N D"]) -> Float[Tensor, "B N H d"]:
        return x.unflatten(-1, (self.num_heads, -1))


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """AdaLN: scale and shift a normalised tensor, rounded once."""
    return torch.addcmul(shift, x, 1 + scale)


class Block(nn.Module):
    """Wan's block. `camera_proj` is this project's Plücker input (MVTrack4Gen eq. 10), left out without has_camera;
    `cam_encoder` and `projector` are ReCamMaster's, `rope_phase_*` ReDirector's, `*_img` Wan-Fun's.
    """

    def __init__(self, config: DiTConfig, has_camera: bool = True, scope: Scope = "all") -> None:
        super().__init__()
        dim, heads, eps = config.dim, config.num_heads, config.eps
        pairs = config.rope_pairs or default_pairs(config.rope_dim)
        self.norm1 = nn.LayerNorm(dim, eps=eps, elementwise_affine=False)
        phase_pairs = sum(pairs[1:]) if config.rope_phases else 0
        self.self_attn = SelfAttention(dim, heads, eps, phase_pairs, config.tap_features == "before_rope", scope)
        if config.pose_encoder:
            self.cam_encoder = nn.Linear(12, dim)
        self.projector = nn.Linear(dim, dim) if config.projector else None
        if config.text_dim > 0:
            self.norm3 = nn.LayerNorm(dim, eps=eps)
            self.cross_attn = CrossAttention(dim, heads, eps, config.image_dim > 0)
        self.norm2 = nn.LayerNorm(dim, eps=eps, elementwise_affine=False)
        self.ffn = nn.Sequential(
            nn.Linear(dim, config.ffn_dim), nn.GELU(approximate="tanh"), nn.Linear(config.ffn_dim, dim)
        )
        self.modulation = nn.Parameter(torch.randn(1, 6, dim) / dim**0.5)
        if has_camera:
            self.camera_proj = nn.Linear(dim, dim)
        self.shows_heads = False  # also to hooks on the block, see hooks.py

    def forward(
        self, x: Float[Tensor, "B N D"], conditioning: BlockConditioning, kernel: str, wants_heads: bool = True
    ) -> tuple[Float[Tensor, "B N D"], Heads | None]:
        """kernel: how attention is computed, see attention.py. wants_heads: else None comes in their place, and they
        take no memory while the rest of the block runs."""
        shift1, scale1, gate1, shift2, scale2, gate2 = (self.modulation + conditioning.time).chunk(6, dim=1)
        h = modulate(self.norm1(x), shift1, scale1)
        if conditioning.camera is not None:
            h = h + self.camera_proj(conditioning.camera)
        if conditioning.poses is not None:
            h = _add_per_frame(h, self.cam_encoder(conditioning.poses))
        attended, heads = self.self_attn(h, conditioning, kernel)
        heads = heads if wants_heads or self.shows_heads else None
        del h  # nothing that is done with is held while the widest layer runs
        if self.projector is not None:
            attended = self.projector(attended)
        x = torch.addcmul(x, gate1, attended)
        del attended
        if conditioning.text is not None:
            x = x + self.cross_attn(self.norm3(x), conditioning.text, kernel, conditioning.image)
        return torch.addcmul(x, gate2, self.ffn(modulate(self.norm2(x), shift2, scale2))), heads


def _add_per_frame(x: Float[Tensor, "B N D"], rows: Float[Tensor, "B M D"]) -> Float[Tensor, "B N D"]:
    """Add one vector to all tokens of each view's frame."""
    return (x.unflatten(1, (rows.shape[1], -1)) + rows[:, :, None]).flatten(1, 2)
