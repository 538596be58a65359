"""Presets against the lists of names and shapes of the released checkpoints, on the meta device."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mvtrack.config.presets import FUN_CAMERA_1_3B, PRESETS, is_new_parameter, preset, training_preset
from mvtrack.config.run import load_config
from mvtrack.models.dit import WanDiT, empty_dit
from mvtrack.training.optimizer import freeze
from tracking_head import HeadConfig

ROOT = Path(__file__).parents[2]
RELEASED = {
    "wan2.1_t2v_1.3b": (["wan2.1_t2v_1.3b"], 825, 1419.0),
    "recammaster_1.3b": (["recammaster_1.3b"], 945, 1490.4),
    "redirector_1.3b": (["redirector_base_fun_control_camera_1.3b", "redirector_delta"], 1049, 1662.8),
}


def shapes(dit) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in dit.state_dict().items()}


@pytest.mark.parametrize("name", RELEASED)
def test_golden_names_and_shapes(released_shapes, name):
    lists, count, millions = RELEASED[name]
    released, ours = {}, shapes(empty_dit(preset(name)))
    for part in map(released_shapes, lists):
        assert all(released.get(key, shape) == shape for key, shape in part.items())
        released |= part
    new = {key for key in ours if is_new_parameter(key)}
    assert new == {key for key in ours if key.startswith("ray_encoder.") or ".camera_proj." in key}
    assert not any(is_new_parameter(key) for key in released)
    assert {key: shape for key, shape in ours.items() if key not in new} == released
    assert len(released) == count
    assert sum(torch.Size(shape).numel() for shape in released.values()) / 1e6 == pytest.approx(millions, abs=0.06)


def test_golden_redirectors_base_alone(released_shapes):
    with torch.device("meta"):
        ours = shapes(WanDiT(FUN_CAMERA_1_3B))
    assert ours == released_shapes("redirector_base_fun_control_camera_1.3b")


def test_golden_redirectors_delta_is_its_self_attention(released_shapes):
    delta = released_shapes("redirector_delta")
    assert {key for key in shapes(empty_dit(preset("redirector_1.3b"))) if ".self_attn." in key} == delta.keys()


def test_the_14b_model_has_its_published_size():
    with torch.device("meta"):
        dit = WanDiT(preset("wan2.1_t2v_14b").dit)
    assert sum(p.numel() for p in dit.parameters()) / 1e9 == pytest.approx(14.29, abs=0.005)
    assert dit.blocks[0].self_attn.q.weight.shape == (5120, 5120)


def test_the_cameras_convention_travels_with_the_preset(tmp_path):
    for name in PRESETS:
        assert training_preset(name).native_camera.origin == "reference"
    assert preset("recammaster_1.3b").native_camera.origin == "own"
    assert preset("recammaster_1.3b").tap_layer == 18
    assert preset("recammaster_1.3b").dit.rope_frames == "concat"
    assert preset("redirector_1.3b").dit.rope_frames == "shared"
    from mvtrack.config.model import ModelConfig
    from mvtrack.config.tree import from_tree, to_tree

    for config in PRESETS.values():
        assert from_tree(ModelConfig, to_tree(config), "preset") == config


@pytest.mark.parametrize(
    ("file", "name"),
    [("recammaster_1.3b", "recammaster_1.3b"), ("redirector_1.3b", "redirector_1.3b"), ("wan_14b", "wan2.1_t2v_14b")],
)
def test_the_training_configs_are_the_presets_and_the_papers_recipe(file, name):
    run, released = load_config(ROOT / f"configs/{file}.yaml"), training_preset(name)
    rays = replace(released.rays, scale="path_extent")  # videos come without depth
    assert run.model == replace(released, tracking=HeadConfig(), rays=rays)
    assert (run.train.batch_size, run.train.steps, run.train.precision, run.optim.lr) == (16, 13000, "bf16", 1e-4)
    assert (run.loss.correspondence, run.loss.tracking, run.optim.name) == (0.01, 0.01, "adamw")
    dit = empty_dit(run.model)
    freeze(dit, run.optim.trainable)
    trained = {n.split(".", 2)[-1].split(".")[0] for n, p in dit.blocks.named_parameters("blocks") if p.requires_grad}
    assert {"self_attn", "camera_proj"} <= trained <= {"self_attn", "camera_proj", "cam_encoder", "projector"}
    assert not any(p.requires_grad for p in dit.head.parameters())


def test_an_unknown_preset_is_refused():
    with pytest.raises(ValueError, match=r"did you mean 'recammaster_1\.3b'\?.*Known: wan2\.1_t2v_1\.3b"):
        preset("recamaster_1.3b")
