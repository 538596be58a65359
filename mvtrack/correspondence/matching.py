"""Where attention finds points in another frame, finer than a token and checked by matching back.

Only the points' own rows of attention are ever computed (MVTrack4Gen §4, A.2: forward match, reliable where matching
back returns to the query). A match at a token's centre is off by half a token; so the query is sampled between tokens,
the peak is a parabola through its neighbours, half of what matching back misses by is taken off (both directions lean
the same way, towards the tokens' centres), and four places around the point are matched and averaged.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from mvtrack.correspondence.probe import row_logits

_AROUND = torch.tensor([[-0.25, -0.25], [0.25, -0.25], [-0.25, 0.25], [0.25, 0.25]])  # tokens from the point


class Matches(NamedTuple):
    """One match per point. xy: raster pixels. confidence: share of a row that lies on the peak and its eight
    neighbours, times the same of matching back; in [0, 1]. cycle_px: how far from its place matching back ends. Means
    over the places around the point."""

    xy: Float[Tensor, "n 2"]
    confidence: Float[Tensor, "n"]
    cycle_px: Float[Tensor, "n"]


def sample_tokens(tokens: Float[Tensor, "h w heads d"], xy_px: Float[Tensor, "n 2"], token_px: int) -> Tensor:
    """Features (n, heads, d) at raster pixels of one frame: bilinear between tokens' centres, borders repeated."""
    height, width, heads, _ = tokens.shape
    image = rearrange(tokens, "h w n d -> 1 (n d) h w")
    image = image.to(torch.promote_types(image.dtype, torch.float32))
    grid = 2 * xy_px.to(image) / xy_px.new_tensor([width * token_px, height * token_px]).to(image) - 1
    found = F.grid_sample(image, grid[None, :, None], padding_mode="border", align_corners=False)
    return rearrange(found, "1 (n d) points 1 -> points n d", n=heads)


def sample_around(
    tokens: Float[Tensor, "h w heads d"], xy_px: Float[Tensor, "n 2"], token_px: int
) -> Float[Tensor, "n 4 heads d"]:
    """Features at the four places around each point by which it is matched."""
    places = (xy_px[:, None] + token_px * _AROUND.to(xy_px)).flatten(0, 1)
    return sample_tokens(tokens, places, token_px).unflatten(0, (-1, len(_AROUND)))


@torch.no_grad()
def match_frame(
    query: Float[Tensor, "n 4 heads d"], home_keys: Float[Tensor, "h w heads d"], home_xy: Float[Tensor, "n 2"],
    q: Float[Tensor, "h2 w2 heads d"], k: Float[Tensor, "h2 w2 heads d"], token_px: int,
) -> Matches:  # fmt: skip
    """Match points to one frame. query: their query features (`sample_around`); home_keys: keys of the frame they come
    from, where they lie at home_xy (raster pixels). q, k: of the frame that is searched.

    A match is the peak of the head-averaged softmax over that frame's keys.
    """
    offset = token_px * _AROUND.to(home_xy)
    xy, forward = _peak(query.flatten(0, 1), k, token_px)
    back_xy, backward = _peak(sample_tokens(q, xy, token_px), home_keys, token_px)
    miss = back_xy - (home_xy[:, None] + offset).flatten(0, 1).to(back_xy)
    found = (xy - miss / 2, forward * backward, miss.norm(dim=-1))
    places, confidence, cycle_px = (x.to(home_xy).unflatten(0, (-1, len(offset))) for x in found)
    return Matches((places - offset).mean(1), confidence.mean(1), cycle_px.mean(1))


def _peak(
    query: Float[Tensor, "n heads d"], keys: Float[Tensor, "h w heads d"], token_px: int
) -> tuple[Float[Tensor, "n 2"], Float[Tensor, "n"]]:
    """Raster pixels of each row's peak, and the share of the row around it."""
    height, width = keys.shape[:2]
    parts = [
        _peak_of_rows(logits.softmax(-1).mean(0).unflatten(-1, (height, width)))
        for _, logits in row_logits(query, torch.arange(len(query)), keys.flatten(0, 1))
    ]
    if not parts:
        return query.new_zeros(0, 2), query.new_zeros(0)
    cell, share = (torch.cat(x) for x in zip(*parts, strict=True))
    return cell * token_px, share


def _peak_of_rows(rows: Float[Tensor, "n h w"]) -> tuple[Float[Tensor, "n 2"], Float[Tensor, "n"]]:
    """The peak's (x, y) in tokens, a token's centre at a half, and the share of the 3 x 3 tokens around it."""
    width = rows.shape[-1]
    best = rows.flatten(1).argmax(-1)
    y, x = best // width, best % width
    window = F.pad(rows, (1, 1, 1, 1)).unfold(1, 3, 1).unfold(2, 3, 1)  # (n, h, w, 3, 3)
    around = window[torch.arange(len(rows)), y, x]
    shift = torch.stack([_vertex(around[:, 1]), _vertex(around[:, :, 1])], -1)
    return torch.stack([x, y], -1) + 0.5 + shift, around.sum((1, 2))


def _vertex(share: Float[Tensor, "n 3"]) -> Float[Tensor, "n"]:
    """Where the parabola through three logarithms at -1, 0, 1 peaks: at most half a step from the middle one, and there
    where a neighbour is missing."""
    before, middle, after = share.clamp_min(torch.finfo(share.dtype).tiny).log().unbind(-1)
    bend = before - 2 * middle + after
    peaked = (bend < -1e-6) & (share > 0).all(-1)
    return torch.where(peaked, 0.5 * (before - after) / torch.where(peaked, bend, -1.0), 0.0).clamp(-0.5, 0.5)
