"""Windows over a video of any length, and which of its frames are anchors of which window."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mvtrack.data.clip import TEMPORAL_STRIDE, num_latent_frames, padded_length
from mvtrack.inference.sampler import windows


@dataclass(frozen=True)
class Windows:
    """spans: (start, stop) in video frames; neighbours share at least one.

    A window whose frames are not 4n + 1 is padded by repeating its last one; only a single window may be.
    """

    spans: tuple[tuple[int, int], ...]

    def __post_init__(self) -> None:
        for (_, stop), (start, _) in zip(self.spans, self.spans[1:], strict=False):
            if start >= stop:
                raise ValueError(f"neighbouring windows must share at least one frame, got {self.spans}")
        if len(self.spans) > 1:
            for start, stop in self.spans:
                num_latent_frames(stop - start)

    @property
    def num_frames(self) -> int:
        return self.spans[-1][1]

    def anchors(self, window: int) -> Int[Tensor, "f"]:
        """The video frame that each latent frame of a window shows; a padded one shows the last."""
        start, stop = self.spans[window]
        count = num_latent_frames(padded_length(stop - start))
        return (start + torch.arange(count) * TEMPORAL_STRIDE).clamp_max(stop - 1)

    def all_anchors(self) -> list[int]:
        """Anchors of all windows, ascending."""
        return sorted({int(a) for k in range(len(self.spans)) for a in self.anchors(k)})

    def central_window(self, anchor: int) -> tuple[int, int]:
        """(window, latent frame) of an anchor: of several windows the one in which it lies most central."""
        places = [
            (abs(sum(span) / 2 - anchor), k, int((self.anchors(k) == anchor).nonzero()[0]))
            for k, span in enumerate(self.spans)
            if (self.anchors(k) == anchor).any()
        ]
        if not places:
            raise ValueError(f"frame {anchor} is not an anchor of any window")
        return min(places)[1:]


def aligned_windows(num_frames: int, window: int) -> Windows:
    """Windows of a model's length that share anchors: about a quarter of each, at least one latent frame."""
    overlap = max(1, window // 4 // TEMPORAL_STRIDE) * TEMPORAL_STRIDE + 1
    overlap = min(overlap, window - TEMPORAL_STRIDE)
    return Windows(tuple(windows(num_frames, window, overlap)))


def without_padding(values: Float[Tensor, "V T ..."], num_frames: int) -> Float[Tensor, "V n ..."]:
    """Values at video rate of a padded window, for its real frames.

    They were interpolated as if the last anchor were reached at its own frame; it shows the last real frame, so it is
    reached there.
    """
    last = num_frames - 1
    before = max(0, (last - 1) // TEMPORAL_STRIDE) * TEMPORAL_STRIDE
    after = before + TEMPORAL_STRIDE
    values = values[:, : max(after, last) + 1]
    if last == after or last == 0:
        return values[:, :num_frames]
    share = torch.arange(1, last - before + 1).to(values) / (last - before)
    share = share.view(-1, *(1,) * (values.ndim - 2))
    end = torch.lerp(values[:, before, None], values[:, after, None], share)
    return torch.cat([values[:, : before + 1], end], 1)
