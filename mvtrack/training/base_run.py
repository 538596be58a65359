"""What the loop needs of a run, whatever it trains."""

import contextlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mvtrack.config.training import TrainingConfig
from mvtrack.data.loader import StepDataset
from mvtrack.models.pca_codec import VideoCodec
from mvtrack.training.checkpoint import Progress
from mvtrack.training.ema import EMA
from mvtrack.training.fault_tolerance import FiniteGuard
from mvtrack.training.run_dir import Heartbeat
from mvtrack.training.run_log import RunLog
from mvtrack.training.validation import ValidationReport


@dataclass(kw_only=True)
class BaseRun(ABC):
    """Everything that lives from the first to the last step of a process. log: of rank 0 only."""

    config: TrainingConfig
    dataset: StepDataset
    engine: Any
    codec: VideoCodec
    ema: EMA
    guard: FiniteGuard
    heartbeat: Heartbeat
    log: RunLog | None
    progress: Progress

    @property
    def folder(self) -> Path:
        return Path(self.config.train.run_dir)

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    def autocast(self):
        """The context in which losses are computed."""
        if self.config.train.precision == "autocast_bf16":
            return torch.autocast(self.engine.device.type, torch.bfloat16)
        return contextlib.nullcontext()

    @abstractmethod
    def losses(self, batch) -> tuple[dict[str, Tensor], int]:
        """Loss parts of a micro-batch with their `total`, and the tokens of one of its samples."""

    @abstractmethod
    def flops(self, tokens: int) -> float:
        """Of a training step's work on one sample."""

    @abstractmethod
    def validate(self) -> ValidationReport:
        """Score the weights that are in the engine. Collective."""

    @abstractmethod
    def export(self, checkpoint: Path) -> None:
        """Write what a checkpoint's averaged weights are good for where users find it."""

    def prune(self) -> None:  # noqa: B027  (most have nothing to delete)
        """Delete data that no later step asks for."""

    def materialise_optimizer(self) -> None:
        """Do one step at learning rate zero: the optimiser then has state tensors that a checkpoint can be put into."""
        groups = self.engine.optimizer.param_groups
        rates = [group["lr"] for group in groups]
        for group in groups:
            group["lr"] = 0.0
        for batch in self.dataset[self.progress.step]:
            parts, _ = self.losses(batch)
            self.engine.backward(parts["total"])
            self.engine.step()
        for group, rate in zip(groups, rates, strict=True):
            group["lr"] = rate
