import json
from dataclasses import replace
from pathlib import Path

import pytest

from mvtrack.config.placement import Placement
from mvtrack.evaluation.methods.baselines import Baseline
from mvtrack.evaluation.methods.existing_rows import ExternalVideos, existing_rows
from mvtrack.evaluation.methods.model import ModelMethod
from mvtrack.evaluation.runner.plan import Plan
from mvtrack.evaluation.runner.stages import run_stages
from mvtrack.inference.sampler import SamplerOptions
from mvtrack.models.decoder.files import save_aligner
from mvtrack.models.decoder.small import SmallAligner
from mvtrack.models.reshoot_model import save_model

CPU = Placement("cpu")


@pytest.fixture
def left(toy, small_model, tmp_path) -> tuple[dict, Path]:
    """One row of each kind, and the results folder that remembers them."""
    (tmp_path / "videos").mkdir()
    folder = save_model(small_model, tmp_path / "m").parent
    placement = Placement("cpu", precision="bfloat16")
    mine = ModelMethod("mine", "Mine", folder, SamplerOptions(2, seed=3), placement, other_size=True, backbone="blur")
    save_aligner(SmallAligner(8), small_model.config.codec, tmp_path / "d")
    mine = replace(mine, decoder=tmp_path / "d")
    peer = ExternalVideos("peer", "Peer", tmp_path / "videos", resize=True, group="Others")
    methods = (Baseline("blur", "peer"), mine, peer)
    run_stages(Plan(toy, methods, (), folder=tmp_path / "out"), [])
    return {m.name: m for m in methods}, tmp_path / "out"


def test_rows_come_back_as_they_were_made(left):
    methods, out = left
    found = existing_rows(out, CPU)
    assert found.others == {}
    assert found.notes == []
    assert {m.name: m for m in found.methods} == methods


def test_precision_is_the_rows_and_the_place_the_commands(left):
    _, out = left
    [mine] = [m for m in existing_rows(out, Placement("cpu", offload="model")).methods if m.name == "mine"]
    assert mine.placement == Placement("cpu", "bfloat16", "model")


def test_what_would_be_made_otherwise_is_left_as_it_is(left, tmp_path):
    """Another model at its place, videos that are gone, a record of another version."""
    _, out = left
    weights = tmp_path / "m/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"else")
    (tmp_path / "videos").rmdir()
    path = out / "methods/blur/method.json"
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "origin"}))
    found = existing_rows(out, CPU)
    assert found.methods == ()
    assert set(found.others) == {"blur", "mine", "peer"}
    assert found.lost_models == ["mine"]
    assert f"mine: its model {tmp_path}/m is gone or has changed: its videos are scored as they are" in found.notes[1]
    weights.unlink()
    assert existing_rows(out, CPU).lost_models == ["mine"]


def test_an_empty_folder_has_no_rows(tmp_path):
    assert existing_rows(tmp_path / "nothing", CPU).methods == ()
