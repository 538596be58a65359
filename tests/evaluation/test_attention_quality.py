import math

import pytest
import torch

from mvtrack.data.synthetic.test_scenes import case_specs, render_case
from mvtrack.evaluation.attention.quality import correlate, measure_harm, picture_quality
from mvtrack.inference.sampler import SamplerOptions, generate
from mvtrack.metrics.correspondence import pearson
from mvtrack.metrics.image import psnr, ssim
from mvtrack.metrics.perceptual import Lpips
from mvtrack.models.conditioning import Window
from mvtrack.models.perturb import perturbed_attention

SAMPLE = SamplerOptions(steps=2, seed=5)


@pytest.fixture(scope="module")
def clips():
    return [render_case(spec).clip for spec in case_specs(2, 11, (24, 32), 5)]


def test_pictures_are_scored_as_by_hand(small_model, clips):
    found = picture_quality(small_model, clips, SAMPLE)
    for i, clip in enumerate(clips):
        made = generate(
            small_model, clip.video[0], Window(clip.camera, clip.scene_depth), SamplerOptions(2, seed=5 + i)
        )
        assert found["psnr_db"][i] == pytest.approx(psnr(made, clip.video[1]))
        assert found["ssim"][i] == pytest.approx(ssim(made, clip.video[1]))


def test_lpips_is_measured_where_its_network_is_given(small_model, generator):
    clips = [render_case(spec).clip for spec in case_specs(2, 11, (32, 48), 5)]
    network = Lpips("alex")
    found = picture_quality(small_model, clips, SAMPLE, lpips=network)
    assert list(found) == ["psnr_db", "ssim", "lpips"]
    made = generate(
        small_model, clips[1].video[0], Window(clips[1].camera, clips[1].scene_depth), SamplerOptions(2, seed=6)
    )
    each = [float(network(a[None], b[None])) for a, b in zip(made, clips[1].video[1], strict=True)]
    assert found["lpips"][1] == pytest.approx(sum(each) / len(each), rel=1e-4)


def test_less_lpips_is_a_better_picture():
    errors = torch.tensor([[1.0], [2.0], [4.0], [3.0]])
    found = correlate(errors, {"psnr_db": [1.0, 2.0, 4.0, 3.0], "lpips": [1.0, 2.0, 4.0, 3.0]})
    assert found["psnr_db"][0].r == pytest.approx(-1)
    assert found["lpips"][0].r == pytest.approx(1)


def test_correlation_is_positive_where_less_error_means_better_pictures(generator):
    errors = torch.rand(7, 3, generator=generator, dtype=torch.float64)
    errors[2, :] = torch.nan
    quality = {"a": (20 - 5 * errors[:, 0]).nan_to_num(0).tolist(), "b": errors[:, 1].nan_to_num(9).tolist()}
    found = correlate(errors, quality)
    assert [c.count for c in found["a"]] == [6, 6, 6]
    assert found["a"][0].r == pytest.approx(1)
    assert found["b"][1].r == pytest.approx(-1)
    kept = [0, 1, 3, 4, 5, 6]
    r, p = pearson(-errors[kept, 2], torch.tensor(quality["a"], dtype=torch.float64)[kept])
    assert (found["a"][2].r, found["a"][2].p) == (pytest.approx(r), pytest.approx(p))


def test_a_layer_that_does_not_vary_has_no_correlation():
    found = correlate(torch.ones(5, 1), {"a": [1.0, 2, 3, 4, 5]})
    assert math.isnan(found["a"][0].r)


def test_too_few_samples_are_refused():
    errors = torch.tensor([[1.0], [2.0], [torch.nan]])
    with pytest.raises(ValueError, match="at least three samples, got 2 of 3 usable"):
        correlate(errors, {"a": [1.0, 2, 3]})


def test_harm_is_the_difference_to_the_same_draw(small_model, clips):
    runs = []
    harm = measure_harm(small_model, clips, SAMPLE, lambda: runs.append(1))
    assert len(runs) == 2 * (1 + 2 * 2)
    with perturbed_attention(small_model.dit, 1, "own_view"):
        made = generate(
            small_model, clips[1].video[0], Window(clips[1].camera, clips[1].scene_depth), SamplerOptions(2, seed=6)
        )
    whole = picture_quality(small_model, clips, SAMPLE)["psnr_db"]
    assert harm.undisturbed_db == pytest.approx(whole)
    assert harm.drop_db("own_view")[1][1] == pytest.approx(whole[1] - psnr(made, clips[1].video[1]))
    assert len({round(x, 6) for kind in ("identity", "own_view") for row in harm.drop_db(kind) for x in row}) == 8


def test_clips_of_one_view_cannot_be_generated(small_model, clips):
    with pytest.raises(ValueError, match="has 1 views: a reference and one target"):
        picture_quality(small_model, [clips[0].views([0])], SAMPLE)
