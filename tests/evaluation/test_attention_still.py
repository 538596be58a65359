"""The analysis of models that make views of still scenes (CAMEO): both encodings, and the script as users run it."""

import json
from dataclasses import replace

import cv2
import pytest
import torch

from mvtrack.config.losses import PointMatchConfig
from mvtrack.correspondence.nearest_neighbours import PointMaps, points_from_depth, targets_from_points, token_points
from mvtrack.evaluation.attention.analysis import AnalysisConfig, analyse
from mvtrack.evaluation.attention.overlays import example_sheet
from mvtrack.evaluation.attention.quality import measure_harm, picture_quality
from mvtrack.evaluation.attention.scenes import scene_of
from mvtrack.geometry.camera import project
from mvtrack.inference.forward_noised import noised_videos, probe_layer
from mvtrack.inference.sampler import SamplerOptions
from mvtrack.inference.views.generate import generate_views
from mvtrack.metrics.image import psnr
from mvtrack.models.conditioning import Window
from mvtrack.models.diffusion.flow import sampling_sigmas
from mvtrack.models.perturb import perturbed_attention
from mvtrack.models.reshoot_model import ReshootModel, build_model, save_model
from mvtrack.training.static_validation import still_cases

COUNT, STEPS, EVERY = 3, 2, 10**6


@pytest.fixture(scope="module", params=["images", "path"])
def model(request, still_model):
    made = still_model(request.param, COUNT, seed=4)
    torch.nn.init.normal_(made.dit.head.head.weight, std=0.1)
    return made


@pytest.fixture(scope="module")
def cases(model):
    return still_cases(model.config.views, (24, 32), 2, first_seed=3)


def test_every_layer_and_level_agrees_with_the_probe_of_one_layer(model, cases):
    """With every token as a query; of a path all rows count as between views, though it is one view to the model."""
    analysis = analyse(model, cases, AnalysisConfig(STEPS, EVERY, seed=5))
    assert analysis.kinds == ("cross_view",)
    sigmas = sampling_sigmas(STEPS, model.config.flow.shift)[:-1]
    for layer in range(2):
        for number, case in enumerate(cases):
            points = points_from_depth(case.clip.depth[None], case.clip.camera[None])
            targets = targets_from_points(PointMaps(points), (6, 8), PointMatchConfig())
            window = Window(case.clip.camera, case.clip.scene_depth)
            videos = noised_videos(model, case.clip.video, window, 5 + number, case.reference)
            found = probe_layer(model, videos, targets, layer, sigmas)
            for sums, expected in zip(analysis.by_clip[number][layer], found, strict=True):
                rows = expected.rows.sum()
                assert sums.rows.tolist() == [0, 0, rows]
                assert rows > 50
                own = expected.nll.sum(1) / rows
                assert sums.alignment_error_per_head("cross_view") == pytest.approx(own.tolist(), rel=1e-5)
                assert sums.means()["cross_view"]["pck"] == pytest.approx(expected.over_all_kinds()["pck"])
    assert analysis.alignment_error_per_head().shape == (2, STEPS, 2)


def test_labels_lie_where_the_cameras_say(cases):
    """Most true cells are those that the queries' points in 3D project to, or their neighbours."""
    scene = scene_of(cases[0], 4, EVERY, 0)
    points = points_from_depth(scene.depth[None], scene.camera[None])
    place, _ = token_points(points, points.isfinite().all(3), (6, 8))
    targets = scene.targets
    own, seen = targets.own_frame[0], 0
    for v in range(COUNT):
        asked = (targets.weight[0, :, v, 0] > 0) & (own != v)
        start = place[0, :, 0].flatten(0, 1)[targets.query[0, asked]]
        xy, _ = project(start, scene.camera[v, 0])
        apart = (xy - targets.label_xy[0, asked, v, 0]).abs().amax(-1)
        assert apart.median() < 3  # pixels; a cell has 4
        assert (apart <= 6).float().mean() > 0.8  # the rest: points that leave the picture, within the gate
        seen += int(asked.sum())
    assert seen > 50
    assert scene.reference.flatten().tolist() == [True, False, False]


def test_pictures_are_the_missing_views(model, cases):
    sample = SamplerOptions(1, seed=2)
    found = picture_quality(model, cases, sample)
    harm = measure_harm(model, cases[:1], sample)
    case, depth = cases[0], cases[0].clip.scene_depth

    def score() -> float:
        made = generate_views(model, case.images[: case.num_given], case.camera, sample, depth)
        return psnr(made, case.images[case.num_given :])

    assert found["psnr_db"][0] == harm.undisturbed_db[0] == pytest.approx(score())
    with perturbed_attention(model.dit, 1, "own_view", COUNT):
        assert harm.perturbed_db["own_view"][1][0] == pytest.approx(score())
    assert harm.drop_db("own_view")[1][0] != 0


def test_an_example_shows_every_view(model, cases):
    sheet = example_sheet(model, cases[1], 1, 0.5)
    assert sheet.shape[1] == COUNT * 256 + (COUNT - 1) * 6
    assert ((sheet == (255, 40, 200)).all(-1)).any()  # the query's ring
    assert ((sheet == (60, 255, 60)).all(-1)).any()  # the truth's


def test_other_subjects_than_the_models_are_refused(model, cases, small_model):
    config = AnalysisConfig(1, 5)
    with pytest.raises(ValueError, match="makes views of still scenes, and clips were given"):
        analyse(model, [cases[0].clip], config)
    with pytest.raises(ValueError, match="re-shoots videos, and still scenes were given"):
        analyse(small_model, cases, config)
    with pytest.raises(ValueError, match="re-shoots videos, and still scenes were given"):
        picture_quality(small_model, cases, SamplerOptions(1))


@pytest.mark.slow
def test_the_script_compares_still_models(model, tmp_path, run):
    for name, seed in (("one", 1), ("two", 2)):
        save_model(ReshootModel(model.config, build_model(model.config, seed).dit, model.codec), tmp_path / name)
    out, models = tmp_path / "o", [tmp_path / name for name in ("one", "two")]
    options = ["--clips", 3, "--steps", 2, "--queries", 40, "--pictures", "--perturb", 1, "--sample-steps", 1]
    code, shown, errors = run("correspondence.py", "--model", *models, "--out", out, *options, "--overlays", 1)
    assert code == 0
    assert "| two |" in shown
    assert "LPIPS is left out: it needs pictures of 32 pixels and more, the model makes (24, 32)" in errors
    for name in ("one", "two"):
        record = json.loads((out / name / "attention.json").read_text())
        assert list(record["tables"]) == list(record["rows"]) == ["cross_view"]
        assert record["correlation"]["psnr_db"][0]["count"] == 3
        assert record["precision_in_space"]["rows"]
        for chart in ("heat_maps", "heads", "curves", "space", "correlation", "perturbation", "overlay_0"):
            assert cv2.imread(str(out / name / f"{chart}.png")).std() > 10, chart
    grown = json.loads((out / "growth.json").read_text())["models"]
    assert len(grown[0]["cross_view_alignment_error"]) == 2
    assert grown[0] != grown[1]
    assert (out / "growth.png").is_file()


def test_the_script_refuses_other_depths_before_it_works(model, tmp_path, run):
    config = replace(model.config, dit=replace(model.config.dit, num_layers=3))
    save_model(model, tmp_path / "one")
    save_model(ReshootModel(config, build_model(config).dit, model.codec), tmp_path / "two")
    models = [tmp_path / name for name in ("one", "two")]
    code, _, errors = run("correspondence.py", "--model", *models, "--out", tmp_path / "o")
    assert code == 2
    assert "one has 2 layers, two has 3" in errors
    assert not (tmp_path / "o").exists()
