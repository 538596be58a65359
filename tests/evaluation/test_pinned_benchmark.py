import hashlib
import json

import numpy as np
import pytest
import torch

from mvtrack.data.synthetic.test_scenes import CaseSpec, goes_underground
from mvtrack.evaluation import pinned_benchmark as yardstick
from mvtrack.evaluation.manifest import VERSIONS, Manifest, check_footage, footage_clip, load_manifest, make_manifest
from mvtrack.evaluation.pinned_report import steps_table, table, write_sheets
from mvtrack.evaluation.tables import mean_interval
from mvtrack.geometry.camera import relative_pose
from mvtrack.inference.sampler import SamplerOptions
from mvtrack.video.writer import write_video

SIZE, T = (24, 32), 5


@pytest.fixture(scope="module")
def footage(tmp_path_factory):
    """A wide textured video, and a manifest that pins cuts of it."""
    folder = tmp_path_factory.mktemp("footage")
    y, x = torch.meshgrid(torch.linspace(0, 1, 360), torch.linspace(0, 1, 640), indexing="ij")
    waves = [torch.sin(40 * x + 15 * y), torch.cos(30 * y - 11 * x), torch.sin(50 * x * y)]
    write_video(folder / "wide.mp4", torch.stack(waves).expand(24, -1, -1, -1), fps=10.0)
    return folder


@pytest.fixture(scope="module")
def manifest(footage) -> Manifest:
    from mvtrack.config.tree import from_tree

    text = make_manifest([footage / "wide.mp4"], clips_per_video=6)
    whole = from_tree(Manifest, json.loads(text), "made")
    rendered = tuple(CaseSpec(s.seed, s.preset, s.angle_deg, s.start, SIZE, T) for s in whole.rendered[:3])
    return Manifest(whole.version, rendered, whole.footage)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_shipped_manifests_are_complete(version):
    manifest = load_manifest(version)
    assert manifest.version == version
    assert len(manifest.rendered) == 64
    assert len({spec.seed for spec in manifest.rendered}) == 64
    assert len(manifest.footage) == 48
    assert {spec.component for spec in manifest.footage} == {"pan", "tilt", "zoom"}
    assert all(spec.num_frames == 17 for spec in (*manifest.rendered, *manifest.footage))


def test_the_newest_manifest_differs_in_the_camera_below_the_ground():
    one, two = (load_manifest(version) for version in VERSIONS)
    changed = [pair for pair in zip(one.rendered, two.rendered, strict=True) if pair[0] != pair[1]]
    assert [goes_underground(spec) for pair in changed for spec in pair] == [True, False]
    assert not any(goes_underground(spec) for spec in two.rendered)
    assert one.footage == two.footage


def test_making_a_manifest_is_reproducible(footage):
    videos = [footage / "wide.mp4"]
    assert make_manifest(videos, 4) == make_manifest(videos, 4)


def test_each_cut_moves_mostly_in_its_component(manifest, footage):
    for spec in manifest.footage:
        clip = footage_clip(spec, footage)
        assert clip.video.shape == (2, 17, 3, *spec.size)
        turn = yardstick._true_turn(clip.camera)
        view_deg = 2 * np.degrees(np.arctan(0.5 * spec.size[1] / float(clip.camera.K[0, 0, 0, 0])))
        strength = {"pan": turn["pan"] / view_deg, "tilt": turn["tilt"] / view_deg, "zoom": turn["zoom"]}
        assert max(strength, key=lambda k: abs(strength[k])) == spec.component


def test_another_file_is_refused(manifest, footage, tmp_path):
    check_footage(manifest, footage)
    with pytest.raises(ValueError, match="wide.mp4 is missing"):
        check_footage(manifest, tmp_path)
    (tmp_path / "wide.mp4").write_bytes(b"other")
    with pytest.raises(ValueError, match="is another file: sha256 " + hashlib.sha256(b"other").hexdigest()[:12]):
        check_footage(manifest, tmp_path)


def test_an_oracle_meets_every_target(manifest, footage, monkeypatch, small_model):
    """`generate` replaced by one that looks the truth up (and is a little too bright): all figures must be met."""
    truth = {}

    def oracle(model, reference, window, sample):
        return truth.get(window.camera.c2w.sum().item(), -reference) * 0.98 + 0.01

    score = yardstick._score

    def remember(model, clip, mirrored_camera, sample):
        truth[clip.camera.c2w.sum().item()] = clip.video[1]
        return score(model, clip, mirrored_camera, sample)

    monkeypatch.setattr(yardstick, "generate", oracle)
    monkeypatch.setattr(yardstick, "_score", remember)
    rendered = yardstick.summarise(yardstick.score_rendered(small_model, manifest, SamplerOptions(1)))
    cases = yardstick.score_footage(small_model, manifest, footage, SamplerOptions(1))
    turns = yardstick.summarise_turns(cases, [spec.component for spec in manifest.footage])
    assert turns["right_sign_share"] == 1
    for slope in turns["slope"].values():
        assert slope == pytest.approx(1, abs=0.05)
    targets = yardstick.check_targets(rendered, yardstick.summarise(cases), turns)
    assert all(row["met"] for row in targets.values()), targets
    assert len(targets) == 10


def test_scores_of_a_small_model(manifest, small_model, tmp_path):
    cases = yardstick.score_rendered(small_model, manifest, SamplerOptions(2))
    summary = yardstick.summarise(cases)
    assert summary["depth_warp_covisible_db"]["mean"] > summary["copy_covisible_db"]["mean"] + 3
    assert summary["best_blur_db"]["mean"] >= summary["copy_db"]["mean"] - 1
    assert summary["gap_db"]["mean"] == pytest.approx(summary["model_db"]["mean"] - summary["mirrored_db"]["mean"])
    targets = yardstick.check_targets(summary, None, None)
    assert not targets["rendered: over the best blurred copy, co-visible dB"]["met"]  # it was never trained
    text = table({"rendered": summary}, targets, "skipped")
    assert "| **model, true path** |" in text
    assert "**no**" in text
    sheets = write_sheets(tmp_path, cases, [])
    assert [p.name for p in sheets] == ["rendered_0.jpg"]
    assert sheets[0].stat().st_size > 5000


def test_scores_by_sampling_steps_share_their_baselines(manifest, small_model):
    scores = {n: yardstick.score(small_model, manifest, None, SamplerOptions(n)) for n in (1, 3)}
    one, three = (s.summary["rendered"] for s in scores.values())
    assert one["copy_db"] == three["copy_db"]
    assert one["model_db"] != three["model_db"]
    lines = steps_table({n: s.summary for n, s in scores.items()}).splitlines()
    assert lines[0].startswith("| sampling steps | rendered, co-visible dB |")
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| 1", "| 3"]


def test_the_mirrored_turn_is_the_inverse(manifest, footage):
    clip = footage_clip(manifest.footage[0], footage)
    mirrored = yardstick._mirrored_turn(clip.camera)
    there = relative_pose(clip.camera.c2w[0], clip.camera.c2w[1])
    back = relative_pose(mirrored.c2w[0], mirrored.c2w[1])
    torch.testing.assert_close(there @ back, torch.eye(4).expand(17, 4, 4), atol=1e-6, rtol=0)
    ratio = clip.camera.K[1, :, 0, 0] / clip.camera.K[0, :, 0, 0]
    torch.testing.assert_close(mirrored.K[1, :, 0, 0] / mirrored.K[0, :, 0, 0], 1 / ratio)


def test_intervals_hold_the_mean():
    figure = mean_interval([1.0, 2.0, 3.0, 6.0])
    assert figure["low"] < figure["mean"] == 3.0 < figure["high"]
    assert mean_interval([2.0, 2.0])["low"] == 2.0
    with pytest.raises(ValueError, match="cannot average 2 values of which 1 are NaN"):
        mean_interval([1.0, float("nan")])
