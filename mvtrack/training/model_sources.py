"""Models by path, whatever they are kept as: a model folder, a checkpoint, or a whole run with all its checkpoints."""

import json
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from mvtrack.config.model import ModelConfig
from mvtrack.config.tree import from_tree
from mvtrack.models.reshoot_model import WEIGHTS_FILE, ReshootModel, load_model, read_config
from mvtrack.training.checkpoint import CheckpointReader, checkpoints, step_of
from mvtrack.training.export import export_checkpoint


@dataclass(frozen=True)
class ModelSource:
    """name: short, for tables and folders. step: how long it was trained, None where that is not known."""

    name: str
    path: Path
    step: int | None
    is_checkpoint: bool

    @property
    def weights(self) -> Path:
        """The weights' file, or a checkpoint's folder."""
        return self.path / WEIGHTS_FILE if (self.path / WEIGHTS_FILE).is_file() else self.path

    @property
    def config(self) -> ModelConfig:
        """Read without the weights."""
        if not self.is_checkpoint:
            return read_config(self.path)
        tree = CheckpointReader(self.path).state.config["model"]
        return from_tree(ModelConfig, tree, where=str(self.path / "state.json"))

    def load(self, kind: str = "ema") -> ReshootModel:
        """kind: a checkpoint's averaged weights, or the live ones ("weight")."""
        if not self.is_checkpoint:
            return load_model(self.path)
        with TemporaryDirectory() as folder:
            export_checkpoint(self.path, Path(folder), kind)
            return load_model(folder)


def model_sources(paths: list[Path]) -> list[ModelSource]:
    """Every model that the paths stand for, in their order, a run's checkpoints by step.

    Raises ValueError for a path that holds no model, and for two models of one name.
    """
    found = [source for path in paths for source in _sources(path)]
    names = [source.name for source in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{', '.join(twice)} is given more than once: every model needs a name of its own")
    return found


def _sources(path: Path) -> list[ModelSource]:
    if (path / "state.json").is_file():
        return [_checkpoint(path, path.parent.parent)]
    saved = checkpoints(path if path.name == "checkpoints" else path / "checkpoints")
    if saved:
        return [_checkpoint(checkpoint, saved[0].parent.parent) for checkpoint in saved]
    folder = path.parent if path.is_file() else path
    if not (folder / WEIGHTS_FILE).is_file() and (folder / "model" / WEIGHTS_FILE).is_file():
        folder = path = folder / "model"  # a run whose checkpoints were deleted
    if not (folder / WEIGHTS_FILE).is_file() and not path.is_file():
        raise ValueError(f"{path} holds no model: give a folder with {WEIGHTS_FILE}, a checkpoint, or a run's folder")
    training = folder / "training.json"
    step = json.loads(training.read_text()).get("step") if training.is_file() else None
    name = folder.resolve().parent.name if folder.name == "model" else folder.resolve().name
    return [ModelSource(name, path, step, is_checkpoint=False)]


def _checkpoint(path: Path, run: Path) -> ModelSource:
    return ModelSource(f"{run.name}_{path.name}", path, step_of(path), is_checkpoint=True)
