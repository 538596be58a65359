from dataclasses import replace

import pytest
import torch

from mvtrack.config.losses import PointMatchConfig
from mvtrack.config.views import ViewsConfig
from mvtrack.correspondence.probe_scores import KINDS
from mvtrack.geometry.camera import Camera
from mvtrack.inference.sampler import SamplerOptions, generate
from mvtrack.inference.views.generate import generate_views
from mvtrack.models.conditioning import Window
from mvtrack.models.reshoot_model import ReshootModel, build_model
from mvtrack.training.static_validation import alignment, score_views, still_cases

SIZE, COUNT = (24, 32), 3


def model_of(small_model, encoding: str, drop: float = 0.1) -> ReshootModel:
    """An untrained model for views, with the codec of `small_model`."""
    views, config = ViewsConfig(COUNT, (1, 2), encoding), small_model.config
    config = replace(
        config,
        views=views,
        num_frames=views.num_frames,
        dit=replace(config.dit, rope_frames="by_view"),
        rays=replace(config.rays, drop=drop),
    )
    made = build_model(config, seed=4)
    torch.nn.init.normal_(made.dit.head.head.weight, std=0.1)  # its first values hardly move a picture
    return ReshootModel(config, made.dit.eval(), small_model.codec)


@pytest.fixture(scope="module", params=["images", "path"])
def model(request, small_model):
    return model_of(small_model, request.param)


@pytest.fixture(scope="module")
def cases(model):
    return still_cases(model.config.views, SIZE, 2, first_seed=3)


def test_the_missing_views_come_back(model, cases):
    for case, missing in zip(cases, (2, 1) if model.config.views.encoding == "images" else (8, 4), strict=True):
        assert len(case.images) - case.num_given == missing
        given, depth = case.images[: case.num_given], case.clip.scene_depth
        runs = [generate_views(model, given, case.camera, SamplerOptions(2, seed=s), depth) for s in (1, 1, 2)]
        assert runs[0].shape == (missing, 3, *SIZE)
        assert torch.equal(runs[0], runs[1])
        assert not torch.equal(runs[0], runs[2])
        assert runs[0].abs().max() <= 1


def test_given_views_and_cameras_matter(model, cases):
    case = cases[0]
    given, sample = case.images[: case.num_given], SamplerOptions(2)
    plain = generate_views(model, given, case.camera, sample, scene_depth=4.0)
    inverted = generate_views(model, -given, case.camera, sample, scene_depth=4.0)
    assert (plain - inverted).abs().max() > 1e-2
    elsewhere = generate_views(model, given, case.other_camera, sample, scene_depth=4.0)
    assert (plain - elsewhere).abs().max() > 1e-3


def test_guidance_goes_away_from_the_views_without_cameras(model, cases):
    """One step from pure noise predicts x0 directly, so guided = unguided + scale (guided by 1 - unguided) exactly."""
    case = cases[1]
    given = case.images[: case.num_given]

    def one_step(scale: float) -> torch.Tensor:
        sample = SamplerOptions(1, camera_guidance=scale)
        return generate_views(model, 0.2 * given, case.camera, sample, scene_depth=4.0)

    none, plain, strong = one_step(0.0), one_step(1.0), one_step(3.0)
    assert (plain - none).abs().max() > 3e-3
    inside = (strong.abs() < 1) & (plain.abs() < 1) & (none.abs() < 1)
    torch.testing.assert_close(strong[inside], (none + 3 * (plain - none))[inside], atol=3e-2, rtol=0)


def test_a_model_that_always_saw_cameras_cannot_be_guided(small_model, cases):
    model = model_of(small_model, "images", drop=0.0)
    case = still_cases(model.config.views, SIZE, 1, first_seed=3)[0]
    with pytest.raises(ValueError, match="trained with cameras left out"):
        generate_views(model, case.images[:1], case.camera, SamplerOptions(1, camera_guidance=2.0), scene_depth=4.0)
    with pytest.raises(ValueError, match="cannot be combined"):
        SamplerOptions(1, guidance=2.0, camera_guidance=2.0)


def test_each_kind_of_model_names_the_other_function(model, cases, small_model):
    case = cases[0]
    with pytest.raises(ValueError, match="cannot re-shoot videos: use generate_views"):
        generate(model, case.images[:1], Window(Camera.stack([case.camera[:1]] * 2), 4.0))
    with pytest.raises(ValueError, match="no views of still scenes: use generate"):
        generate_views(small_model, case.images[:1], case.camera, scene_depth=4.0)


def test_other_numbers_of_views_are_refused(model, cases):
    case = cases[0]
    with pytest.raises(ValueError, match=r"needs \d cameras and fewer references, got \(2,\) and 1"):
        generate_views(model, case.images[:1], case.camera[:2], scene_depth=4.0)
    with pytest.raises(ValueError, match=r"and fewer references, got"):
        generate_views(model, case.images, case.camera, scene_depth=4.0)
    if model.config.views.encoding == "path":
        with pytest.raises(ValueError, match=r"must have 4n \+ 1 frames, got 3"):
            generate_views(model, case.images[:3], case.camera, scene_depth=4.0)


def test_wrong_cameras_are_those_of_other_views(cases):
    for case in cases:
        true, wrong, n = case.camera.c2w, case.other_camera.c2w, case.num_given
        assert torch.equal(true[:n], wrong[:n])
        moved = (true[n:] - wrong[n:]).flatten(1).abs().amax(1)
        assert (moved > 1e-4).sum() >= len(moved) - 1  # the middle frame of a reversed path stays
        assert all(any(torch.equal(w, t) for t in true) for w in wrong)


def test_scores_and_alignment_of_a_case(model, cases):
    score = score_views(model, cases[0], SamplerOptions(1))
    assert score.made.shape[1:] == (3, *SIZE)
    assert 0 < score.psnr_db < 60
    sums = alignment(model, cases[0], 1, PointMatchConfig())
    figures = sums.over_all_kinds()
    assert 0 <= figures["pck"] <= 1
    assert 2 < figures["alignment_error"] < 12
    kinds = sums.means()
    crossing = kinds.get(KINDS[2], {}).get("rows", 0)
    assert (crossing > 0) == (model.config.views.encoding == "images")
    rows = sum(kind["rows"] for kind in kinds.values())
    mean = sum(kind["rows"] * kind["alignment_error"] for kind in kinds.values()) / rows
    assert figures["alignment_error"] == pytest.approx(mean)
