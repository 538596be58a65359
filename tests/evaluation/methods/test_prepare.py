"""What models look at before the first video of a benchmark: captions, memory, the kernel."""

from dataclasses import dataclass, replace

import pytest

from mvtrack.config.placement import Placement
from mvtrack.evaluation.benchmarks.davis import Davis
from mvtrack.evaluation.methods import model as methods
from mvtrack.evaluation.methods.model import ModelMethod
from mvtrack.evaluation.runner.plan import Plan
from mvtrack.evaluation.runner.stages import run_stages
from mvtrack.inference.memory import check_memory as refuse
from mvtrack.inference.sampler import SamplerOptions
from mvtrack.models import prompts
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
