"""The Wan2.1 diffusion transformer over several views, with Wan's parameter names and this project's camera input."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float, Real
from torch import Tensor, nn

from mvtrack.config.features import ProjectorConfig
from mvtrack.config.model import DiTConfig, ModelConfig, RayConfig
from mvtrack.config.placement import AttentionKernel
from mvtrack.correspondence.logit_head import LogitHead
from mvtrack.models.activation_checkpointing import Checkpointing, run_block
from mvtrack.models.attention import choose_kernel
from mvtrack.models.backbone import DiTOutput, Tap, Visit, check_layer
from mvtrack.models.blocks import Block, BlockConditioning, Heads, SelfAttention, modulate, scope_of
from mvtrack.models.camera_encoding import camera_matrices
from mvtrack.models.compiling import compiled
from mvtrack.models.conditioning import ADAPTER_STRIDE, Conditioning, ControlAdapter, ImageEmbedding, RayEncoder
from mvtrack.models.feature_projector import FeatureProjector
from mvtrack.models.reference_pass import ReferenceCache, ReferencePass, run_references
from mvtrack.models.rope import axis_frequencies, default_pairs, rope_table
from mvtrack.models.sequence_parallel import SequenceGroup
from mvtrack.models.step_cache import StepCache
from tracking_head import HeadConfig, TrackingHead

UNCONDITIONED = Conditioning()


class TokenGrid(NamedTuple):
    """How tokens are laid out: N = v f h w, in this order."""

    v: int
    f: int
    h: int
    w: int


class WanDiT(nn.Module):
    """Predicts the velocity (or the clean latents, by config) of every view's latents.

    Wan2.1, ReCamMaster and ReDirector are configs of this one class (presets.py).

    Views share one token sequence and one 3D self-attention, or with `attention: factorised` attend in turn within a
    view and within a moment. The first `num_reference` views are references: clean latents. RoPE frames: `shared` gives
    every view frames 0 .. f-1, `concat` numbers target views first and references after them (ReCamMaster), `by_view`
    numbers on from view to view, whatever their roles. `reference_attention: own` lets references attend to references
    alone, at noise level 0, and targets to all; the prediction of references is then zero.

    tracking: sizes of the tracking head, logit_heads: blocks with a head of the correspondence loss, projector: to the
    features of another network. They travel with the network's weights and are called on its taps by whoever wants
    tracks, or these losses.
    """

    def __init__(
        self, config: DiTConfig, rays: RayConfig | None = None, tracking: HeadConfig | None = None,
        logit_heads: tuple[int, ...] = (), projector: ProjectorConfig | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.config = config
        dim = config.dim
        patch_values = config.patch_size[0] * config.patch_size[1] * config.patch_size[2]
        self.patch_embedding = nn.Conv3d(config.in_channels, dim, config.patch_size, config.patch_size)
        has_text = config.text_dim > 0
        if has_text:
            self.text_embedding = nn.Sequential(
                nn.Linear(config.text_dim, dim), nn.GELU(approximate="tanh"), nn.Linear(dim, dim)
            )
        self.time_embedding = nn.Sequential(nn.Linear(config.freq_dim, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.time_projection = nn.Sequential(nn.SiLU(), nn.Linear(dim, 6 * dim))
        self.img_emb = ImageEmbedding(config.image_dim, dim) if config.image_dim else None
        stride = ADAPTER_STRIDE if rays is None else rays.token_px // config.patch_size[1]
        self.control_adapter = ControlAdapter(dim, config.patch_size[1], stride) if config.control_adapter else None
        self.blocks = nn.ModuleList(
            Block(config, rays is not None, scope_of(config, layer)) for layer in range(config.num_layers)
        )
        self.head = Head(dim, patch_values * config.out_channels, config.eps)
        self.ray_encoder = None if rays is None else RayEncoder(rays, dim)
        self.role_embedding = nn.Parameter(torch.zeros(2, dim)) if config.role_embedding else None
        self.tracking_head = None if tracking is None else TrackingHead(tracking)
        self.logit_heads = nn.ModuleDict({str(layer): LogitHead(config.num_heads) for layer in logit_heads})
        self.feature_projector = None if projector is None else FeatureProjector(dim, projector)
        self.checkpointing: Checkpointing | None = None
        self.step_cache: StepCache | None = None
        self.reference_cache: ReferenceCache | None = None
        self.sequence: SequenceGroup | None = None
        self.attention: AttentionKernel = "auto"
        self._kernels: dict[tuple, str] = {}
        self._run_block = run_block
        pairs = config.rope_pairs or default_pairs(config.rope_dim)
        self._rope_frequencies = axis_frequencies(pairs, config.rope_theta)
        self.kept_rope: tuple[tuple, tuple[Tensor, Tensor]] | None = None

    def forward(
        self, latents: Float[Tensor, "B V f c h w"], timestep: Real[Tensor, "B"],
        conditioning: Conditioning = UNCONDITIONED, tap_layers: tuple[int, ...] = (),
    ) -> DiTOutput:  # fmt: skip
        """timestep: 1000 sigma, float32, one per sample. tap_layers: blocks (counted from 0) whose q and k are
        returned, in ascending order. Raises ValueError for conditioning that does not fit the model.
        """
        grid = self._token_grid(latents, tap_layers)
        x = self._patchify(latents)
        if self.role_embedding is not None:
            x = x + self._roles(conditioning, grid)
        x = rearrange(x, "b v n d -> b (v n) d")
        time = self._time(timestep)
        inputs = self._block_conditioning(time, conditioning, latents, grid)
        if inputs.control is not None:
            x = x + inputs.control
        kernels = self._kernels_by_scope(x.device, grid)
        if self.sequence is not None:
            x, inputs = self.sequence.split(x, inputs)
        references = None
        if self.config.reference_attention == "own":
            x, inputs, references = self._references_apart(x, inputs, conditioning, kernels, tap_layers)

        cache = None if tap_layers else self.step_cache
        added = None if cache is None else cache.reuse(x, inputs.time)
        if added is not None:
            return DiTOutput(self._unpatchify(self.head(x + added, time), grid), ())
        start = None if cache is None else x
        taps, hidden = [], []
        for layer, block in enumerate(self.blocks):
            keep = None if self.checkpointing is None else self.checkpointing.kept_by(layer)
            if references is not None:
                inputs = inputs._replace(context=references.contexts[layer])
            x, heads = self._run_block(block, x, inputs, kernels[block.self_attn.scope], keep, layer in tap_layers)
            if layer in tap_layers:
                pattern = "b (v f h w) n d -> b v f h w n d"
                shown = (*heads.tapped, x) if references is None else references.before(layer, *heads.tapped, x)
                if self.sequence is not None:
                    shown = (self.sequence.joined(t, grid.v * grid.f) for t in shown)
                q, k, out = shown
                taps.append(Tap(*(rearrange(t, pattern, **grid._asdict()) for t in (q, k))))
                hidden.append(rearrange(out, "b (v f h w) d -> b v f h w d", **grid._asdict()))
            del heads  # not to be held while the next block runs
        if cache is not None:
            cache.keep(x - start)
        return DiTOutput(self._unpatchify(self.head(x, time), grid), tuple(taps), tuple(hidden))

    @property
    def num_layers(self) -> int:
        return len(self.blocks)

    @property
    def is_watched(self) -> bool:
        """Whether somebody looks into a block, or has replaced its attention."""
        return any(block.shows_heads or "attend" in vars(block.self_attn) for block in self.blocks)

    def self_attention(self, layer: int) -> SelfAttention:
        check_layer(self, layer)
        return self.blocks[layer].self_attn

    @contextmanager
    def observed(self, layer: int, visit: Visit) -> Iterator[None]:
        """See `MultiViewBackbone`; called as the block has run."""
        check_layer(self, layer)
        apart, references = self.config.reference_attention == "own", []

        def hook(_module: nn.Module, _inputs: tuple, output: tuple[Tensor, Heads]) -> None:
            q, k = output[1].q, output[1].k
            if apart and not references:
                references.append((q, k))
                return
            if apart:
                q, k = (torch.cat(both, 1) for both in zip(references.pop(), (q, k), strict=True))
            visit(q, k)  # what it returns must not take the output's place

        block = self.blocks[layer]
        handle = block.register_forward_hook(hook)
        block.shows_heads = True
        try:
            yield
        finally:
            block.shows_heads = False
            handle.remove()

    def attention_kernel(self, device: torch.device, tokens: int) -> str:
        """The kernel for so many tokens that attend to each other: `self.attention`, or what "auto" finds.

        Chosen for a device and precision when first asked for. Raises ValueError where only PyTorch's fallback, which
        writes all scores to memory, would work.
        """
        training = torch.is_grad_enabled()
        autocast = torch.is_autocast_enabled(device.type) if device.type != "meta" else False
        dtype = torch.get_autocast_dtype(device.type) if autocast else self.dtype
        key = (self.attention, device.type, dtype, training, tokens)
        if key not in self._kernels:
            heads, width = self.config.num_heads, self.config.dim // self.config.num_heads
            self._kernels[key] = choose_kernel(self.attention, device, dtype, heads, width, tokens, training)
        return self._kernels[key]

    def _kernels_by_scope(self, device: torch.device, grid: TokenGrid) -> dict[str, str]:
        """The kernel of every pattern of attention that the blocks have."""
        tokens = {"all": grid.v * grid.f * grid.h * grid.w, "view": grid.f * grid.h * grid.w}
        tokens["moment"] = grid.v * grid.h * grid.w
        scopes = dict.fromkeys(block.self_attn.scope for block in self.blocks)
        return {scope: self.attention_kernel(device, tokens[scope]) for scope in scopes}

    @property
    def chosen_kernels(self) -> dict[str, str]:
        """The attention kernel of every precision that was asked for so far, for reports."""
        return {str(key[2]).removeprefix("torch."): kernel for key, kernel in self._kernels.items()}

    def compile_blocks(self, or_not: bool = False) -> None:
        """Compile the block, see `compiled`. Taps, checkpointing and hooks keep working."""
        self._run_block = compiled(run_block, or_not)

    def _block_conditioning(
        self, time: Tensor, conditioning: Conditioning, latents: Tensor, grid: TokenGrid
    ) -> BlockConditioning:
        """Everything that all blocks get beside their tokens."""
        if conditioning.reference is not None and self.config.rope_frames == "concat":
            raise ValueError("rope_frames concat numbers whole views by role: it cannot take a choice of references")
        has = {"text": self.config.text_dim > 0, "image": self.config.image_dim > 0}
        has |= {"poses": self.config.pose_encoder, "maps": self.config.control_adapter}
        has |= {"projections": self.config.camera_encoding == "prope"}
        for name, needed in has.items():
            if needed != (getattr(conditioning, name) is not None):
                what = "needs" if needed else "has no use for"
                raise ValueError(f"this model {what} conditioning.{name}: see docs/backbones.md")
        camera = None if conditioning.rays is None else self.ray_encoder(conditioning.rays)
        if camera is not None and camera.shape[1] != grid.v * grid.f * grid.h * grid.w:
            expected = grid.v * grid.f * grid.h * grid.w
            raise ValueError(f"ray maps make {camera.shape[1]} tokens, latents make {expected}")
        poses, maps = conditioning.poses, conditioning.maps
        if poses is not None and poses.shape[1:3] != (grid.v, grid.f):
            raise ValueError(f"conditioning.poses must be for {grid.v} x {grid.f} frames, got {tuple(poses.shape)}")
        if conditioning.projections is not None and conditioning.projections.shape[1:3] != (grid.v, grid.f):
            got = tuple(conditioning.projections.shape)
            raise ValueError(f"conditioning.projections must be for {grid.v} x {grid.f} frames, got {got}")
        if maps is not None:
            stride = self.control_adapter.stride
            expected = (len(latents), grid.v, grid.f, maps.shape[3], *(s * stride for s in latents.shape[-2:]))
            if tuple(maps.shape) != expected:
                raise ValueError(f"conditioning.maps must be {expected}, got {tuple(maps.shape)}")
        return BlockConditioning(
            time=self.time_projection(time).unflatten(-1, (6, -1)),
            rope=self._rope(grid, conditioning.num_reference, latents.device),
            views=grid.v,
            frames=grid.f,
            text=self.text_embedding(conditioning.text.to(self.dtype)) if has["text"] else None,
            camera=camera,
            poses=None if poses is None else poses.to(self.dtype).flatten(1, 2),
            control=None if maps is None else self.control_adapter(maps),
            image=self.img_emb(conditioning.image) if has["image"] else None,
            cameras=None if conditioning.projections is None else camera_matrices(conditioning.projections),
        )

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return self.patch_embedding.weight.dtype

    def _roles(self, conditioning: Conditioning, grid: TokenGrid) -> Float[Tensor, "#B V #n D"]:
        """The role embedding of every token."""
        if conditioning.reference is None:
            roles = (torch.arange(grid.v, device=self.role_embedding.device) < conditioning.num_reference).long()
            return self.role_embedding[roles][None, :, None]
        return self.role_embedding[conditioning.reference.long()].repeat_interleave(grid.h * grid.w, dim=2)

    def _token_grid(self, latents: Tensor, tap_layers: tuple[int, ...]) -> TokenGrid:
        if not all(0 <= layer < len(self.blocks) for layer in tap_layers):
            raise ValueError(f"tap_layers {tap_layers} must lie in [0, {len(self.blocks) - 1}]")
        (_, ph, pw), (height, width) = self.config.patch_size, latents.shape[-2:]
        if height % ph or width % pw:
            raise ValueError(f"latent size {height}x{width} is not divisible by the patch size {ph}x{pw}")
        return TokenGrid(*latents.shape[1:3], height // ph, width // pw)

    def _patchify(self, latents: Float[Tensor, "B V f c h w"]) -> Float[Tensor, "B V n D"]:
        if latents.shape[3] != self.config.out_channels:
            raise ValueError(f"latents must have {self.config.out_channels} channels, got {latents.shape[3]}")
        _, ph, pw = self.config.patch_size
        patches = rearrange(latents, "b v f c (h p) (w q) -> b v (f h w) (c p q)", p=ph, q=pw)
        weight = self.patch_embedding.weight.flatten(1)[:, : patches.shape[-1]]  # further channels would be zero
        return nn.functional.linear(patches.to(weight.dtype), weight, self.patch_embedding.bias)

    def _unpatchify(self, x: Float[Tensor, "B N P"], grid: TokenGrid) -> Float[Tensor, "B V f c h w"]:
        _, ph, pw = self.config.patch_size
        if self.sequence is not None:
            x = self.sequence.joined(x, x.shape[1] * self.sequence.size // (grid.h * grid.w))
        if self.config.reference_attention == "own":  # of the targets alone: nothing is predicted of references
            x = nn.functional.pad(x, (0, 0, grid.v * grid.f * grid.h * grid.w - x.shape[1], 0))
        return rearrange(x, "b (v f h w) (p q c) -> b v f c (h p) (w q)", **grid._asdict(), p=ph, q=pw)

    def _time(self, timestep: Real[Tensor, "B"]) -> Float[Tensor, "B D"]:
        return self.time_embedding(sinusoidal_embedding(timestep, self.config.freq_dim).to(self.dtype))

    def _references_apart(
        self, x: Tensor, inputs: BlockConditioning, conditioning: Conditioning, kernels: dict[str, str],
        tap_layers: tuple[int, ...],
    ) -> tuple[Tensor, BlockConditioning, ReferencePass]:  # fmt: skip
        """The targets' tokens and what their blocks get, and what the references left, which ran on their own."""
        count = conditioning.num_reference
        if conditioning.reference is not None or not 0 < count < inputs.views:
            raise ValueError(
                "dit.reference_attention own needs whole views as references, and targets after them: conditioning has "
                f"{'a choice of frames' if conditioning.reference is not None else f'{count} of {inputs.views} views'}"
            )
        first, tokens = inputs.of_views(0, count), x.shape[1] // inputs.views * count

        def run(block: Block, x: Tensor, inputs: BlockConditioning, keep: str | None) -> tuple[Tensor, Heads]:
            return self._run_block(block, x, inputs, kernels[block.self_attn.scope], keep, True)

        def compute() -> ReferencePass:
            time = self.time_projection(self._time(torch.zeros(len(x), device=x.device))).unflatten(-1, (6, -1))
            own = first._replace(time=time)
            return run_references(self.blocks, x[:, :tokens], own, run, self.checkpointing, tap_layers)

        kept = (
            self.reference_cache is not None and not tap_layers and (not self.is_watched or self.sequence is not None)
        )
        references = self.reference_cache.pass_of(compute) if kept else compute()
        return x[:, tokens:], inputs.of_views(count, inputs.views), references

    def _rope(self, grid: TokenGrid, num_reference: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """The table of the last grid is kept: it is made on the CPU, for which a GPU would wait in every pass."""
        key = (grid, num_reference, device)
        if self.kept_rope is None or self.kept_rope[0] != key:
            positions = frame_positions(self.config.rope_frames, grid.v, grid.f, num_reference)
            table = rope_table(positions, (grid.h, grid.w), self._rope_frequencies)
            self.kept_rope = key, tuple(part.to(device) for part in table)
        return self.kept_rope[1]


def empty_dit(config: ModelConfig) -> WanDiT:
    """The architecture without storage (meta tensors)."""
    with torch.device("meta"):
        return WanDiT(config.dit, config.rays, config.tracking, config.logit_heads, config.feature_projector)


def parameter_names(config: DiTConfig) -> list[str]:
    """Names of all parameters that a transformer of this depth could have, with every branch and head."""
    branches = ("pose_encoder", "projector", "control_adapter", "rope_phases", "role_embedding")
    widths = {"text_dim": config.text_dim or 1, "image_dim": config.image_dim or 1}
    full = replace(config, **widths, **dict.fromkeys(branches, True))
    head = HeadConfig(displacement=True, camera="mean")
    with torch.device("meta"):
        dit = WanDiT(full, RayConfig(), head, tuple(range(config.num_layers)), ProjectorConfig(layer=0, features=1))
    return [name for name, _ in dit.named_parameters()]


def frame_positions(mode: str, views: int, frames: int, num_reference: int) -> Float[Tensor, "VF"]:
    """RoPE frame index of every (view, frame), view by view (method §1)."""
    base = torch.arange(frames, dtype=torch.float64)
    if mode == "shared":
        return base.repeat(views)
    if mode == "by_view":
        return torch.arange(views * frames, dtype=torch.float64)
    targets = views - num_reference
    order = [targets + v if v < num_reference else v - num_reference for v in range(views)]
    return torch.cat([base + slot * frames for slot in order])


def sinusoidal_embedding(timestep: Real[Tensor, "B"], dim: int) -> Float[Tensor, "B dim"]:
    """Wan's time features: cosines then sines of t * 10000^(-i / (dim / 2)), from float64."""
    half = dim // 2
    frequency = 10000 ** -(torch.arange(half, dtype=torch.float64, device=timestep.device) / half)
    angle = timestep.double()[:, None] * frequency
    return torch.cat([angle.cos(), angle.sin()], -1).float()


class Head(nn.Module):
    def __init__(self, dim: int, out_values: int, eps: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps=eps, elementwise_affine=False)
        self.head = nn.Linear(dim, out_values)
        self.modulation = nn.Parameter(torch.randn(1, 2, dim) / dim**0.5)

    def forward(self, x: Float[Tensor, "B N D"], time: Float[Tensor, "B D"]) -> Float[Tensor, "B N P"]:
        shift, scale = (self.modulation + time[:, None]).chunk(2, dim=1)
        return self.head(modulate(self.norm(x), shift, scale))
