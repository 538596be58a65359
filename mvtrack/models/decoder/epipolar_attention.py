"""Depth-truncated epipolar attention: every cell of a feature map asks other views about places near its surface.

Pixel-Aligned Multi-View Generation with Depth Guided Decoder, §3.2: along a cell's ray, points within a radius of its
depth are projected into the other views at the same moment; what those show there becomes keys and values. Where
nothing is seen nothing changes, and with the output at its first weights nothing changes at all.
"""

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mvtrack.config.checked import Count, Positive, config
from mvtrack.geometry.camera import Camera, pixel_grid, plucker_rays, project, unproject
from mvtrack.models.decoder.scene import DecoderScene

_BYTES_AT_ONCE = 256 * 2**20


@config
class EpipolarConfig:
    """points: on each ray. dim: of what is sampled. sources: how many other views a cell can ask; further ones, the
    farther from it first, are left out, missing ones count as views that see nothing. reach: how far before and behind
    a surface points lie, in radii of the scene."""

    points: Count = 7
    dim: Count = 64
    sources: Count = 1
    reach: Positive = 1.0


class EpipolarAttention(nn.Module):
    """One level of a decoder, for feature maps of `channels` channels. The output layer starts at zero.

    recomputes: what each view asks is forgotten, and computed once more in the backward pass.
    """

    recomputes = False

    def __init__(self, channels: int, config: EpipolarConfig) -> None:
        super().__init__()
        self.config, dim = config, config.dim
        self.norm = nn.GroupNorm(1, channels)
        self.source = nn.Conv2d(channels + 4, dim, 1)  # features, and pictures that exist
        self.source_ray, self.query_ray = nn.Linear(6, dim), nn.Linear(6, dim)
        self.query = nn.Conv2d(channels, dim, 1)
        self.mix = nn.Sequential(nn.Linear(config.sources * (dim + 1), dim), nn.GELU(), nn.Linear(dim, dim))
        self.key, self.value = nn.Linear(dim, dim, bias=False), nn.Linear(dim, dim, bias=False)
        self.out = nn.Linear(dim, channels, bias=False)
        nn.init.zeros_(self.out.weight)

    def forward(
        self, features: Float[Tensor, "V N C h w"], scene: DecoderScene, views: tuple[int, ...] | None = None,
        jitter: torch.Generator | None = None,
    ) -> Float[Tensor, "V N C h w"]:  # fmt: skip
        """The features with what the other views say added. scene: at these moments and this size (`DecoderScene.at`).

        views: those that ask; None: all. jitter: points are drawn within their strata (training), else in the middle.
        """
        changed, tokens = features.clone(), {}
        for view in range(len(features)) if views is None else views:
            sources = scene.nearest(view)[: self.config.sources]
            for source in set(sources) - set(tokens):  # one view at a time: memory does not grow with all views
                tokens[source] = self.tokens(features[source], scene.pixels[source].to(features))
            shown = {source: tokens[source] for source in sources}
            ask = self._ask_and_forget if self.recomputes and torch.is_grad_enabled() else self.ask
            changed[view] = ask(features[view], shown, scene, view, jitter)
        return changed

    def _ask_and_forget(
        self, features: Float[Tensor, "N C h w"], shown: dict[int, Float[Tensor, "N d H W"]], scene: DecoderScene,
        view: int, jitter: torch.Generator | None,
    ) -> Float[Tensor, "N C h w"]:  # fmt: skip
        """`ask`, whose second run draws the points of the first."""
        drawn = [jitter.clone_state(), jitter] if jitter else []
        return checkpoint(
            lambda x, seen: self.ask(x, seen, scene, view, drawn.pop() if jitter else None),
            features, shown, use_reentrant=False, preserve_rng_state=False,
        )  # fmt: skip

    def tokens(self, features: Float[Tensor, "N C h w"], pixels: Float[Tensor, "N 4 h w"]) -> Float[Tensor, "N d h w"]:
        """What a view shows to those that ask it."""
        return self.source(torch.cat([self.norm(features), pixels], 1))

    def ask(
        self, features: Float[Tensor, "N C h w"], shown: dict[int, Float[Tensor, "N d H W"]], scene: DecoderScene,
        view: int, jitter: torch.Generator | None = None, here: DecoderScene | None = None,
    ) -> Float[Tensor, "N C h w"]:  # fmt: skip
        """A view's features with what others say added. shown: tokens of the views that it asks, nearest first. here:
        the part of the scene that the features are of; None: all of it."""
        changed, rows = features.clone(), self._moments_at_once(features)
        for start in range(0, len(features), rows):
            span = slice(start, start + rows)
            part, whole = {source: x[span] for source, x in shown.items()}, scene.moments(span)
            own = whole if here is None else here.moments(span)
            changed[span] = features[span] + self._update(features[span], part, whole, view, jitter, own)
        return changed

    def _moments_at_once(self, features: Tensor) -> int:
        cell = self.config.points * self.config.sources * self.config.dim * 4 * 3
        return max(1, _BYTES_AT_ONCE // (cell * features.shape[-2] * features.shape[-1]))

    def _update(
        self, features: Float[Tensor, "N C h w"], shown: dict[int, Float[Tensor, "N d H W"]], scene: DecoderScene,
        view: int, jitter: torch.Generator | None, here: DecoderScene,
    ) -> Float[Tensor, "N C h w"]:  # fmt: skip
        """What is added, see `ask`.

        Linear layers are taken at cells, not at their points: before tokens are sampled, and after points are weighed.
        """
        seen_from, first, second = scene.seen_from(view), self.mix[0], self.mix[2]
        points = self._points(here, view, jitter)  # (N, P * h * w, 3)
        hidden, seen = first.bias[:, None], []
        for (source, tokens), weight in zip(shown.items(), first.weight.split(self.config.dim + 1, 1), strict=False):
            ray = self.source_ray(plucker_rays(seen_from[source]).to(features))
            tokens = tokens + rearrange(ray, "n h w d -> n d h w")
            tokens = F.conv2d(tokens, weight[:, :-1, None, None], weight[:, -1])
            there, seen_here = look_up(tokens, points, scene.camera[source])
            hidden = hidden + there.mT
            seen.append(seen_here)
        if not seen:
            return torch.zeros_like(features)
        hidden = F.gelu(hidden).unflatten(-1, (self.config.points, -1))  # (N, d, P, hw)
        own_ray = self.query_ray(plucker_rays(here.seen_from(view)[view]).to(features)).flatten(1, 2)
        asked = self.query(self.norm(features)).flatten(2).mT + own_ray  # (N, hw, d)
        asked = asked @ self.key.weight @ second.weight  # what they share at all points does not weigh
        any_seen = torch.stack(seen).any(0).unflatten(1, (self.config.points, -1))
        answer = self.value(second(attend_to_points(asked.mT, hidden, any_seen).mT))
        answer = self.out(answer) * any_seen.any(1)[..., None]
        return rearrange(answer, "n (h w) c -> n c h w", h=features.shape[-2])

    def _points(self, scene: DecoderScene, view: int, jitter: torch.Generator | None) -> Float[Tensor, "N p 3"]:
        """World points on the rays of a view's cells, in order of the stratum, then of the cell."""
        count, depth, camera = self.config.points, scene.depth[view], scene.camera[view]
        place = torch.full((count, *depth.shape), 0.5, device=depth.device)
        if jitter is not None:
            place = torch.rand(place.shape, generator=jitter).to(depth)
        stratum = torch.arange(count, device=depth.device)[:, None, None, None]
        offset = ((stratum + place) / count * 2 - 1) * self.config.reach * scene.radius
        z = (depth + offset).clamp_min(1e-3 * scene.radius)
        xy = pixel_grid(camera.size, device=depth.device).flatten(0, 1).to(depth).repeat(count, 1)
        return unproject(xy, rearrange(z, "p n h w -> n (p h w)"), camera)


def look_up(
    tokens: Float[Tensor, "N d h w"], points: Float[Tensor, "N p 3"], camera: Camera
) -> tuple[Float[Tensor, "N p d"], Bool[Tensor, "N p"]]:
    """What cameras (N,) show at world points: bilinear, zero where they do not see them; and whether they do."""
    xy, z = project(points, camera)
    size = xy.new_tensor([camera.size[1], camera.size[0]])
    seen = (z > 0) & (xy >= 0).all(-1) & (xy < size).all(-1)
    exact = torch.promote_types(tokens.dtype, xy.dtype)  # places in half precision would be off by pixels
    grid = torch.where(seen[..., None], 2 * xy / size - 1, 0.0).to(exact)
    found = F.grid_sample(tokens.to(exact), grid[:, None], padding_mode="border", align_corners=False).to(tokens)
    return rearrange(found, "n d 1 p -> n p d") * seen[..., None], seen


def attend_to_points(
    query: Float[Tensor, "N d c"], points: Float[Tensor, "N d P c"], seen: Bool[Tensor, "N P c"]
) -> Float[Tensor, "N d c"]:
    """Each cell's mean over its own points that are seen, as its query weighs them; zero where it sees none of them."""
    logits = (query[:, :, None] * points).sum(1) / math.sqrt(query.shape[1])
    logits = logits.masked_fill(~seen, -torch.inf).masked_fill(~seen.any(1, keepdim=True), 0.0)
    weight = logits.softmax(1) * seen.any(1, keepdim=True)
    return (weight[:, None] * points).sum(2)
