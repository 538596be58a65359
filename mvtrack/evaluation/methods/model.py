"""A model of this project as a row of a table."""

from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from zlib import crc32

from jaxtyping import Float
from torch import Tensor

from mvtrack.backbone.model import WEIGHTS_FILE, ReshootModel, load_model
from mvtrack.backbone.prompts import Prompts, window_prompts
from mvtrack.evaluation.interface import Declined, Estimate, Inputs
from mvtrack.evaluation.runner.records import hash_of_files
from mvtrack.generate import SampleConfig, generate_long, own_windows


@dataclass(frozen=True)
class ModelMethod:
    """Re-shoots each case as `reshoot` does: windows of the model's own length, the noise a function of the case."""

    name: str
    title: str
    folder: Path
    sample: SampleConfig = SampleConfig()
    backbone: str | None = None
    group: str = "Models"
    bound: bool = False
    needs: tuple[str, ...] = ("camera",)

    @property
    def settings(self) -> dict:
        return {"weights": _weights_hash(self.folder), "sample": asdict(self.sample)}

    @property
    def footnotes(self) -> tuple[str, ...]:
        return (f"{self.title}: {self.sample.steps} sampling steps, guidance {self.sample.guidance:g}.",)

    def find(self, key: str) -> Path | Declined | None:
        return None

    def generate(self, inputs: Inputs, estimates: dict[str, Estimate]) -> Float[Tensor, "T 3 H W"] | Declined:
        model = _loaded(self.folder)
        size, made = tuple(inputs.reference.shape[-2:]), model.config.sizes
        if size not in [tuple(s) for s in made]:
            shown = ", ".join(f"{h}x{w}" for h, w in made)
            raise ValueError(f"{self.folder} makes {shown}, the benchmark is {size[0]}x{size[1]}: pass --size")
        sample = replace(self.sample, seed=crc32(f"{self.sample.seed} {inputs.key}".encode()))
        told = _prompts(model, inputs, sample)
        return generate_long(model, inputs.reference, inputs.camera, sample, None, inputs.subject_distance, told)


def _prompts(model: ReshootModel, inputs: Inputs, sample: SampleConfig) -> list[Prompts]:
    """The case's caption, where the model takes any, and each window's first frame."""
    caption = inputs.caption if model.config.dit.text_dim else None
    starts = [start for start, _ in own_windows(model, len(inputs.reference))]
    return window_prompts(model.config, inputs.reference[starts], caption, guidance=sample.guidance)


@lru_cache(maxsize=1)
def _loaded(folder: Path) -> ReshootModel:
    return load_model(folder)


@lru_cache(maxsize=8)
def _weights_hash(folder: Path) -> str:
    return hash_of_files([folder / WEIGHTS_FILE if folder.is_dir() else folder], None)
