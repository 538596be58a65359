"""The options that commands share which run a model: which one, where it works, how it samples."""

from pathlib import Path
from typing import TYPE_CHECKING

from mvtrack.config.checked import Count, NonNegative, config
from mvtrack.config.command_line import Command, option, section
from mvtrack.config.placement import Placement

if TYPE_CHECKING:
    from mvtrack.config.model import ModelConfig
    from mvtrack.inference.sampler import SamplerOptions

LESS_MEMORY = (
    "try --offload model, --offload blocks, --encoders-on-cpu, --tiled, --precision bfloat16 or a smaller --size; "
    "`mvtrack doctor --model FOLDER` says what they take"
)
TRACKING_MODEL = "folder with model.safetensors or hub id; default: the shipped tiny model with a tracking head"
SAMPLING = "sampling; what is left out is what the model is meant for"
PLACEMENT = "where and how the model works"


@config
class SamplingOptions:
    """What changes the result. None: what the model is meant for."""

    steps: Count | None = option(None, "sampling steps")
    seed: int | None = option(None, "of the noise; default: 0")
    caption: str | None = option(None, "what the video shows, for models that take captions; default: nothing")
    guidance: float | None = option(None, "scale of classifier-free guidance by the caption; 1 is none")
    negative: str | None = option(None, "what guidance steers away from; default: the list of Wan's authors")
    cache: NonNegative | None = option(
        None, "step cache: how far the output may have changed before the network runs again, such as 0.1; default: off"
    )

    def of(self, model: "ModelConfig") -> "SamplerOptions":
        """How a model samples."""
        from mvtrack.inference.sampler import SamplerOptions

        return SamplerOptions.of(model, self.steps, self.guidance, self.seed or 0, self.cache or 0.0)


@config(kw_only=True)
class MemoryChecked(Command):
    """A command that refuses what will not fit."""

    ignore_memory: bool = option(False, "start although the estimate says that memory will not do")


@config(kw_only=True)
class ModelCommand(MemoryChecked):
    """A command that runs a model and writes a folder."""

    model: str | None = option(None, "folder with model.safetensors or hub id; default: the tiny model that ships")
    out: Path | None = option(None, "folder for the results; default: in outputs/, by the video's name")
    overwrite: bool = option(False, "replace an existing output folder")
    verbose: bool = option(False, "also say which attention kernel works")
    placement: Placement = section(Placement, PLACEMENT)
