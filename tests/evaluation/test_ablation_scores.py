from dataclasses import replace

import pytest
import torch

from mvtrack.correspondence.targets import targets_from_tracks
from mvtrack.data.synthetic.test_scenes import case_specs, render_case
from mvtrack.evaluation.ablation.scores import TITLES, _followed, pinned_scores, warp_consistency
from mvtrack.evaluation.attention.analysis import AnalysisConfig, analyse
from mvtrack.geometry.warp import depth_warp
from mvtrack.inference.forward_noised import noised_videos, probe_layer
from mvtrack.inference.sampler import SamplerOptions
from mvtrack.models.conditioning import Window
from tracking_head import Tracks

SPECS = case_specs(2, 5, (24, 32), 5)


def test_one_layer_alone_scores_as_in_the_analysis_of_all(small_model):
    clip = render_case(SPECS[0], num_points=23).clip
    analysis = analyse(small_model, [clip], AnalysisConfig(steps=3, queries=19, seed=3))
    targets = targets_from_tracks(Tracks.stack([clip.tracks]), (24, 32), 4, 19, 3)
    videos = noised_videos(small_model, clip.video, Window(clip.camera, clip.scene_depth), seed=3)
    probed = probe_layer(small_model, videos, targets, 1, torch.tensor(analysis.sigmas))
    for step, sums in enumerate(probed):
        for score_name in ("pck", "alignment_error"):
            whole = analysis.table("cross_view", score_name)[1, step].item()
            assert sums.means()["cross_view"][score_name] == pytest.approx(whole, rel=1e-6)


def test_warp_consistency_sees_what_the_reference_shows():
    clip = render_case(SPECS[1]).clip
    views = clip.depth[1], clip.depth[0], clip.camera[1], clip.camera[0]
    exact = depth_warp(clip.video[0], *views)
    assert warp_consistency(clip, exact) > 60
    assert 20 < warp_consistency(clip, clip.video[1]) < 60  # the truth itself, up to resampling
    assert warp_consistency(clip, exact.roll(5, -1)) < warp_consistency(clip, clip.video[1])


def test_every_title_has_a_score(small_model):
    scores = pinned_scores(small_model, SPECS, 1, replace(SamplerOptions(), steps=1))
    pinned = {name for name in TITLES if not name.startswith(("validation/", "tracks_"))}
    assert pinned - {"dynamic_warp_consistency_db"} <= scores.keys() <= pinned
    assert 0 <= scores["pck"][0] <= 1
    assert len(scores["psnr_db"]) == 2
    assert all(value == value for values in scores.values() for value in values)


@pytest.mark.parametrize("frames", [9, 17])
def test_tracks_are_followed_in_the_true_video_and_not_in_a_still_one(frames):
    """At the shipped tracker's own size and up to its length: the truth scores well, a frozen first frame worse."""
    spec = case_specs(1, 3, (64, 64), frames)[0]
    clip = render_case(spec, num_points=60).clip
    truth, still = (_followed(clip, made) for made in (clip.video[1], clip.video[1, :1].expand(frames, -1, -1, -1)))
    assert truth["tracks_delta_avg"] > still["tracks_delta_avg"]
    assert set(truth) == {"tracks_delta_avg", "tracks_average_jaccard"}


def test_moving_pixels_are_those_of_objects_that_move():
    moved = [render_case(spec).moving for spec in case_specs(4, 1, (32, 40), 9)]
    shares = [float(mask.float().mean()) for mask in moved]
    assert 0 < max(shares) < 0.9
    assert all(mask.shape == (9, 32, 40) for mask in moved)
