"""What a tracker is asked (queries) and what it looks at (features), checked once, at the door."""

from dataclasses import dataclass

import torch
from torch import Tensor

from tracking_head.shapes import Bool, Float
from tracking_head.tracks import Tracks


@dataclass(frozen=True)
class Queries:
    """Points to follow: where each is, in each view, at one frame of its own.

    txy: frame index (0 .. num_frames - 1, a whole number), x, y in raster pixels of images of `size` (H, W).
    valid: whether the point has a query in this view; where it has none, txy is ignored and no track is made.
    A leading batch axis may stand in front of both.

    Raises ValueError for a wrong rank, values that are not finite, frames or positions outside the clip, no valid
    point at all, and a view without one (leave such a view out of the features).
    """

    txy: Float[Tensor, "*B V N 3"]
    valid: Bool[Tensor, "*B V N"]
    num_frames: int
    size: tuple[int, int]

    def __post_init__(self) -> None:
        shape = tuple(self.txy.shape)
        if self.txy.ndim not in (3, 4) or shape[-1] != 3:
            raise ValueError(f"queries must be (V, N, 3) or (B, V, N, 3) of frame, x, y, got {shape}")
        if tuple(self.valid.shape) != shape[:-1]:
            raise ValueError(f"valid must be {shape[:-1]} like the queries, got {tuple(self.valid.shape)}")
        if not self.valid.any():
            raise ValueError(f"at least one query must be valid, got none of {self.valid.numel()}")
        empty = (~self.valid.any(-1)).nonzero()
        if len(empty):
            raise ValueError(f"every view must have a valid query, got none in view {empty[0, -1].item()}")
        refuse_outside(self.txy, self.valid, self.num_frames, self.size)

    @staticmethod
    def everywhere(txy: Float[Tensor, "*B V N 3"], num_frames: int, size: tuple[int, int]) -> "Queries":
        """Queries that are valid in every view."""
        return Queries(txy, torch.ones(txy.shape[:-1], dtype=torch.bool, device=txy.device), num_frames, size)


@dataclass(frozen=True)
class Features:
    """Query and key features of one attention layer (or of anything else that gives a map per frame).

    q, k: one token per token_px x token_px pixels, channels split into heads (1 where there are none). May be the same
    tensor. A leading batch axis may stand in front.
    """

    q: Float[Tensor, "*B V T h w heads d"]
    k: Float[Tensor, "*B V T h w heads d"]
    token_px: int

    def __post_init__(self) -> None:
        if self.q.ndim not in (6, 7) or self.q.shape != self.k.shape:
            raise ValueError(
                "q and k must both be (V, T, h, w, heads, d) or (B, V, T, h, w, heads, d), got "
                f"{tuple(self.q.shape)} and {tuple(self.k.shape)}"
            )
        if self.token_px < 1:
            raise ValueError(f"token_px must be at least 1, got {self.token_px}")

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) in pixels of the images that the tokens cover."""
        return self.q.shape[-4] * self.token_px, self.q.shape[-3] * self.token_px

    def check(self, queries: Queries) -> None:
        """Raises ValueError where queries are for another clip (views, frames, batch or image size), and for NaN."""
        for name in ("q", "k"):
            wrong = int((~getattr(self, name).isfinite()).sum())
            if wrong:
                raise ValueError(f"features must be finite, got {wrong} values of {name} that are not")
        expected = (*self.q.shape[:-4],)
        got = (*queries.txy.shape[:-2], queries.num_frames)
        if expected != got:
            raise ValueError(f"queries must be for (..., V, T) = {expected} as the features, got {got}")
        if self.size != tuple(queries.size):
            grid = f"{self.q.shape[-4]}x{self.q.shape[-3]} tokens of {self.token_px} px"
            raise ValueError(f"queries must be in images of {self.size} ({grid}), got {tuple(queries.size)}")


def refuse_outside(
    txy: Float[Tensor, "*B V N 3"], valid: Bool[Tensor, "*B V N"], num_frames: int, size: tuple[int, int]
) -> None:
    """Raises ValueError for valid queries that are not finite, between frames, or outside the clip or its images."""
    t, x, y = txy.unbind(-1)
    height, width = size
    finite, whole, timely = txy.isfinite().all(-1), t == t.round(), (t >= 0) & (t <= num_frames - 1)
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    if not (valid & ~(finite & whole & timely & inside)).any():  # all at once: a GPU has to be waited for
        return
    _refuse(txy, valid & ~finite, "finite frame, x, y")
    _refuse(txy, valid & ~timely, f"a frame in [0, {num_frames - 1}]")
    _refuse(txy, valid & ~whole, "a whole frame number")
    _refuse(txy, valid & ~inside, f"x in [0, {width}) and y in [0, {height})")


def _refuse(txy: Float[Tensor, "*B V N 3"], wrong: Bool[Tensor, "*B V N"], expected: str) -> None:
    found = wrong.nonzero()
    if len(found):
        names = zip(("point", "view", "clip"), found[0].flip(0).tolist(), strict=False)
        where = ", ".join(f"{name} {i}" for name, i in names)
        value = tuple(round(x, 3) for x in txy[tuple(found[0])].tolist())
        raise ValueError(f"queries need {expected}, got (t, x, y) = {value} for {where} ({len(found)} such)")


def queries_from_truth(
    truth: Tracks, generator: torch.Generator | None = None
) -> tuple[Float[Tensor, "*B V N 3"], Bool[Tensor, "*B V N"]]:
    """(frame, x, y) of every point in every view at a random frame in which it is visible there, and whether there is
    one. Without a generator: at the first such frame (TAP-Vid's "first")."""
    visible = truth.visible & truth.valid[..., None, :]
    rank = torch.arange(visible.shape[-2], 0, -1.0)[:, None].expand(visible.shape)
    if generator is not None:
        rank = 1 - torch.rand(visible.shape, generator=generator)  # never 0
    frame = (visible * rank.to(visible.device)).argmax(-2)  # (*B, V, N)
    index = frame[..., None, :, None].expand(*frame.shape[:-1], 1, frame.shape[-1], 2)
    xy = truth.xy.gather(-3, index).squeeze(-3)
    return torch.cat([frame[..., None].to(xy.dtype), xy], -1), visible.any(-2)
