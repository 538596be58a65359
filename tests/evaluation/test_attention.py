import json
from dataclasses import replace

import cv2
import pytest
import torch

from mvtrack.config.views import ViewsConfig
from mvtrack.correspondence.probe import probe_rows
from mvtrack.correspondence.probe_scores import KINDS, sum_scores
from mvtrack.correspondence.targets import CorrespondenceTargets, targets_from_tracks
from mvtrack.data.synthetic.test_scenes import case_specs, render_case
from mvtrack.evaluation.attention.analysis import AnalysisConfig, analyse
from mvtrack.evaluation.attention.overlays import best_shown, example_sheet
from mvtrack.evaluation.attention.quality import Correlation, Harm
from mvtrack.evaluation.attention.report import (
    as_record,
    correlation_record,
    harm_record,
    summary,
    write_correlations,
    write_curves,
    write_harm,
    write_heads,
    write_heat_maps,
    write_space,
)
from mvtrack.models.conditioning import Conditioning, model_cameras, ray_maps
from mvtrack.models.diffusion.flow import add_noise, sampling_sigmas
from tracking_head import Tracks

STEPS = 3


@pytest.fixture(scope="module")
def clips():
    return [render_case(spec, num_points=23).clip for spec in case_specs(2, 5, (24, 32), 5)]


@pytest.fixture(scope="module")
def analysis(small_model, clips):
    return analyse(small_model, clips, AnalysisConfig(steps=STEPS, queries=19, seed=3))


def test_every_layer_and_level_is_probed_as_by_hand(small_model, clips, analysis):
    level, layer, total = 1, 1, None
    for number, clip in enumerate(clips):
        targets = targets_from_tracks(Tracks.stack([clip.tracks]), (24, 32), 4, 19, 3 + number)
        latents = small_model.codec.encode(clip.video[None])
        noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(3 + number))
        sigma = sampling_sigmas(STEPS, small_model.config.flow.shift)[level : level + 1]
        noisy = torch.cat([latents[:, :1], add_noise(latents, noise, sigma)[:, 1:]], 1)
        camera, _ = model_cameras(clip.camera[None], small_model.config.rays, clip.scene_depth)
        with torch.no_grad():
            tap = small_model.dit(
                noisy, 1000 * sigma, Conditioning(ray_maps(camera, small_model.config.rays)), tap_layers=(layer,)
            )
        sums = sum_scores(probe_rows(*tap.taps[0], targets, 4), targets, 4.0)
        own = torch.tensor(sums.alignment_error_per_head(), dtype=torch.float64)
        found = torch.tensor(analysis.by_clip[number][layer][level].alignment_error_per_head(), dtype=torch.float64)
        torch.testing.assert_close(found, own)
        total = sums if total is None else total + sums
    assert len(analysis.sums) == 2
    assert len(analysis.sums[0]) == STEPS
    for kind in KINDS:
        for score, value in total.means()[kind].items():
            if score != "rows":
                assert analysis.table(kind, score)[layer, level].item() == pytest.approx(value, rel=1e-6)
    torch.testing.assert_close(
        analysis.alignment_error_per_head()[layer, level], torch.tensor(total.alignment_error_per_head())
    )


def test_clips_keep_their_own_errors(analysis):
    errors = analysis.alignment_error_per_clip()
    assert errors.shape == (2, 2)
    rows = [clip[0][0].rows[2] for clip in analysis.by_clip]
    pooled = sum(n * e for n, e in zip(rows, errors, strict=True)) / sum(rows)
    expected = analysis.table("cross_view", "alignment_error").mean(1)
    torch.testing.assert_close(pooled, expected)
    assert not torch.equal(errors[0], errors[1])


def test_matches_in_space_grow_with_what_counts_as_near(small_model, clips):
    found = []
    for near in (0.02, 0.2, 5.0):
        config = AnalysisConfig(steps=1, queries=19, near_share=near)
        found.append([sums[0] for sums in analyse(small_model, clips, config).space])
    for layer in range(2):
        rows, near, reachable = (
            torch.stack([getattr(f[layer], n).sum() for f in found]) for n in ("rows", "near", "reachable")
        )
        assert (rows == rows[0]).all()
        assert (near.diff() > 0).all()
        assert (near <= reachable).all()
        assert 0.8 * rows[-1] < near[-1] <= reachable[-1] == rows[-1] > 10  # some matches lie in the sky
    metres = AnalysisConfig(steps=1, queries=99, near_m=0.2 * float(clips[0].depth[0, 0].median()))
    one = [analyse(small_model, clips[:1], c).space for c in (metres, AnalysisConfig(1, 99, near_share=0.2))]
    assert torch.equal(one[0][1][0].near, one[1][1][0].near)


def test_hooks_are_gone_afterwards(small_model, analysis):
    assert not any(block._forward_hooks for block in small_model.dit.blocks)


def test_the_report_is_complete_and_drawn(analysis, tmp_path):
    record = json.loads(json.dumps(as_record(analysis), allow_nan=False))
    assert record["layer_to_tap"] == analysis.layer_to_tap() in (0, 1)
    assert len(record["sigmas"]) == STEPS
    for kind in KINDS:
        assert record["rows"][kind] > 0
        assert 0 <= record["unmoved_pck"][kind] <= 1
        for name, table in record["tables"][kind].items():
            assert (len(table), len(table[0])) == (2, STEPS), name
    space = record["precision_in_space"]
    assert sum(space["rows"]) > 0
    for i, rows in enumerate(space["rows"]):
        cells = [space["reachable"][i], *(layer[i] for layer in space["precision"])]
        assert all((cell is None) == (rows == 0) for cell in cells)
    correlations = {"psnr_db": [Correlation(0.5, 0.03, 7), Correlation(float("nan"), float("nan"), 7)]}
    harm = Harm([20.0, 22.0], {"identity": [[15.0, 19.0], [20.0, 22.5]], "own_view": [[18.0, 20.0], [20.0, 22.0]]})
    assert correlation_record(correlations)["psnr_db"][1] == {"r": None, "p": None, "count": 7}
    assert harm_record(harm)["drop_db"]["identity"][0]["mean"] == pytest.approx(4.0)
    text = summary(analysis, correlations, harm)
    assert text.count("\n| ") == 2
    assert "| +0.50 (0.03) | +4.00 | +2.00 |" in text
    assert f"Layer to tap (best harmonic mean, cross-view): {record['layer_to_tap']}." in text
    write_heat_maps(tmp_path / "heat_maps.png", analysis)
    write_heads(tmp_path / "heads.png", analysis)
    write_curves(tmp_path / "curves.png", analysis)
    write_space(tmp_path / "space.png", analysis, "4 % of the depth")
    write_correlations(tmp_path / "correlation.png", correlations)
    write_harm(tmp_path / "harm.png", harm)
    for name in ("heat_maps", "heads", "curves", "space", "correlation", "harm"):
        assert cv2.imread(str(tmp_path / f"{name}.png")).std() > 10


def test_examples_show_a_point_that_both_views_see(small_model, clips):
    """The second query is seen in most frames; the third as often, and moves; the fourth lies in the reference."""
    cells, frames = 48, 2
    query = torch.tensor([[2 * cells + 20, 2 * cells + 20, 3 * cells + 27, 20]])
    weight = torch.ones(1, 4, 2, frames)
    weight[0, 0, 0] = 0
    xy = torch.full((1, 4, 2, frames, 2), 9.0)
    xy[0, 2, 1, 1] += 3
    xy[0, 3, 0, 1] += 9
    targets = CorrespondenceTargets(
        query, torch.zeros(1, 4, 2, frames, dtype=torch.long), weight, (6, 8), query_xy=xy[:, :, 0, 0], label_xy=xy
    )
    assert best_shown(targets) == 2
    sheet = example_sheet(small_model, clips[0], 1, 0.5)
    assert sheet.shape[1] == 2 * 256 + 6
    assert ((sheet == (255, 40, 200)).all(-1)).any()  # the query's ring
    assert ((sheet == (60, 255, 60)).all(-1)).any()  # the truth's


def test_clips_that_cannot_be_judged_are_refused(small_model, clips, unchecked):
    config = AnalysisConfig(steps=1, queries=5)
    bare = clips[0].__class__(clips[0].video, clips[0].camera, depth=clips[0].depth, key="bare")
    with pytest.raises(ValueError, match="clip bare has no tracks"):
        analyse(small_model, [bare], config)
    still = [clip.frames(slice(0, 1)) for clip in clips]
    with pytest.raises(ValueError, match="2 clips hold no reference_temporal, target_temporal correspondence"):
        analyse(small_model, still, config)
    views = replace(small_model, config=replace(small_model.config, views=ViewsConfig(), num_frames=1))
    with pytest.raises(ValueError, match="views of still scenes"):
        analyse(views, clips, config)
    with pytest.raises(ValueError, match="must be at least 1, got 0"):
        AnalysisConfig(steps=0)
    with pytest.raises(ValueError, match="must be positive, got -1 and None px"):
        AnalysisConfig(near_m=-1)
