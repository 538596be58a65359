"""A model of this project as a row of a table."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial
from pathlib import Path
from zlib import crc32

from jaxtyping import Float
from torch import Tensor

from mvtrack.config.model import ModelConfig
from mvtrack.config.placement import Placement
from mvtrack.evaluation.interface import Benchmark, Estimate, Inputs, Method, Skipped
from mvtrack.files.cache import sha256_once
from mvtrack.inference.device import place, placed_config
from mvtrack.inference.memory.check_memory import refuse_inference
from mvtrack.inference.memory.encoders import encoders_of
from mvtrack.inference.memory.inference import Work
from mvtrack.inference.memory.kernel import kernel_of_video
from mvtrack.inference.sampler import LongVideo, SamplerOptions, generate_long, window_spans
from mvtrack.models.decoder.decode_aligned import AlignedDecoding
from mvtrack.models.decoder.files import decoder_file, load_aligner
from mvtrack.models.prompts import Captions, Prompts, remember_prompts, window_prompts
from mvtrack.models.reshoot_model import WEIGHTS_FILE, ReshootModel, load_model, read_config
from mvtrack.models.weights.lora import lora_file, split_weight


@dataclass(frozen=True)
class ModelMethod(Method):
    """Re-shoots each case as `reshoot` does: windows of the model's own length, the noise a function of the case.

    sample: None is what the model is meant for. negative: what guidance steers away from, see `make_prompts`.
    other_size: make videos of the benchmark's size, too, where the model was trained at others. check_memory: refuse
    what will not fit. decoder: folder of an aligning decoder, which decodes a second time with estimated depth.
    """

    name: str
    title: str
    folder: Path
    sample: SamplerOptions | None = None
    placement: Placement = Placement()
    negative: str | None = None
    other_size: bool = False
    backbone: str | None = None
    group: str = "Models"
    check_memory: bool = True
    decoder: Path | None = None
    needs = ("camera",)

    @cached_property
    def sampling(self) -> SamplerOptions:
        return self.sample or SamplerOptions.of(self.config)

    @cached_property
    def config(self) -> ModelConfig:
        return placed_config(read_config(self.folder), self.placement)

    @property
    def precision(self) -> str:
        """Of the transformer's weights: the placement's, or what the model's file says."""
        return self.placement.precision or self.config.sampling.precision

    @property
    def settings(self) -> dict:
        """Device, offloading and kernels are not in it: they change rounding only."""
        file = self.folder / WEIGHTS_FILE if self.folder.is_dir() else self.folder
        encoders = self.placement.encoders.given
        return {
            "weights": sha256_once(file), "sample": self.sampling.record, "precision": self.precision,
            "tiled": self.placement.tiled, "negative": self.negative, "other_size": self.other_size,
        } | ({"encoders": encoders} if encoders else {}) | self._lora_settings | self._decoder_settings  # fmt: skip

    @property
    def _lora_settings(self) -> dict:
        pairs = [split_weight(text) for text in self.placement.lora]
        return {"lora": [[sha256_once(lora_file(source)), weight] for source, weight in pairs]} if pairs else {}

    @property
    def _decoder_settings(self) -> dict:
        if self.decoder is None:
            return {}
        return {"decoder": {"folder": str(self.decoder.resolve()), "sha256": sha256_once(decoder_file(self.decoder))}}

    @property
    def origin(self) -> dict:
        return {"kind": "model", "folder": str(self.folder.resolve())}

    @property
    def footnotes(self) -> tuple[str, ...]:
        weights = "weights as stored" if self.precision == "stored" else f"weights in {self.precision}"
        trained = f"trained at {_sizes(self.config)}, " if self.other_size else ""
        steps, guidance = self.sampling.steps, self.sampling.guidance
        aligned = ", decoded a second time with the views aligned by estimated depth" if self.decoder else ""
        return (f"{self.title}: {trained}{steps} sampling steps, guidance {guidance:g}, {weights}{aligned}.",)

    def prepare(self, benchmark: Benchmark, keys: Sequence[str]) -> None:
        """Captions and first frames of all cases are encoded, each encoder read once. Raises ValueError where attention
        or memory will not do."""
        config, size = self.config, tuple(benchmark.size)
        token = config.rays.token_px
        if not self._makes(size) or size[0] % token or size[1] % token:
            return  # every case says so
        kernel_of_video(config, size, benchmark.num_frames, self.placement)
        cases = partial(_readable, benchmark, keys)
        captions = [caption for inputs in cases() for caption in self._captions(inputs)] if config.dit.text_dim else []
        if self.check_memory:
            work = Work(encoders_of(config, captions))
            refuse_inference(config, size, benchmark.num_frames, self.sampling, self.placement, work)
        pictures = (frame for inputs in cases() for frame in self._first_frames(inputs))
        remember_prompts(config, captions, pictures, self.placement.encoder_device)

    def generate(self, inputs: Inputs, estimates: dict[str, Estimate]) -> Float[Tensor, "T 3 H W"]:
        size = tuple(inputs.reference.shape[-2:])
        if not self._makes(size):
            raise ValueError(
                f"{self.folder} makes {_sizes(self.config)}, the benchmark is {size[0]}x{size[1]}: pass --size, or "
                "set row.other_size to have it make that all the same"
            )
        sample = replace(self.sampling, seed=crc32(f"{self.sampling.seed} {inputs.key}".encode()))
        prompts = self._prompts(inputs, sample)  # first, so that the encoders are gone when the model loads
        model = self.placed()
        aligned = self.decoder and AlignedDecoding(load_aligner(self.decoder, self.config.codec))
        video = LongVideo.in_memory(inputs.reference, inputs.camera, inputs.subject_distance)
        return generate_long(model, replace(video, prompts=prompts), sample, aligned)

    def placed(self) -> ReshootModel:
        """The model, where it is to work; kept for the next call."""
        return _placed(self.folder, self.placement)

    def _prompts(self, inputs: Inputs, sample: SamplerOptions) -> list[Prompts]:
        """The case's caption, where the model takes any, and each window's first frame."""
        config, device = self.config, self.placement.encoder_device
        caption = inputs.caption if config.dit.text_dim else None
        captions = Captions(caption, self.negative, sample.guidance)
        return window_prompts(config, self._first_frames(inputs), captions, device)

    def _captions(self, inputs: Inputs) -> list[str | None]:
        """All that have to be encoded for a case."""
        return Captions(inputs.caption, self.negative, self.sampling.guidance).texts

    def _first_frames(self, inputs: Inputs) -> Float[Tensor, "n 3 H W"]:
        """Of every window."""
        return inputs.reference[[start for start, _ in window_spans(self.config, len(inputs.reference))]]

    def _makes(self, size: tuple[int, int]) -> bool:
        return self.other_size or size in [tuple(s) for s in self.config.sizes]


def _readable(benchmark: Benchmark, keys: Sequence[str]) -> Iterator[Inputs]:
    """The inputs that can be read; the others say so when their turn comes."""
    for key in keys:
        try:
            inputs = benchmark.load(key)
        except (ValueError, OSError):
            continue
        if not isinstance(inputs, Skipped):
            yield inputs


def _sizes(config: ModelConfig) -> str:
    return ", ".join(f"{height}x{width}" for height, width in config.sizes)


@lru_cache(maxsize=1)
def _placed(folder: Path, placement: Placement) -> ReshootModel:
    return place(load_model(folder), placement)
