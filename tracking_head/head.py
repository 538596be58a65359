"""The multi-view tracking head: query/key features and query points in, tracks after every iteration out."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from tracking_head.config import HeadConfig
from tracking_head.correlation import CorrelationFeatures, embed_correlation, prepare
from tracking_head.encodings import common_frame, displacement_features, estimate_rays, time_embedding
from tracking_head.pyramid import CorrelationConfig
from tracking_head.queries import refuse_outside
from tracking_head.shapes import Bool, Float
from tracking_head.transformer import UpdateTransformer, call

_HIDDEN_BYTES = 256 * 2**20  # hidden units of the correlation's MLP that exist at once; more points come in parts


class Cameras(NamedTuple):
    """Camera-to-world (OpenCV axes) and intrinsics in pixels of the tracked image, for every view and frame."""

    c2w: Float[Tensor, "B V T 4 4"]
    K: Float[Tensor, "B V T 3 3"]


class HeadOutput(NamedTuple):
    """Estimates after each of I iterations: raster pixels; logits of being visible, and of lying close to the truth."""

    xy: Float[Tensor, "I B V T N 2"]
    visible_logit: Float[Tensor, "I B V T N"]
    confidence_logit: Float[Tensor, "I B V T N"]

    def last(self) -> "HeadOutput":
        """The final iteration alone (I = 1)."""
        return HeadOutput(*(x[-1:] for x in self))


class VolumeLinear(nn.Linear):
    """A linear layer on correlation volumes that never exist as a whole: `embed_correlation`, and a bias."""

    def forward(  # type: ignore[override]
        self, prepared: CorrelationFeatures, xy: Tensor, config: CorrelationConfig, first_point: int, keep: bool
    ) -> Float[Tensor, "m T levels C"]:
        hidden = embed_correlation(prepared, xy, config, self.weight, first_point, keep)
        return hidden + self.bias.to(hidden.dtype)


class TrackingHead(nn.Module):
    """Follows points through time in every view at once (MVTrack4Gen §5.2; MV-TAP).

    Estimates start at the query in every frame and are updated `iterations` times from the correlation around them.
    They are cut off the graph between iterations; logits accumulate with their gradient. The head has no weight that
    depends on the features' width, the number of heads, views, frames or points.
    """

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        self.config = config
        self.correlation_mlp = nn.Sequential(
            VolumeLinear(config.correlation.offsets**2, config.correlation_hidden),
            nn.GELU(),
            nn.Linear(config.correlation_hidden, config.correlation_dim),
        )
        self.transformer = UpdateTransformer(config)
        if config.camera != "none":
            self.camera_embed = nn.Linear(6, config.token_dim)
            self.camera_norm = nn.LayerNorm(config.token_dim)

    def forward(
        self, q: Float[Tensor, "B V T h w heads d"], k: Float[Tensor, "B V T h w heads d"],
        query_txy: Float[Tensor, "B V N 3"], valid: Bool[Tensor, "B V N"], token_px: int,
        cameras: Cameras | None = None,
    ) -> HeadOutput:  # fmt: skip
        """q, k: features of one attention layer, one token per token_px x token_px pixels, any float type.

        query_txy: where each point is in each view at one frame of its own: frame index, x, y in raster pixels.
        valid: whether it has a query in that view; tracks are made in the other views only. Raises ValueError for
        shapes that do not fit together, queries outside the clip, and missing or unexpected cameras.
        """
        self._check(q, query_txy, valid, cameras)
        if not isinstance(query_txy, FakeTensor):  # an estimate of memory has shapes and no values
            refuse_outside(query_txy, valid, q.shape[2], (q.shape[3] * token_px, q.shape[4] * token_px))
        query_txy = torch.where(valid[..., None], query_txy, 0.0)
        extent = (q.shape[4] * token_px, q.shape[3] * token_px)
        prepared = prepare(q, k, query_txy, token_px, self.config.correlation)
        xy = query_txy[:, :, None, :, 1:].expand(-1, -1, q.shape[2], -1, -1)
        return self.refine(prepared, xy, xy.new_zeros(xy.shape), valid, extent, cameras)

    def refine(
        self, prepared: CorrelationFeatures, xy: Float[Tensor, "B V T N 2"], logits: Float[Tensor, "B V T N 2"],
        valid: Bool[Tensor, "B V N"], extent_px: tuple[float, float], cameras: Cameras | None = None,
    ) -> HeadOutput:  # fmt: skip
        """All iterations from given estimates: raster pixels, and the logits of visibility and confidence.

        extent_px: (W, H) of the image. cameras: of the T frames. Nothing is checked here.
        """
        frame = None if cameras is None else common_frame(cameras.c2w, self.config.camera)
        steps = []
        for _ in range(self.config.iterations):
            xy = xy if self.config.correlation.estimate_gradient else xy.detach()
            rays = None if frame is None or cameras is None else estimate_rays(xy, *frame, cameras.K)
            tokens = self.tokens(xy, logits, self.correlation(prepared, xy), extent_px, rays)
            update = rearrange(self.transformer(tokens, valid), "b v n t c -> b v t n c").to(xy.dtype)
            xy = xy + update[..., :2] * self.config.correlation.base_stride_px
            logits = logits + update[..., 2:]
            steps.append((xy, logits[..., 0], logits[..., 1]))
        return HeadOutput(*(torch.stack(x) for x in zip(*steps, strict=True)))

    def correlation(self, prepared: CorrelationFeatures, xy: Float[Tensor, "B V T N 2"]) -> Float[Tensor, "B V N T C"]:
        """Embedded volumes of all levels around the estimates."""
        batch, views = xy.shape[:2]
        config, flat = self.config.correlation, rearrange(xy, "b v t n c -> (b v n) t c")
        rows = flat[..., 0].numel() * len(prepared.levels)
        recompute = self.config.recomputes(rows * len(prepared.supports[0]) * config.offsets**2)
        step = max(1, _HIDDEN_BYTES * len(flat) // (4 * rows * self.config.correlation_hidden))
        linear, *rest = self.correlation_mlp
        parts = []
        for first in range(0, len(flat), step):
            hidden = linear(prepared, flat[first : first + step], config, first, not recompute)
            parts.append(call(nn.Sequential(*rest), hidden, recompute=recompute))
        return rearrange(torch.cat(parts), "(b v n) t s c -> b v n t (s c)", b=batch, v=views)

    def tokens(
        self, xy: Float[Tensor, "B V T N 2"], logits: Float[Tensor, "B V T N 2"],
        correlation: Float[Tensor, "B V N T C"], extent_px: tuple[float, float],
        rays: Float[Tensor, "B V T N 6"] | None = None,
    ) -> Float[Tensor, "B V N T D"]:  # fmt: skip
        """What the transformer gets: logits, correlation, displacement, then time and camera added on top."""
        dtype = correlation.dtype
        fields = [rearrange(logits, "b v t n c -> b v n t c").to(dtype), correlation]
        if self.config.displacement:
            moved = displacement_features(xy, extent_px)
            fields.append(rearrange(moved, "b v t n c -> b v n t c").to(dtype))
        tokens = torch.cat(fields, -1)
        time = time_embedding(xy.shape[2], tokens.shape[-1], self.config.time_length)
        tokens = tokens + time.to(tokens)
        if rays is not None:
            embedded = self.camera_embed(rearrange(rays, "b v t n c -> b v n t c").to(self.camera_embed.weight.dtype))
            tokens = tokens + self.camera_norm(F.normalize(embedded, dim=-1))
        return tokens

    def _check(self, q: Tensor, query_txy: Tensor, valid: Tensor, cameras: Cameras | None) -> None:
        if query_txy.ndim != 4 or query_txy.shape[-1] != 3 or query_txy.shape[:2] != q.shape[:2]:
            raise ValueError(
                f"query_txy must be (B, V, N, 3) with B, V = {tuple(q.shape[:2])}, got {tuple(query_txy.shape)}"
            )
        if valid.shape != query_txy.shape[:-1]:
            raise ValueError(f"valid must be {tuple(query_txy.shape[:-1])} (B, V, N), got {tuple(valid.shape)}")
        if (cameras is None) != (self.config.camera == "none"):
            raise ValueError(f"head.camera is {self.config.camera}, but cameras were {'not ' * (cameras is None)}given")
        if cameras is not None and (cameras.c2w.shape[:3], cameras.K.shape[:3]) != (q.shape[:3], q.shape[:3]):
            raise ValueError(
                f"cameras must be for (B, V, T) = {tuple(q.shape[:3])}, got c2w {tuple(cameras.c2w.shape)} and "
                f"K {tuple(cameras.K.shape)}"
            )
