from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mvtrack.config.model import SamplingConfig
from mvtrack.config.placement import Placement
from mvtrack.evaluation.command import methods_of
from mvtrack.evaluation.methods.baselines import BASELINES
from mvtrack.inference.sampler import SamplerOptions
from mvtrack.models.decoder.files import save_aligner
from mvtrack.models.decoder.small import SmallAligner
from mvtrack.models.reshoot_model import save_model


@pytest.fixture
def rows(command):
    def make(*words: object):
        options = command(*words)
        return methods_of(options.rows, options.settings())

    return make


@pytest.fixture
def folder(small_model, tmp_path) -> Path:
    """A model that wishes to be sampled in three steps."""
    wish = replace(small_model.config, sampling=SamplingConfig(steps=3, precision="float32"))
    return save_model(replace(small_model, config=wish), tmp_path / "m").parent


def test_a_model_is_sampled_as_its_file_says(rows, folder):
    [mine] = rows("--model", folder)
    assert mine.sampling == SamplerOptions(3)
    assert (mine.settings["sample"]["steps"], mine.settings["precision"]) == (3, "float32")
    [other] = rows("--model", folder, "--steps", 2, "--seed", 5, "--name", "n", "row.group=G", "--backbone", "copy")
    assert other.sampling == SamplerOptions(2, seed=5)
    assert (other.name, other.title, other.group, other.backbone) == ("n", "n", "G", "copy")


def test_a_model_works_where_the_settings_place_it(rows, folder):
    [mine] = rows("--model", folder, "--device", "cpu", "placement.precision=bfloat16", "placement.attention=cpu")
    assert mine.placement == Placement("cpu", "bfloat16", attention="cpu")
    model = mine.placed()
    assert (model.dit.dtype, model.dit.attention) == (torch.bfloat16, "cpu")
    assert mine.placed() is model
    [plain] = rows("--model", folder)
    assert plain.settings != mine.settings
    [elsewhere] = rows("--model", folder, "placement.offload=model", "placement.attention=cpu")
    assert elsewhere.settings == plain.settings  # rounding only
    assert "encoders" not in plain.settings


def test_a_decoder_is_part_of_what_a_row_is(rows, folder, davis, tmp_path):
    aligner = SmallAligner(8)
    torch.nn.init.normal_(aligner.write.weight, std=0.3)
    [plain] = rows("--model", folder, "--steps", 1)
    save_aligner(aligner, plain.config.codec, tmp_path / "d")
    [aligned] = rows("--model", folder, "--steps", 1, f"row.decoder={tmp_path / 'd'}")
    assert aligned.settings["decoder"]["folder"] == str(tmp_path / "d")
    assert "decoded a second time" in aligned.footnotes[0]
    inputs = davis.load(davis.case_keys()[0])
    assert (aligned.generate(inputs, {}) - plain.generate(inputs, {})).abs().max() > 1e-3
    with pytest.raises(ValueError, match="no decoder at"):
        rows("--model", folder, f"row.decoder={tmp_path / 'nowhere'}")


def test_the_backbone_is_for_every_row_that_is_added(rows, folder):
    made = rows("--model", folder, "--baselines", "all", "--backbone", "copy")
    assert {m.name: m.backbone for m in made} == {"m": "copy"} | dict.fromkeys(BASELINES, "copy") | {"copy": None}
    assert rows("--device", "cpu", "placement.offload=model") == ()  # then those that are there are gone on with


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--baselines copy --name x", "--name has no effect, it is for --model or --videos: leave it out"),
        ("--videos . --name x --steps 4", "--steps has no effect, it is for --model"),
        ("--videos . --name x --guidance 2", "--guidance has no effect, it is for --model"),
        ("--backbone copy", "--backbone has no effect, it is for --model, --videos or --baselines"),
        ("--model MODEL --guidance 2", "takes no captions .*: leave out --guidance"),
        ("--model MODEL row.negative=x", "row.negative is for guidance by captions"),
        ("--model MODEL placement.tiled=true", "tiles are for codec.kind wan_vae"),
        ("--model MODEL placement.encoders.vae=maker/vae", "this model takes no --vae"),
        ("--model MODEL --device cuda:99", "device cuda:99 is not there"),
        ("--model . --videos .", "two rows"),
        ("--geometry vggt", "--geometry is gone: set consistency.geometry="),
    ],
)
def test_what_would_have_no_effect_is_refused(rows, folder, words, message):
    with pytest.raises(ValueError, match=message):
        rows(*(folder if word == "MODEL" else word for word in words.split()))
