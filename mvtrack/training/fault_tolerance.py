"""What a run does when things go wrong: values that are not finite, signals, and ranks that stop answering."""

import signal
from dataclasses import dataclass

import torch
from torch import Tensor

from mvtrack.config.training import TrainingConfig
from mvtrack.training import distributed

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class StopRequest:
    """Turns SIGTERM, SIGUSR1 (SLURM's warning) and Ctrl-C into a wish to save and stop.

    A second signal is obeyed at once.
    """

    def __init__(self) -> None:
        self.name: str | None = None
        self._before = {s: signal.signal(s, self._note) for s in SIGNALS}

    def _note(self, number: int, frame) -> None:
        if self.name is not None:
            self.release()
            raise KeyboardInterrupt
        self.name = signal.Signals(number).name

    def release(self) -> None:
        """Give the signals their former handlers back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def on_any_rank(self) -> bool:
        """Whether any rank was asked to stop. Collective."""
        return distributed.any_rank(self.name is not None)


@dataclass
class FiniteGuard:
    """Sees to it that no update with a value that is not finite is applied, on any rank, and that all ranks agree."""

    config: TrainingConfig
    skipped: int = 0
    _bad_loss: bool = False

    def check_loss(self, parts: dict[str, Tensor], step: int, keys: tuple[str, ...]) -> Tensor:
        """The total to propagate. Stops every rank, or poisons the step on every rank so that it will be skipped."""
        bad = [name for name, value in parts.items() if not torch.isfinite(value)]
        if distributed.any_rank(bool(bad)):
            mine = f"{', '.join(bad)} on clips {', '.join(keys)}" if bad else "on another rank"
            self._stop_or_count(f"the loss is not finite at step {step}: {mine}", counts=False)
            self._bad_loss = True
            return parts["total"] * float("nan")
        return parts["total"]

    def step(self, engine, step: int, keys: tuple[str, ...]) -> bool:
        """Apply the update unless a gradient is not finite; returns whether it was applied. Call at the boundary."""
        applied = self._step_plain(engine) if _is_plain(engine) else self._step_zero(engine)
        if not applied:
            what = "a loss" if self._bad_loss else "a gradient"
            self._bad_loss = False
            self._stop_or_count(f"{what} is not finite at step {step}, clips {', '.join(keys)} on this rank")
        return applied

    def _step_plain(self, engine) -> bool:
        gradients = [p.grad for p in engine.module.parameters() if p.grad is not None]
        if torch.isfinite(torch.nn.utils.get_total_norm(gradients)):
            engine.step()
            return True
        # Gradients are the same on every rank by now. DeepSpeed must count the step, so only the update is left out.
        torch._foreach_zero_(gradients)
        engine.optimizer.step = lambda: None
        try:
            engine.step()
        finally:
            del engine.optimizer.step
        return False

    def _step_zero(self, engine) -> bool:
        engine.optimizer.check_grad_overflow = True  # DeepSpeed then leaves the update out, on all ranks alike
        engine.step()
        return not engine.optimizer.overflow

    def _stop_or_count(self, message: str, counts: bool = True) -> None:
        if self.config.train.on_nonfinite == "stop":
            raise ValueError(
                f"{message}; the weights were not touched. Lower optim.lr, or set train.on_nonfinite: skip"
            )
        self.skipped += counts
        if self.skipped > self.config.train.max_skipped:
            limit = self.config.train.max_skipped
            raise ValueError(f"{message}; more than train.max_skipped = {limit} updates were skipped")


def _is_plain(engine) -> bool:
    """Stage 0 in float32: the optimiser is used as it is, without a DeepSpeed wrapper."""
    return not hasattr(engine.optimizer, "overflow")


def explain_hang(error: RuntimeError, heartbeats: str, timeout_s: int) -> ValueError | None:
    """A clear error for a collective that timed out or lost its partner; None for any other error."""
    text = str(error).lower()
    if any(word in text for word in ("timed out", "timeout", "connection closed by peer", "connection reset")):
        return ValueError(
            f"a rank stopped answering (train.timeout_s = {timeout_s}): {heartbeats or 'no rank reported a step'}. "
            f"Look at that rank's log; resume with --resume auto"
        )
    return None
