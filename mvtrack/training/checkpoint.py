"""Checkpoints that survive: written aside and renamed, readable by any number of ranks at any ZeRO stage.

A checkpoint is a folder `step_0001000` with one safetensors file per rank, holding that rank's fragments of weights,
EMA and optimiser state as flat ranges, and a `state.json` with everything else. A folder without a `state.json`, or
under another name, never counts. Frozen weights do not change and are written once, into `frozen/`. Nothing is pickled.
"""

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors import SafetensorError
from torch import Tensor

from mvtrack.config.training import TrainingConfig
from mvtrack.config.tree import to_tree
from mvtrack.models.pca_codec import VideoCodec
from mvtrack.training import distributed
from mvtrack.training.ema import EMA
from mvtrack.training.sharded_io import PieceReader, file_name, piece_key, sync, write_pieces
from mvtrack.training.zero_shards import (
    fragments,
    frozen_pieces,
    optimizer_step_count,
    publish_weights,
    set_optimizer_step_count,
)

FORMAT = "mvtrack-checkpoint-1"
FROZEN = "frozen"
_NAME = re.compile(r"step_(\d{7,})")


@dataclass(frozen=True)
class Progress:
    """Where a run is. The next step to do is also the position in the data, mid-epoch, on every rank and worker."""

    step: int = 0
    skipped: int = 0  # updates left out because something was not finite
    best_psnr_db: float | None = None  # best validation so far
    best_step: int | None = None


@dataclass(frozen=True)
class CheckpointState:
    """The contents of state.json."""

    format: str
    progress: Progress
    optimizer_steps: int
    world_size: int
    zero_stage: int
    precision: str
    parameters: dict[str, list[int]]
    files: dict[str, int]
    config: dict = field(repr=False)


def checkpoints(folder: Path) -> list[Path]:
    """Finished checkpoints in a folder, oldest first."""
    found = [p for p in folder.glob("step_*") if _NAME.fullmatch(p.name) and (p / "state.json").is_file()]
    return sorted(found, key=step_of)


def step_of(checkpoint: Path) -> int:
    """The step in a checkpoint's name."""
    return int(_NAME.fullmatch(checkpoint.name)[1])


def save_checkpoint(
    folder: Path, engine, ema: EMA, codec: VideoCodec, config: TrainingConfig, progress: Progress
) -> Path:
    """Write a checkpoint of all ranks. Collective; raises OSError on every rank when one of them could not write."""
    tensors = {}
    for fragment in fragments(engine):
        if fragment.writes:
            values = {"weight": fragment.weight, "ema": ema.shadow[fragment.name][1]} | fragment.state
            tensors |= {piece_key(kind, fragment.name, fragment.start): tensor for kind, tensor in values.items()}
    tensors |= {f"rng/{name}": state for name, state in _random_states().items()}
    if distributed.rank() == 0:
        tensors |= {f"codec/{name}": tensor for name, tensor in codec.state_dict().items()}
    shapes = {f.name: list(f.shape) for f in fragments(engine)}

    def describe(shapes: dict[str, list[int]], files: dict[str, int]) -> dict:
        return asdict(
            CheckpointState(
                FORMAT, progress, optimizer_step_count(engine), distributed.world_size(), config.train.zero_stage,
                config.train.precision, shapes, files, to_tree(config),
            )
        )  # fmt: skip

    return _write(folder / f"step_{progress.step:07d}", tensors, shapes, describe)


def save_frozen(folder: Path, module: torch.nn.Module) -> None:
    """Write the weights that are not trained, once in a run's life. Collective."""
    if distributed.any_rank((folder / FROZEN / "state.json").exists()):
        return
    tensors, shapes = {}, {}
    for name, shape, start, values in frozen_pieces(module):
        tensors[piece_key(FROZEN, name, start)] = values
        shapes[name] = list(shape)
    if distributed.any_rank(bool(shapes)):
        _write(folder / FROZEN, tensors, shapes, lambda s, f: {"format": FORMAT, "parameters": s, "files": f})


def _write(final: Path, tensors: dict[str, Tensor], shapes: dict, describe: Callable[[dict, dict], dict]) -> Path:
    """All ranks write into a folder beside the final one; rank 0 adds state.json and renames it."""
    aside = final.with_name(f".{final.name}.partial")
    first = distributed.rank() == 0
    _agree(_error_of(lambda: aside.mkdir(parents=True, exist_ok=True)) if first else None, aside)
    _agree(_error_of(lambda: write_pieces(aside / file_name(distributed.rank()), tensors)), aside)
    shapes = _merged(shapes)

    def publish() -> None:
        files = {file_name(r): (aside / file_name(r)).stat().st_size for r in range(distributed.world_size())}
        (aside / "state.json").write_text(json.dumps(describe(shapes, files)))
        sync(aside / "state.json")
        sync(aside)
        _replace_folder(aside, final)
        sync(final.parent)

    _agree(_error_of(publish) if first else None, aside)
    return final


def _replace_folder(aside: Path, final: Path) -> None:
    """Rename, also over a checkpoint of the same step that an earlier attempt of the run saved."""
    if not final.exists():
        os.replace(aside, final)
        return
    old = final.with_name(f".{final.name}.old")
    os.replace(final, old)
    os.replace(aside, final)
    shutil.rmtree(old)


def _random_states() -> dict[str, Tensor]:
    states = {"torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def _error_of(work: Callable[[], object]) -> OSError | None:
    try:
        work()
    except OSError as error:
        return error
    except SafetensorError as error:
        return OSError(str(error))
    return None


def _agree(error: OSError | None, aside: Path) -> None:
    """Raise everywhere if any rank failed; what was begun is removed, earlier checkpoints stay as they are."""
    if not distributed.any_rank(error is not None):
        return
    if distributed.rank() == 0:
        shutil.rmtree(aside, ignore_errors=True)
    reason = str(error) if error else "another rank could not write"
    raise OSError(f"cannot save a checkpoint in {aside.parent}: {reason}; earlier checkpoints are untouched") from error


def _merged(shapes: dict[str, list[int]]) -> dict[str, list[int]]:
    """Union over ranks: at stages 1 to 3 a rank may hold nothing of a parameter."""
    if distributed.world_size() == 1:
        return shapes
    everyone: list = [None] * distributed.world_size()
    dist.all_gather_object(everyone, shapes)
    return {name: shape for part in everyone for name, shape in part.items()}


def prune(folder: Path, keep_last: int, keep_every: int | None, keep_step: int | None) -> None:
    """Delete all but the newest checkpoints, every `keep_every`-th step, and one more (the best)."""
    for path in checkpoints(folder)[:-keep_last]:
        if step_of(path) != keep_step and not (keep_every and step_of(path) % keep_every == 0):
            shutil.rmtree(path)


def remove_leftovers(folder: Path) -> None:
    """Delete what interrupted saves left behind; a checkpoint that was moved away for its successor comes back."""
    for path in folder.glob(".*.old"):
        final = folder / path.name[1 : -len(".old")]
        if final.exists():
            shutil.rmtree(path)
        else:
            os.replace(path, final)
    for path in folder.glob(".*.partial"):
        shutil.rmtree(path)


class CheckpointReader:
    """Reads a checkpoint, whatever number of ranks and ZeRO stage wrote it.

    Raises ValueError that names the file when it is incomplete, truncated or of another format.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state = _read_state(folder)
        self.pieces = PieceReader(folder, self.state.files, self.state.parameters)

    def weights(self, kind: str = "weight") -> Iterator[tuple[str, Tensor]]:
        """Every parameter of the model, whole, one at a time. kind: "weight" or "ema" (of what is trained)."""
        frozen = self.folder.parent / FROZEN
        if not (frozen / "state.json").exists():
            return self.pieces.whole(kind)
        state = json.loads((frozen / "state.json").read_text())
        return chain(self.pieces.whole(kind), PieceReader(frozen, state["files"], state["parameters"]).whole(FROZEN))

    def codec(self) -> dict[str, Tensor]:
        """The codec's state dict."""
        return self.pieces.named("codec")

    def restore(self, engine, ema: EMA) -> None:
        """Put weights, optimiser state and averages into an engine whose optimiser has done a step already."""
        for fragment in fragments(engine):
            span = fragment.name, fragment.start, fragment.stop
            fragment.weight.copy_(self.pieces.read("weight", *span))
            for kind, tensor in fragment.state.items():
                tensor.copy_(self.pieces.read(kind, *span))
            if fragment.writes:
                ema.shadow[fragment.name][1].copy_(self.pieces.read("ema", *span))
        set_optimizer_step_count(engine, self.state.optimizer_steps)
        publish_weights(engine)
        if self.state.world_size == distributed.world_size():
            mine = self.pieces.files[distributed.rank()]
            torch.set_rng_state(mine.get_tensor("rng/torch"))
            if torch.cuda.is_available() and "rng/cuda" in mine.keys():  # noqa: SIM118
                torch.cuda.set_rng_state(mine.get_tensor("rng/cuda"))


def _read_state(folder: Path) -> CheckpointState:
    path = folder / "state.json"
    if not path.is_file():
        raise ValueError(f"{folder} is not a checkpoint: it has no state.json")
    try:
        tree = json.loads(path.read_text())
        if tree["format"] != FORMAT:
            raise ValueError(f"{path} has format {tree['format']!r}, this version reads {FORMAT!r}")
        return CheckpointState(**(tree | {"progress": Progress(**tree["progress"])}))
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is damaged ({error!r}); resume from an older checkpoint") from error
