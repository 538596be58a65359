from pathlib import Path

import pytest
import yaml

from mvtrack.config.model import ModelConfig
from mvtrack.config.run import load_config, load_training_config, training_from_tree
from mvtrack.config.tree import to_tree

CONFIGS = sorted(
    path for path in (Path(__file__).parents[2] / "configs").rglob("*.yaml") if "experiments" not in path.parts
)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.name)
def test_every_shipped_config_is_valid_and_survives_a_round_trip(path):
    config = load_training_config(path)
    assert training_from_tree(yaml.safe_load(yaml.safe_dump(to_tree(config))), "again") == config


@pytest.fixture
def file(tmp_path, small_run) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(small_run))
    return path


def test_overrides_reach_nested_keys(file):
    config = load_config(file, ["optim.lr=1e-3", "data.mirror=false", "model.dit.rope_pairs=[2, 2, 2]"])
    assert config.optim.lr == 1e-3
    assert config.data.mirror is False
    assert config.model.dit.rope_pairs == (2, 2, 2)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optim.lrr=1", "optim: unknown key 'lrr'; did you mean 'lr'"),
        ("optimm.lr=1", "unknown key 'optimm'; did you mean 'optim'"),
        ("optim.lr=fast", "optim: lr must be float, got 'fast'"),
        ("train.steps=1.5", "train: steps must be int, got 1.5"),
        ("train.steps=true", "train: steps must be int, got True"),
        ("train.precision=fp16", "precision must be one of fp32, bf16, autocast_bf16, got 'fp16'"),
        ("optim.betas=[0.9]", "betas must have 2 entries, got 1"),
        ("model.tap_layer=2", r"tap_layer 2 must lie in \[0, 1\]"),
        ("model.codec.channels=9", "codec.channels 9 must equal dit.out_channels 12"),
        ("model.rays.token_px=8", "rays.token_px 8 must be codec.stride x dit.patch_size = 4"),
        ("model.sizes=[[24, 30]]", "not divisible by the token size 4"),
        ("data.num_frames=9", "data.num_frames 9 exceeds the 7 frames of bank"),
        ("data.num_frames=6", r"must be 4n \+ 1, got 6"),
        ("data.banks=[]", "at least one bank"),
        ("train.batch_size=0", "must be at least 1"),
        ("optim=3", "optim must be a mapping"),
        ("steps", "must look like section.key=value"),
    ],
)
def test_wrong_settings_name_file_key_and_fix(file, override, message):
    with pytest.raises(ValueError, match=message) as caught:
        load_config(file, [override])
    assert str(file) in str(caught.value) or "override" in str(caught.value)


def test_muon_needs_whole_matrices(file):
    with pytest.raises(ValueError, match="set train.zero_stage: 0 and train.precision"):
        load_config(file, ["optim.name=muon", "train.zero_stage=2"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "does not exist"),
        ("a: [", "not valid YAML"),
        (b"\xff\xfe\x00", "not a text file"),
        ("3", "must be a mapping"),
    ],
)
def test_unreadable_files_are_named(tmp_path, content, message):
    path = tmp_path / "x.yaml"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=message) as caught:
        load_config(path)
    assert "x.yaml" in str(caught.value)


def test_defaults_are_wan_1_3b():
    config = ModelConfig.__dataclass_fields__
    assert config["tap_layer"].default == 18
