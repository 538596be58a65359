"""A complete model: network, codec and config, built by one function for training and for use."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from safetensors import safe_open
from torch import Tensor, nn

from mvtrack.config.model import ModelConfig
from mvtrack.config.tree import from_tree, to_tree
from mvtrack.files.tensor_file import load_strictly, open_tensors, write_tensors
from mvtrack.models.backbone import DiTOutput
from mvtrack.models.conditioning import Conditioning
from mvtrack.models.diffusion.process import DiffusionProcess, process_of
from mvtrack.models.init_weights import fill, initial_weights
from mvtrack.models.networks import Network, empty_network
from mvtrack.models.pca_codec import VideoCodec, build_codec
from mvtrack.models.weights.locate import MODEL_FILE as WEIGHTS_FILE
from mvtrack.models.weights.sources import parse_hub, resolve

CPU = torch.device("cpu")
FORMAT = "mvtrack-1"


@runtime_checkable
class PassRunner(Protocol):
    """What runs a pass in the network's stead: processes together, or a recording of it."""

    def run(self, dit: Network, latents: Tensor, timestep: Tensor, conditioning: Conditioning) -> DiTOutput:
        """The network's output, without taps."""


@runtime_checkable
class SharedWindows(Protocol):
    """Processes that make windows of a video side by side."""

    count: int

    def make_windows(self, jobs: list[tuple], own: Callable[..., tuple[Tensor, Tensor]]) -> list[tuple[Tensor, Tensor]]:
        """Latents and frames of each job, of `count` at most; `own` makes this process's of its job's parts."""


@dataclass(frozen=True)
class ReshootModel:
    """dit: the network, of whichever backbone. device: where it and the codec work; `place` (placement.py) puts them
    there. swapped: only the one that is at work lies there. batched_guidance: both predictions of a guided step are
    made in one pass. passes: what runs them if not the network itself (inference/ranks.py, cuda_graphs.py).
    window_ranks: processes that make windows of their own.
    """

    config: ModelConfig
    dit: Network
    codec: VideoCodec
    device: torch.device = CPU
    swapped: bool = False
    batched_guidance: bool = False
    passes: PassRunner | None = None
    window_ranks: SharedWindows | None = None

    @property
    def process(self) -> DiffusionProcess:
        """How it is trained and sampled."""
        return process_of(self.config)

    def encode(self, video: Float[Tensor, "B V T 3 H W"]) -> Float[Tensor, "B V f c h w"]:
        """Latents of videos in [-1, 1] that may lie anywhere, on the model's device."""
        self._bring(self.codec, self.dit)
        return self.codec.encode(video.to(self.device))

    def decode(self, latents: Float[Tensor, "B V f c h w"]) -> Float[Tensor, "B V T 3 H W"]:
        """The videos of latents, on the CPU."""
        return self.decode_by(lambda codec, x: codec.decode(x), latents)

    def decode_by(self, decode: Callable[[VideoCodec, Tensor], Tensor], latents: Tensor) -> Tensor:
        """What `decode` makes of the codec, where it works, and latents that may lie anywhere; on the CPU."""
        self._bring(self.codec, self.dit)
        return decode(self.codec, latents.to(self.device)).cpu()

    def run(
        self, latents: Float[Tensor, "B V f c h w"], sigma: Float[Tensor, "B"], conditioning: Conditioning,
        tap_layers: tuple[int, ...] = (),
    ) -> DiTOutput:  # fmt: skip
        """The network at noise level `sigma`; inputs may lie anywhere, the output lies on the model's device."""
        self._bring(self.dit, self.codec)
        latents, timestep = latents.to(self.device), self.process.timestep(sigma).to(self.device)
        if self.passes is not None and not tap_layers and not self.dit.is_watched:
            return self.passes.run(self.dit, latents, timestep, conditioning)
        return self.dit(latents, timestep, conditioning.to(self.device), tap_layers)

    def _bring(self, needed: nn.Module, other: nn.Module) -> None:
        if self.swapped:
            other.to(CPU)
            needed.to(self.device)


def build_model(config: ModelConfig, seed: int = 0) -> ReshootModel:
    """A fresh model; the same seed gives the same weights. The codec still has to be fitted or loaded."""
    dit = empty_network(config).to_empty(device="cpu")
    fill(dit, initial_weights(config, seed))
    return ReshootModel(config, dit, build_codec(config.codec))


def save_model(model: ReshootModel, folder: Path | str) -> Path:
    """Write one safetensors file that carries the config."""
    return write_model(model.config, model.dit.state_dict(), model.codec.state_dict(), folder)


def write_model(
    config: ModelConfig, dit: dict[str, Tensor], codec: dict[str, Tensor], folder: Path | str, half: bool = False
) -> Path:
    """Write a model file from state dicts. Written aside and renamed. half: the transformer's weights in float16, which
    `load_model` widens again: half the bytes, three digits of every weight."""
    dit = {k: v.half() for k, v in dit.items()} if half else dit
    state = {f"dit.{k}": v for k, v in dit.items()} | {f"codec.{k}": v for k, v in codec.items()}
    return write_tensors(Path(folder) / WEIGHTS_FILE, state, {"format": FORMAT, "config": json.dumps(to_tree(config))})


def load_model(folder: Path | str) -> ReshootModel:
    """Rebuild a saved model: its folder, its file, or a hub id of one. float16 is taken as a way to store float32.

    Raises ValueError that names the file when it is missing, is no safetensors file, or holds another architecture.
    """
    path = model_file(folder)
    config = read_config(path)
    with safe_open(path, "pt") as file:
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    model = ReshootModel(config, empty_network(config), build_codec(config.codec))
    for prefix, module in (("dit.", model.dit), ("codec.", model.codec)):
        part = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        part = {k: v.float() if v.dtype == torch.float16 else v for k, v in part.items()}
        load_strictly(module, part, path)
    model.dit.eval()
    return model


def read_config(folder: Path | str) -> ModelConfig:
    """The config that travels in a model file, without its weights."""
    path = model_file(folder)
    hint = f": released weights become a model by `mvtrack convert {path} OUT`"
    with open_tensors(path, FORMAT, "model", hint) as file:
        return from_tree(ModelConfig, json.loads(file.metadata()["config"]), where=f"config in {path}")


def with_config(metadata: dict[str, str], **sampling: object) -> dict[str, str]:
    """Metadata of a model file with other values of `sampling` in its config."""
    config = from_tree(ModelConfig, json.loads(metadata["config"]), where="the model's config")
    changed = replace(config, sampling=replace(config.sampling, **sampling))
    return metadata | {"config": json.dumps(to_tree(changed))}


def on_disk(source: Path | str) -> Path:
    """Where a source is if it is no hub id: the folder of one that comes with the package, else as it says."""
    shipped = str(source).startswith("shipped:")
    return (
        Path(str(resources.files("mvtrack") / "shipped" / str(source).partition(":")[2])) if shipped else Path(source)
    )


def model_file(source: Path | str) -> Path:
    """The file of a model of this project: of a folder, the file itself, of a model that comes with the package
    (`shipped:tiny`), or of a hub id, downloaded where the hub's cache lacks it. Raises ValueError where there is none.
    """
    path = on_disk(source)
    if path.is_file():
        return path
    hub = None if path.exists() else parse_hub(str(source))
    if hub is None:
        path = path / WEIGHTS_FILE if path.is_dir() else path
        if path.is_file():
            return path
        raise ValueError(
            f"no model at {path}: expected a folder with {WEIGHTS_FILE}, that file, or a hub id of a model of this "
            f"project; released weights become one by `mvtrack convert SOURCE FOLDER`"
        )
    try:
        return resolve(str(source), "model")
    except ValueError as error:
        raise ValueError(
            f"no model at {source}: it does not exist here, and as a hub id: {error}; released weights become a model "
            f"by `mvtrack convert {source} FOLDER`"
        ) from error
