"""The Wan2.1 diffusion transformer over several views, with Wan's parameter names and this project's camera input."""

from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mvtrack.config.model import DiTConfig, RayConfig
from mvtrack.config.placement import AttentionKernel
from mvtrack.correspondence.logit_head import LogitHead, Projection
from mvtrack.models.activation_checkpointing import Checkpointing, run_block
from mvtrack.models.attention import choose_kernel
from mvtrack.models.blocks import Block, Conditions, Heads, modulate, scope_of
from mvtrack.models.camera_conditioning import RayEncoder
from mvtrack.models.checkpoint_adapters import ADAPTER_STRIDE, ControlAdapter, ImageEmbedding, NativeInputs
from mvtrack.models.rope import axis_frequencies, default_pairs, rope_table
from tracking_head import Cameras, HeadConfig, HeadOutput, TrackingHead

GRAPHS = 512  # that a compiled block may have


class Tap(NamedTuple):
    """Query and key of one block, after QK-norm and RoPE: MVTrack4Gen's attention features (method §3).

    With dit.tap_features before_rope they are without RoPE: what tokens look like, not where they are.
    """

    q: Float[Tensor, "B V f h w heads d"]
    k: Float[Tensor, "B V f h w heads d"]


class TrackRequest(NamedTuple):
    """What the tracking head is asked: see `TrackingHead.forward`. layer: the block whose features it looks at.

    cameras: at the latent frames, where the head takes any.
    """

    txy: Float[Tensor, "B V N 3"]
    valid: Bool[Tensor, "B V N"]
    layer: int
    token_px: int
    cameras: Cameras | None = None


class DiTOutput(NamedTuple):
    prediction: Float[Tensor, "B V f c h w"]
    taps: tuple[Tap, ...]
    tracks: HeadOutput | None = None
    logit_heads: tuple[Projection, ...] = ()  # of the tapped blocks that have one


class WanDiT(nn.Module):
    """Predicts the velocity (or the clean latents, by config) of every view's latents.

    Wan2.1, ReCamMaster and ReDirector are configs of this one class (presets.py).

    Views share one token sequence and one 3D self-attention, or with `attention: factorised` attend in turn within a
    view and within a moment. The first `num_reference` views are references: clean
    latents that only lend information. RoPE frames: `shared` gives every view frames 0 .. f-1, `concat` numbers target
    views first and references after them (ReCamMaster), `by_view` numbers on from view to view, whatever their roles.

    tracking: sizes of the tracking head that travels with the network; without a request it costs nothing.
    logit_heads: blocks for which a head of the correspondence loss travels with it.
    """

    def __init__(
        self,
        config: DiTConfig,
        rays: RayConfig | None = None,
        tracking: HeadConfig | None = None,
        logit_heads: tuple[int, ...] = (),
    ) -> None:
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
        self.control_adapter = ControlAdapter(dim, config.patch_size[1]) if config.control_adapter else None
        self.blocks = nn.ModuleList(
            Block(config, rays is not None, scope_of(config, layer)) for layer in range(config.num_layers)
        )
        self.head = Head(dim, patch_values * config.out_channels, config.eps)
        self.ray_encoder = None if rays is None else RayEncoder(rays, dim)
        self.role_embedding = nn.Parameter(torch.zeros(2, dim)) if config.role_embedding else None
        self.tracking_head = None if tracking is None else TrackingHead(tracking)
        self.logit_heads = nn.ModuleDict({str(layer): LogitHead(config.num_heads) for layer in logit_heads})
        self.checkpointing: Checkpointing | None = None
        self.attention: AttentionKernel = "auto"
        self._kernels: dict[tuple, str] = {}
        self._run_block = run_block
        pairs = config.rope_pairs or default_pairs(dim // config.num_heads)
        self._rope_frequencies = axis_frequencies(pairs, config.rope_theta)

    def forward(
        self,
        latents: Float[Tensor, "B V f c h w"],
        timestep: Float[Tensor, "B"],
        rays: Float[Tensor, "B V f r hr wr"] | None = None,
        text: Float[Tensor, "B L t"] | None = None,
        num_reference: int = 1,
        tap_layers: tuple[int, ...] = (),
        track: TrackRequest | None = None,
        reference: Bool[Tensor, "B V f"] | None = None,
        native: NativeInputs | None = None,
    ) -> DiTOutput:
        """timestep: 1000 sigma, float32, one per sample. rays: packed ray features, see ray_encoder.py.

        tap_layers: blocks (counted from 0) whose q and k are returned, in ascending order. track: points to follow.
        reference: which latent frames of each sample are references, where these are not the first views.
        native: inputs of a released checkpoint's own branches; a model that has them cannot do without.
        """
        if track is not None and self.tracking_head is None:
            raise ValueError("this model has no tracking head: set model.tracking and train one")
        views, frames = latents.shape[1:3]
        if not all(0 <= layer < len(self.blocks) for layer in tap_layers):
            raise ValueError(f"tap_layers {tap_layers} must lie in [0, {len(self.blocks) - 1}]")
        grid = self._token_grid(latents)
        x = self._patchify(latents)
        if reference is not None and self.config.rope_frames == "concat":
            raise ValueError("rope_frames concat numbers whole views by role: it cannot take a choice of references")
        if self.role_embedding is not None:
            x = x + self._roles(views, num_reference, reference, cells=grid[0] * grid[1])
        x = rearrange(x, "b v n d -> b (v n) d")
        camera = None if rays is None else self.ray_encoder(rays)
        if camera is not None and camera.shape[1] != x.shape[1]:
            raise ValueError(f"ray maps make {camera.shape[1]} tokens, latents make {x.shape[1]}")
        time = self.time_embedding(sinusoidal_embedding(timestep, self.config.freq_dim).to(self.dtype))
        conditions = Conditions(
            time=self.time_projection(time).unflatten(-1, (6, -1)),
            rope=self._rope(views, frames, grid, num_reference, x.device),
            views=views,
            frames=frames,
            text=self._embed_text(text),
            camera=camera,
            **self._native_branches(native or NativeInputs(), latents),
        )
        x = x if conditions.control is None else x + conditions.control
        groups = {"all": 1, "view": views, "moment": frames}
        kernels = {
            scope: self.attention_kernel(x.device, x.shape[1] // groups[scope])
            for scope in dict.fromkeys(block.self_attn.scope for block in self.blocks)
        }

        taps, projections, tracks = [], [], None
        for i, block in enumerate(self.blocks):
            keep = None if self.checkpointing is None else self.checkpointing.kept_by(i)
            follows = track is not None and i == track.layer
            wanted = i in tap_layers or follows
            x, heads = self._run_block(block, x, conditions, kernels[block.self_attn.scope], keep, wanted)
            if wanted:
                shape = {"v": views, "f": frames, "h": grid[0], "w": grid[1]}
                tap = Tap(*(rearrange(t, "b (v f h w) n d -> b v f h w n d", **shape) for t in heads.tapped))
                if i in tap_layers:
                    taps.append(tap)
                    projections += [self.logit_heads[str(i)].lend()] if str(i) in self.logit_heads else []
                if follows:
                    tracks = self.tracking_head(*tap, track.txy, track.valid, track.token_px, track.cameras)
            del heads  # not to be held while the next block runs
        prediction = self._unpatchify(self.head(x, time), views, frames, grid)
        return DiTOutput(prediction, tuple(taps), tracks, tuple(projections))

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

    @property
    def chosen_kernels(self) -> dict[str, str]:
        """The attention kernel of every precision that was asked for so far, for reports."""
        return {str(key[2]).removeprefix("torch."): kernel for key, kernel in self._kernels.items()}

    def compile_blocks(self) -> None:
        """Compile the block, each size of input for itself. Taps, checkpointing and hooks keep working.

        Sizes, taps, recomputation and passes without gradients each make a graph. PyTorch would run what comes after
        the eighth uncompiled, without a word; here it may make `GRAPHS` of them.
        """
        compiled = torch.compile(run_block, dynamic=False)

        def run(*arguments: object) -> tuple[Tensor, Heads | None]:
            with torch._dynamo.config.patch(recompile_limit=GRAPHS, accumulated_recompile_limit=GRAPHS):
                return compiled(*arguments)

        self._run_block = run

    def _embed_text(self, text: Tensor | None) -> Tensor | None:
        if (text is None) != (self.config.text_dim == 0):
            have = "needs text (of the empty caption, if there is none)" if text is None else "has no text branch"
            raise ValueError(f"this model {have}: dit.text_dim is {self.config.text_dim}")
        return None if text is None else self.text_embedding(text.to(self.dtype))

    def _native_branches(self, native: NativeInputs, latents: Tensor) -> dict[str, Tensor | None]:
        """Fields of `Conditions` from the inputs of a released checkpoint's branches."""
        config, (views, frames) = self.config, latents.shape[1:3]
        wanted = {"poses": config.pose_encoder, "maps": config.control_adapter, "image": config.image_dim > 0}
        for name, has in wanted.items():
            if has != (getattr(native, name) is not None):
                raise ValueError(
                    f"this model {'needs' if has else 'has no use for'} native.{name}: see docs/backbones.md"
                )
        control = poses = image = None
        if config.pose_encoder:
            if native.poses.shape[1:3] != (views, frames):
                raise ValueError(f"native.poses must be for {views} x {frames} frames, got {tuple(native.poses.shape)}")
            poses = native.poses.to(self.dtype).flatten(1, 2)
        if config.control_adapter:
            size = tuple(s * ADAPTER_STRIDE for s in latents.shape[-2:])
            if native.maps.shape[1:3] != (views, frames) or tuple(native.maps.shape[-2:]) != size:
                expected = (len(latents), views, frames, native.maps.shape[3], *size)
                raise ValueError(f"native.maps must be {expected}, got {tuple(native.maps.shape)}")
            control = self.control_adapter(native.maps)
        if config.image_dim:
            image = self.img_emb(native.image)
        return {"poses": poses, "control": control, "image": image}

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return self.patch_embedding.weight.dtype

    def _roles(
        self, views: int, num_reference: int, reference: Bool[Tensor, "B V f"] | None, cells: int
    ) -> Float[Tensor, "#B V #n D"]:
        """The role embedding of every token."""
        if reference is None:
            roles = (torch.arange(views, device=self.role_embedding.device) < num_reference).long()
            return self.role_embedding[roles][None, :, None]
        return self.role_embedding[reference.long()].repeat_interleave(cells, dim=2)

    def _token_grid(self, latents: Tensor) -> tuple[int, int]:
        (_, ph, pw), (height, width) = self.config.patch_size, latents.shape[-2:]
        if height % ph or width % pw:
            raise ValueError(f"latent size {height}x{width} is not divisible by the patch size {ph}x{pw}")
        return height // ph, width // pw

    def _patchify(self, latents: Float[Tensor, "B V f c h w"]) -> Float[Tensor, "B V n D"]:
        if latents.shape[3] != self.config.out_channels:
            raise ValueError(f"latents must have {self.config.out_channels} channels, got {latents.shape[3]}")
        _, ph, pw = self.config.patch_size
        patches = rearrange(latents, "b v f c (h p) (w q) -> b v (f h w) (c p q)", p=ph, q=pw)
        weight = self.patch_embedding.weight.flatten(1)[:, : patches.shape[-1]]  # further channels would be zero
        return nn.functional.linear(patches.to(weight.dtype), weight, self.patch_embedding.bias)

    def _unpatchify(
        self, x: Float[Tensor, "B N P"], views: int, frames: int, grid: tuple[int, int]
    ) -> Float[Tensor, "B V f c h w"]:
        _, ph, pw = self.config.patch_size
        pattern = "b (v f h w) (p q c) -> b v f c (h p) (w q)"
        return rearrange(x, pattern, v=views, f=frames, h=grid[0], w=grid[1], p=ph, q=pw)

    def _rope(
        self, views: int, frames: int, grid: tuple[int, int], num_reference: int, device: torch.device
    ) -> tuple[Tensor, Tensor]:
        positions = frame_positions(self.config.rope_frames, views, frames, num_reference)
        cos, sin = rope_table(positions, grid, self._rope_frequencies)
        return cos.to(device), sin.to(device)


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


def sinusoidal_embedding(timestep: Float[Tensor, "B"], dim: int) -> Float[Tensor, "B dim"]:
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
