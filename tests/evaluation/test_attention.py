import cv2
import pytest
import torch

from mvtrack.backbone.model import model_cameras
from mvtrack.backbone.ray_encoder import ray_maps
from mvtrack.correspondence.probe import probe_rows
from mvtrack.correspondence.probe_scores import KINDS, sum_scores
from mvtrack.correspondence.targets import targets_from_tracks
from mvtrack.data.test_scenes import case_specs, render_case
from mvtrack.diffusion.flow import add_noise, sampling_sigmas
from mvtrack.evaluation.attention import AnalysisConfig, analyse
from mvtrack.evaluation.attention_report import as_record, summary, write_curves, write_heat_maps
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
        camera, _ = model_cameras(clip.camera[None], small_model.config.rays, clip.depth[None])
        with torch.no_grad():
            tap = small_model.dit(noisy, 1000 * sigma, ray_maps(camera, small_model.config.rays), tap_layers=(layer,))
        sums = sum_scores(probe_rows(*tap.taps[0], targets, 4), targets, 4.0)
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


def test_hooks_are_gone_afterwards(small_model, analysis):
    assert not any(block._forward_hooks for block in small_model.dit.blocks)


def test_the_report_is_complete_and_drawn(analysis, tmp_path):
    record = as_record(analysis)
    assert record["layer_to_tap"] == analysis.layer_to_tap() in (0, 1)
    assert len(record["sigmas"]) == STEPS
    for kind in KINDS:
        assert record["rows"][kind] > 0
        assert 0 <= record["unmoved_pck"][kind] <= 1
        for name, table in record["tables"][kind].items():
            assert (len(table), len(table[0])) == (2, STEPS), name
    text = summary(analysis)
    assert text.count("\n| ") == 2
    assert f"Layer to tap (best harmonic mean, cross-view): {record['layer_to_tap']}." in text
    write_heat_maps(tmp_path / "heat_maps.png", analysis)
    write_curves(tmp_path / "curves.png", analysis)
    for name in ("heat_maps", "curves"):
        assert cv2.imread(str(tmp_path / f"{name}.png")).std() > 10


def test_clips_that_cannot_be_judged_are_refused(small_model, clips, unchecked):
    config = AnalysisConfig(steps=1, queries=5)
    bare = clips[0].__class__(clips[0].video, clips[0].camera, depth=clips[0].depth, key="bare")
    with pytest.raises(ValueError, match="clip bare has no tracks"):
        analyse(small_model, [bare], config)
    still = [clip.frames(slice(0, 1)) for clip in clips]
    with pytest.raises(ValueError, match="2 clips hold no reference_temporal, target_temporal correspondence"):
        analyse(small_model, still, config)
    with pytest.raises(ValueError, match="must be at least 1, got 0"):
        AnalysisConfig(steps=0)
