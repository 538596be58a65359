"""The analysis of attention on datasets' folders with tracks, synthesised in their layouts."""

import json
from dataclasses import replace

import pytest
import torch

from mvtrack.config.datasets import DatasetOptions
from mvtrack.evaluation.attention.analysis import AnalysisConfig, analyse
from mvtrack.evaluation.attention.dataset_clips import draw_clips
from mvtrack.models.reshoot_model import ReshootModel, save_model
from tests.data.public.synthesis import reprojection_px, synthesise
from tests.data.public.test_kubric import write_mv_kubric
from tests.data.public.test_multicamvideo import truth_of, write_scene

SEEDS = (3, 4, 6)


@pytest.fixture(scope="module")
def multicam(tmp_path_factory):
    root = tmp_path_factory.mktemp("MultiCamVideo") / "train"
    for seed in SEEDS:
        write_scene(root / f"f24_aperture5/scene{seed}", truth_of(seed))
    return root


def test_two_views_are_drawn_and_fitted(multicam, small_model):
    clips = draw_clips(multicam, DatasetOptions(), small_model.config, 40)
    assert len(clips) == 3
    assert [clip.key for clip in clips] == [f"f24_aperture5_scene{seed}" for seed in SEEDS]
    drawn = []
    for seed, clip in zip(SEEDS, clips, strict=True):
        assert clip.video.shape == (2, 5, 3, 24, 32)
        truth = truth_of(seed)
        # the reader turns cameras into our axes: world points are the truth's
        assert reprojection_px([clip.camera[0], clip.camera[1]], truth.world, clip.tracks) < 0.01
        drawn.append(tuple(clip.camera.c2w[:, 0, :3, 3].flatten().tolist()))
        again = draw_clips(multicam, DatasetOptions(), small_model.config, 40)[SEEDS.index(seed)]
        assert torch.equal(again.video, clip.video)
    other = draw_clips(multicam, DatasetOptions(), small_model.config, 1, 1, seed=5)
    assert (len(other), other[0].num_frames, len(other[:1])) == (1, 1, 1)
    assert {tuple(c.camera.c2w[:, 0, :3, 3].flatten().tolist()) for c in clips} == set(drawn)


def test_what_is_read_one_by_one_scores_as_in_memory(multicam, small_model):
    """Without depth, which MultiCamVideo lacks: only a model whose scale is its cameras' takes that."""
    clips = draw_clips(multicam, DatasetOptions(), small_model.config, 40)
    with pytest.raises(ValueError, match="median_depth needs scene_depth"):
        analyse(small_model, clips, AnalysisConfig(steps=1, queries=5))
    rays = replace(small_model.config.rays, scale="path_extent")
    model = ReshootModel(replace(small_model.config, rays=rays), small_model.dit, small_model.codec)
    first, second = (analyse(model, c, AnalysisConfig(steps=2, queries=17)) for c in (clips, list(clips)))
    assert first.space is None
    for score in ("pck", "attention_score", "confidence_score"):
        assert torch.equal(first.table("cross_view", score), second.table("cross_view", score))


def test_the_command_reads_kubric(small_model, tmp_path, run, unchecked):
    for n in (1, 2):
        write_mv_kubric(tmp_path / f"kubric-multiview/train/{n}", synthesise(n, views=3, frames=6, size=(38, 58)))
    save_model(small_model, tmp_path / "model")
    given = ["--model", tmp_path / "model", "--clips", tmp_path, "--steps", 2, "--queries", 17, "--overlays", 1]
    code, shown, errors = run("correspondence.py", *given, "--out", tmp_path / "out")
    assert code == 0, errors
    assert "2 scenes, 5 frames of 24x32" in errors
    record = json.loads((tmp_path / "out/attention.json").read_text())
    assert (record["clips"], record["scenes"]) == (2, [f"kubric-multiview_train_{n}" for n in (1, 2)])
    [last] = json.loads(shown.splitlines()[-1])["models"].values()
    assert last["layer_to_tap"] == record["layer_to_tap"]
    assert last["pck"] == pytest.approx(sum(record["tables"]["cross_view"]["pck"][last["layer_to_tap"]]) / 2, abs=2e-5)
    code, _, errors = run("correspondence.py", *given, "--frames", 9)
    assert code == 2
    assert "has 6 frames, a clip needs 9" in errors


def test_folders_that_cannot_be_analysed_are_refused(small_model, still_model, tmp_path, run, unchecked):
    write_scene(tmp_path / "data/f24_aperture5/scene1", truth_of(3), with_tracks=False)
    save_model(small_model, tmp_path / "model")
    code, _, errors = run("correspondence.py", "--model", tmp_path / "model", "--clips", tmp_path / "data")
    assert code == 2
    assert "scene1 has no tracks to compare with: make them with `mvtrack pseudo-tracks`" in errors
    code, _, errors = run("correspondence.py", "--model", tmp_path / "model", "--scenes", 3)
    assert (code, "--scenes has no effect, it is for --clips ROOT" in errors) == (2, True)
    save_model(still_model("images"), tmp_path / "still")
    code, _, errors = run("correspondence.py", "--model", tmp_path / "still", "--clips", tmp_path / "data")
    assert (code, "analyse it with eval/navi.py" in errors) == (2, True)
