import argparse
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mvtrack.config.model import SamplingConfig
from mvtrack.config.placement import Placement
from mvtrack.evaluation.methods.baselines import BASELINES
from mvtrack.evaluation.row_options import add_row_arguments, methods_of
from mvtrack.inference.sampler import SamplerOptions
from mvtrack.models.decoder.files import save_aligner
from mvtrack.models.decoder.small import SmallAligner
from mvtrack.models.reshoot_model import save_model


def rows(*arguments: object):
    parser = argparse.ArgumentParser()
    add_row_arguments(parser)
    return methods_of(parser.parse_args([str(a) for a in arguments]))


@pytest.fixture
def folder(small_model, tmp_path) -> Path:
    """A model that wishes to be sampled in three steps."""
    wish = replace(small_model.config, sampling=SamplingConfig(steps=3, precision="float32"))
    return save_model(replace(small_model, config=wish), tmp_path / "m").parent


def test_a_model_is_sampled_as_its_file_says(folder):
    [mine] = rows("--model", folder)
    assert mine.sampling == SamplerOptions(3)
    assert mine.settings["sample"]["steps"] == 3
    assert mine.settings["precision"] == "float32"
    [other] = rows("--model", folder, "--steps", 2, "--seed", 5, "--name", "n", "--group", "G", "--backbone", "copy")
    assert other.sampling == SamplerOptions(2, seed=5)
    assert (other.name, other.title, other.group, other.backbone) == ("n", "n", "G", "copy")


def test_a_model_works_where_it_is_told(folder):
    [mine] = rows("--model", folder, "--device", "cpu", "--precision", "bfloat16", "--attention", "cpu")
    assert mine.placement == Placement("cpu", "bfloat16", attention="cpu")
    model = mine.placed()
    assert (model.dit.dtype, model.dit.attention) == (torch.bfloat16, "cpu")
    assert mine.placed() is model
    [plain] = rows("--model", folder)
    assert plain.settings != mine.settings
    [elsewhere] = rows("--model", folder, "--offload", "model", "--attention", "cpu")
    assert elsewhere.settings == plain.settings  # rounding only


def test_other_encoders_are_part_of_what_a_row_is(folder, tmp_path):
    [plain] = rows("--model", folder)
    assert "encoders" not in plain.settings
    assert plain.check_memory
    with pytest.raises(ValueError, match="this model takes no --vae"):
        rows("--model", folder, "--vae", "maker/vae")
    assert not rows("--model", folder, "--ignore-memory")[0].check_memory


def test_a_decoder_is_part_of_what_a_row_is(folder, davis, tmp_path):
    aligner = SmallAligner(8)
    torch.nn.init.normal_(aligner.write.weight, std=0.3)
    [plain] = rows("--model", folder, "--steps", 1)
    save_aligner(aligner, plain.config.codec, tmp_path / "d")
    [aligned] = rows("--model", folder, "--steps", 1, "--decoder", tmp_path / "d")
    assert aligned.settings["decoder"]["folder"] == str(tmp_path / "d")
    assert "decoded a second time" in aligned.footnotes[0]
    inputs = davis.load(davis.case_keys()[0])
    assert (aligned.generate(inputs, {}) - plain.generate(inputs, {})).abs().max() > 1e-3
    with pytest.raises(ValueError, match="no decoder at"):
        rows("--model", folder, "--decoder", tmp_path / "nowhere")


def test_the_backbone_is_for_every_row_that_is_added(folder):
    made = rows("--model", folder, "--baselines", "all", "--backbone", "copy")
    assert {m.name: m.backbone for m in made} == {"m": "copy"} | dict.fromkeys(BASELINES, "copy") | {"copy": None}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--baselines", "copy", "--name", "x"], "--name x has no effect, it is for --model or --videos: leave it out"),
        (["--baselines", "copy", "--title", "x"], "--title x has no effect"),
        (["--baselines", "copy", "--group", "x"], "--group x has no effect"),
        (["--baselines", "copy", "--resize-videos"], "--resize-videos has no effect, it is for --videos"),
        (["--model", "MODEL", "--resize-videos"], "--resize-videos has no effect, it is for --videos"),
        (["--videos", ".", "--name", "x", "--steps", "4"], "--steps 4 has no effect, it is for --model"),
        (["--videos", ".", "--name", "x", "--guidance", "2"], "--guidance 2.0 has no effect, it is for --model"),
        (["--videos", ".", "--name", "x", "--seed", "4"], "--seed 4 has no effect, it is for --model"),
        (["--baselines", "copy", "--negative", "x"], "--negative x has no effect, it is for --model"),
        (["--baselines", "copy", "--device", "cpu"], "--device cpu has no effect, it is for --model"),
        (["--baselines", "copy", "--tiled"], "--tiled has no effect, it is for --model"),
        (["--precision", "bfloat16"], "--precision bfloat16 has no effect, it is for --model"),
        (["--backbone", "copy"], "--backbone copy has no effect, it is for --model, --videos or --baselines"),
        (["--replace"], "--replace has no effect, it is for --model, --videos or --baselines"),
        (["--model", "MODEL", "--guidance", "2"], "takes no captions .*: leave out --guidance"),
        (["--model", "MODEL", "--negative", "x"], "--negative is for guidance by captions"),
        (["--model", "MODEL", "--tiled"], "tiles are for codec.kind wan_vae"),
        (["--model", "MODEL", "--device", "cuda:99"], "device cuda:99 is not there"),
        (["--model", ".", "--videos", "."], "two rows"),
    ],
)
def test_what_would_have_no_effect_is_refused(folder, arguments, message):
    with pytest.raises(ValueError, match=message):
        rows(*(folder if a == "MODEL" else a for a in arguments))


def test_no_row_may_say_where_models_work():
    """Then the rows that are there are gone on with."""
    assert rows("--device", "cpu", "--offload", "model") == ()
