"""Scores of aligned views: the truth is the measure, and bent views have fewer matches to the pixel."""

import pytest
import torch
import torch.nn.functional as F

from mvtrack.config.matching import MatchingConfig
from mvtrack.data.synthetic.objects import object_clip
from mvtrack.geometry.camera import pixel_grid
from mvtrack.training.decoder_scores import count_neighbours, scores_of_clips

SIDE = 48


@pytest.fixture(scope="module")
def clip():
    return object_clip(3, "syncdreamer", SIDE).views([0, 1, 15])


def bent(views: torch.Tensor, px: float) -> torch.Tensor:
    """Every view moved by a smooth field of its own, of so many pixels on average."""
    field = torch.randn(len(views), 2, 4, 4, generator=torch.Generator().manual_seed(3))
    field = F.interpolate(field, (SIDE, SIDE), mode="bicubic", align_corners=False)
    field = field / field.square().sum(1).mean().sqrt() * px
    at = 2 * (pixel_grid((SIDE, SIDE)) + field.permute(0, 2, 3, 1)) / SIDE - 1
    return F.grid_sample(views[:, 0], at, padding_mode="border", align_corners=False)[:, None]


def test_misaligned_views_lose_matches_to_the_pixel_first(clip):
    truth, moved, far = count_neighbours([(clip, bent(clip.video, px)) for px in (0.0, 1.0, 4.0)], MatchingConfig())
    assert truth.pixel > 20
    (_, near, exact), (_, far_near, far_exact) = moved.over(truth), far.over(truth)
    assert exact < near
    assert far_near < 0.5
    assert far_exact < exact < 0.8


def test_clips_are_scored_together_as_apart(clip):
    other = object_clip(5, "syncdreamer", SIDE).views([0, 1, 15])
    made = [(c, {"codec_": bent(c.video, 2.0), "": c.video}) for c in (clip, other)]
    rows = scores_of_clips(made, MatchingConfig())
    assert rows[1:] == scores_of_clips(made[1:], MatchingConfig())
    for row in rows:
        assert row["matches"] == row["true_matches"] == row["pixel_matches"] == 1
        assert row["codec_pixel_matches"] < 1
        assert row["gain_db"] == row["psnr_db"] - row["codec_psnr_db"] > 20
