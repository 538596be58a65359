"""What aligned views are worth: against the true pictures, and by how many points of neighbouring views match.

The paper (Depth Guided Decoder, table 2) counts what a dense matcher finds between adjacent views. Where geometry is
known, three counts are told apart: all matches, those near the truth, and those right to the pixel, which is what
pixel-aligned views are to have.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from mvtrack.config.matching import MatchingConfig
from mvtrack.data.clip import Clip
from mvtrack.geometry.warp import reproject
from mvtrack.inference.view_matching import match_views
from mvtrack.metrics.image import psnr, ssim
from mvtrack.metrics.view_matches import PIXEL_PX, count_true
from mvtrack.models.decoder.scene import nearest_views
from mvtrack.training.decoder_examples import seen_by, shown_by_first

Views = Float[Tensor, "V T 3 H W"]


class MatchCounts(NamedTuple):
    """found: all matches. true: those within two pixels of the truth. pixel: those within one, of a matcher to the
    pixel."""

    found: int
    true: int
    pixel: int

    def over(self, truth: "MatchCounts") -> tuple[float, float, float]:
        return tuple(own / max(1, whole) for own, whole in zip(self, truth, strict=True))


def count_neighbours(made: list[tuple[Clip, Views]], matching: MatchingConfig) -> list[MatchCounts]:
    """Between each view and the one that stands nearest to it, at the last moment. made: views of the clips' cameras.

    Raises ValueError where the matcher lacks something.
    """
    pairs = [(number, *pair) for number, (clip, _) in enumerate(made) for pair in _neighbours(clip)]
    pictures = [(made[n][1][view, -1], made[n][1][other, -1]) for n, view, other in pairs]
    coarse = match_views(pictures, matching)
    fine = match_views(pictures, matching, to_the_pixel=True) if matching.matcher == "sift" else coarse
    counts = [[0, 0, 0] for _ in made]
    for (number, view, other), near, exact in zip(pairs, coarse, fine, strict=True):
        clip = made[number][0]
        place, _ = reproject(clip.depth[view], clip.camera[view], clip.camera[other])
        truth = place[-1], seen_by(clip, view, other)[-1]
        counts[number][0] += len(near.first)
        counts[number][1] += count_true(near.first, near.second, *truth)
        counts[number][2] += count_true(exact.first, exact.second, *truth, PIXEL_PX)
    return [MatchCounts(*count) for count in counts]


def scores_of_clips(made: list[tuple[Clip, dict[str, Views]]], matching: MatchingConfig) -> list[dict[str, float]]:
    """Of each clip's views but the first, by the prefix of their names: "codec_", the codec's own, "", ..."""
    wanted = [(clip, clip.video) for clip, _ in made]
    wanted += [(clip, torch.cat([clip.video[:1], video[1:]])) for clip, videos in made for video in videos.values()]
    counted = count_neighbours(wanted, matching)
    truths, rest, rows = counted[: len(made)], iter(counted[len(made) :]), []
    for (clip, videos), whole in zip(made, truths, strict=True):
        truth, seen, scores = clip.video[1:], shown_by_first(clip)[1:], {}
        for name, video in videos.items():
            found, true, pixel = next(rest).over(whole)
            scores |= {
                f"{name}psnr_db": psnr(video[1:], truth), f"{name}ssim": ssim(video[1:], truth),
                f"{name}seen_psnr_db": psnr(video[1:], truth, seen) if seen.any() else math.nan,
                f"{name}matches": found, f"{name}true_matches": true, f"{name}pixel_matches": pixel,
            }  # fmt: skip
        rows.append(scores | {"gain_db": scores["psnr_db"] - scores["codec_psnr_db"]})
    return rows


def _neighbours(clip: Clip) -> list[tuple[int, int]]:
    views = range(len(clip.video))
    return sorted({tuple(sorted((view, nearest_views(clip.camera, view)[0]))) for view in views})
