"""What models look at before the first video of a benchmark: captions, memory, the kernel."""

from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from mvtrack.config.model import SamplingConfig
from mvtrack.config.placement import Placement
from mvtrack.evaluation.benchmarks.davis import Davis
from mvtrack.evaluation.command import methods_of
from mvtrack.evaluation.methods import model as methods
from mvtrack.evaluation.methods.baselines import BASELINES
from mvtrack.evaluation.methods.model import ModelMethod
from mvtrack.evaluation.runner.plan import Plan
from mvtrack.evaluation.runner.stages import run_stages
from mvtrack.inference.memory import check_memory as refuse
from mvtrack.inference.sampler import SamplerOptions
from mvtrack.models import prompts
from mvtrack.models.decoder.files import save_aligner
from mvtrack.models.decoder.small import SmallAligner
from mvtrack.models.reshoot_model import save_model
from mvtrack.models.text_encoder import NEGATIVE_PROMPT


@dataclass(frozen=True)
class Captioned(Davis):
    """DAVIS with a caption a case; `broken` ones cannot be read."""

    broken: tuple[str, ...] = ()

    @staticmethod
    def of(davis: Davis, *broken: str) -> "Captioned":
        return Captioned(davis.root, davis.cases, davis.size, davis.num_frames, broken=broken)

    def load(self, key):
        if key in self.broken:
            raise ValueError(f"{key} cannot be read")
        return replace(super().load(key), caption=f"a video of {key}")


@pytest.fixture
def method(told_model, tmp_path) -> ModelMethod:
    folder = save_model(told_model, tmp_path / "m").parent
    return ModelMethod("m", "M", folder, SamplerOptions(1, guidance=2.0), Placement("cpu"))


@pytest.fixture
def happened(monkeypatch) -> list:
    """Captions that were embedded and models that were loaded, in their order."""
    seen, embed, load = [], prompts.embed_captions, methods.load_model

    def note(captions, config, *where, **device):
        seen.append(captions)
        return embed(captions, config, *where, **device)

    monkeypatch.setattr(prompts, "embed_captions", note)
    monkeypatch.setattr(methods, "load_model", lambda folder: seen.append("model") or load(folder))
    return seen


def test_captions_of_all_cases_are_embedded_before_the_model_comes(davis, method, happened, tmp_path):
    first, second = davis.case_keys()
    plan = Plan(Captioned.of(davis), (method,), (), folder=tmp_path / "out")
    assert run_stages(plan, ["generate"]) == []
    told = [[f"a video of {key}", NEGATIVE_PROMPT] for key in (first, second)]
    assert happened == [told[0] + told[1], told[0], "model", told[1]]
    happened.clear()
    assert run_stages(plan, ["generate"]) == []
    assert happened == []  # all is done


def test_a_case_that_cannot_be_read_is_left_to_its_turn(davis, method, happened, tmp_path):
    first, second = davis.case_keys()
    plan = Plan(Captioned.of(davis, first), (method,), (), folder=tmp_path / "out")
    assert run_stages(plan, ["generate"]) == [f"m, {first}: inputs: {first} cannot be read"]
    assert happened[0] == [f"a video of {second}", NEGATIVE_PROMPT]


def test_what_will_not_fit_is_refused_before_any_video(davis, method, happened, tmp_path, monkeypatch):
    monkeypatch.setattr(refuse, "free_memory", lambda *_: refuse.Memory(2**20, shared=True))
    plan = Plan(Captioned.of(davis), (method,), (), folder=tmp_path / "out")
    with pytest.raises(ValueError, match="or start all the same with --ignore-memory"):
        run_stages(plan, ["generate"])
    assert happened == []
    plan = replace(plan, methods=(replace(method, check_memory=False),))
    assert run_stages(plan, ["generate"]) == []


def test_a_size_that_it_does_not_make_is_said_by_every_case(toy, method, happened, tmp_path):
    """13 x 17 pixels are neither its size nor whole tokens."""
    plan = Plan(toy, (method,), (), folder=tmp_path / "out")
    assert len(run_stages(plan, ["generate"])) == len(toy.case_keys())
    assert happened == []


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
        ("--model MODEL placement.tiled=true", "--tiled is for codec.kind wan_vae"),
        ("--model MODEL placement.encoders.vae=maker/vae", "this model takes no --vae"),
        ("--model MODEL --device cuda:99", "device cuda:99 is not there"),
        ("--model . --videos .", "two rows"),
        ("--geometry vggt", "--geometry is gone: set consistency.geometry="),
    ],
)
def test_what_would_have_no_effect_is_refused(rows, folder, words, message):
    with pytest.raises(ValueError, match=message):
        rows(*(folder if word == "MODEL" else word for word in words.split()))
