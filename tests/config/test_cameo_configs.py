"""The configs of still views: the paper's recipe, networks of full size on the meta device, and small ones in time."""

from pathlib import Path

import pytest

from mvtrack.config.run import load_config
from mvtrack.models.flops import view_training_flops
from mvtrack.models.networks import empty_network

CONFIGS = Path(__file__).parents[2] / "configs"
FULL = {"cameo_cat3d": (10, 816.67, 657), "cameo_hunyuan": (32, 1501.79, 1562), "cameo_wan": (18, 1497.49, None)}


@pytest.mark.parametrize("name", FULL)
def test_full_size_configs_are_the_papers_recipe(name):
    layer, millions, tensors = FULL[name]
    run = load_config(CONFIGS / f"{name}.yaml")
    model, loss, optim, train = run.model, run.loss, run.optim, run.train
    assert (model.views.count, model.views.references, model.tap_layer) == (4, (1, 2, 3), layer)
    assert model.token_px(layer) == 16
    assert (train.batch_size, train.zero_stage, train.precision) == (6, 2, "bf16")
    assert (optim.name, optim.lr, optim.weight_decay, optim.warmup_steps) == ("adamw", 2.5e-5, 0.01, 500)
    assert (loss.correspondence, loss.correspondence_options.heads) == (0.02, "mlp")
    assert loss.correspondence_matches.cycle_cells == 1.5
    assert model.ray_drop == 0.1
    network = empty_network(model)
    assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(millions, abs=0.01)
    if tensors:
        names = [n for n in network.state_dict() if not n.startswith("logit_heads.")]
        assert len(names) == tensors
        assert (model.diffusion.zero_terminal_snr, model.diffusion.guidance) == (True, 2.0)
        assert model.sizes == ((512, 512),)


@pytest.mark.parametrize("name", ["cameo_cat3d_tiny", "cameo_hunyuan_tiny"])
def test_small_configs_supervise_the_papers_layer_within_their_work(name):
    """40 GFLOP a step are a second of one core of 2020."""
    run = load_config(CONFIGS / f"{name}.yaml")
    full = load_config(CONFIGS / f"{name.removesuffix('_tiny')}.yaml")
    depth = run.model.tap_layer / run.model.num_layers
    assert depth == full.model.tap_layer / full.model.num_layers
    assert run.model.token_px(run.model.tap_layer) == full.model.token_px(full.model.tap_layer)
    cells = run.model.views.count * (128 // run.model.size_unit_px) ** 2
    assert view_training_flops(run.model, cells) * run.train.batch_size < 40e9
