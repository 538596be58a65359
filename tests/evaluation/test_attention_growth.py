import json
from dataclasses import replace
from pathlib import Path

import cv2
import pytest
import torch

from mvtrack.config.run import load_config
from mvtrack.config.views import ViewsConfig
from mvtrack.data.synthetic.test_scenes import case_specs, render_case
from mvtrack.evaluation.attention.analysis import AnalysisConfig, analyse
from mvtrack.evaluation.attention.growth import (
    Stage,
    check_comparable,
    growth_record,
    growth_table,
    over_models,
    write_growth,
)
from mvtrack.metrics.correspondence import pearson
from mvtrack.models.reshoot_model import build_model

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.fixture(scope="module")
def stages(small_model):
    clips = [render_case(spec, num_points=23).clip for spec in case_specs(3, 5, (24, 32), 5)]
    found = []
    for seed in range(3):
        model = replace(build_model(small_model.config, seed), codec=small_model.codec)
        quality = {"psnr_db": [20.0 + seed + i * i for i in range(3)], "ssim": [0.5 - seed * seed / 10] * 3}
        analysis = analyse(model, clips, AnalysisConfig(steps=1, queries=29))
        found.append(Stage(f"m{seed}", 100 * (3 - seed), analysis, quality))
    return found


def test_pictures_are_correlated_over_models(stages):
    errors = torch.tensor([list(s.errors) for s in stages])
    found = over_models(stages)
    for layer in range(2):
        r, p = pearson(-errors[:, layer], torch.tensor([20.0, 21.0, 22.0]))
        assert (found["psnr_db"][layer].r, found["psnr_db"][layer].p) == (pytest.approx(r), pytest.approx(p))
    assert over_models(stages[:2]) is None
    assert over_models([*stages[:2], replace(stages[2], quality=None)]) is None


def test_record_and_table_name_every_model(stages):
    record = json.loads(json.dumps(growth_record(stages), allow_nan=False))
    assert [m["name"] for m in record["models"]] == ["m0", "m1", "m2"]
    for stage, model in zip(stages, record["models"], strict=True):
        expected = stage.analysis.table("cross_view", "alignment_error").mean(1).tolist()
        assert model["cross_view_alignment_error"] == pytest.approx(expected, abs=1e-5)
        assert model["quality"]["psnr_db"] == pytest.approx(sum(stage.quality["psnr_db"]) / 3)
    assert len(record["correlation_over_models"]["ssim"]) == 2
    table = growth_table([replace(stages[0], step=None), *stages[1:]])
    assert table.splitlines()[2].startswith("| m0 |  | ")
    assert table.splitlines()[3].startswith("| m1 | 200 | ")


def test_curves_are_drawn_with_and_without_steps_and_pictures(stages, tmp_path):
    write_growth(tmp_path / "all.png", stages)
    write_growth(tmp_path / "bare.png", [replace(s, step=None, quality=None) for s in stages[:2]])
    both, bare = (cv2.imread(str(tmp_path / f"{name}.png")) for name in ("all", "bare"))
    assert both.shape[1] == pytest.approx(1.5 * bare.shape[1], abs=2)
    assert min(both.std(), bare.std()) > 10


def test_models_that_cannot_be_compared_are_named(small_model):
    config = small_model.config
    check_comparable({"a": config, "b": replace(config, tap_layer=0)})
    deeper = replace(config, dit=replace(config.dit, num_layers=5))
    with pytest.raises(ValueError, match="a has 2 layers, c has 5: models that are compared layer by layer"):
        check_comparable({"a": config, "b": config, "c": deeper})
    unet, hunyuan = (load_config(CONFIGS / f"cameo_{name}_tiny.yaml").model for name in ("cat3d", "hunyuan"))
    check_comparable({"a": unet, "b": unet})
    with pytest.raises(ValueError, match="a has 16 layers, b has 10"):
        check_comparable({"a": unet, "b": hunyuan})
    still = replace(config, views=ViewsConfig(), num_frames=1, dit=replace(config.dit, rope_frames="by_view"))
    for order in (("a", "s"), ("s", "a")):
        with pytest.raises(ValueError, match="s makes views of still scenes, a re-shoots videos: analyse them apart"):
            check_comparable({name: {"a": config, "s": still}[name] for name in order})
