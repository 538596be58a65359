"""A step cache (TeaCache, Liu et al., CVPR 2025): while what goes into the blocks has hardly changed since they last
ran, what they added to it then is added again, and they do not run."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

_COMPARED = 4096  # tokens whose change stands for that of all


class Pass(NamedTuple):
    """One step whose blocks ran: relative changes since the step before of what went in, and of what they added."""

    input: float
    output: float


@dataclass
class _Branch:
    """Of one prediction (guidance has two): the compared input, the change since the blocks ran, what they added."""

    step: int = -1
    input: Tensor | None = None
    change: float = 0.0
    added: Tensor | None = None
    idle: int = 0


class StepCache:
    """For one sampling. Set as `WanDiT.step_cache`; whoever samples names the branch before each pass.

    threshold: the summed change of the output, foretold by `fit` from changes of the input, at which the blocks run
    again; 0: they always do. steps: of the sampling; blocks run in the first and the last one. fit: polynomial from the
    input's relative L1 change to the output's, highest power first (`mvtrack calibrate`). record: keep `passes`.
    """

    def __init__(self, threshold: float, steps: int, fit: tuple[float, ...] = (1.0, 0.0), record: bool = False) -> None:
        self.threshold, self.steps, self.fit, self.record = threshold, steps, fit, record
        self.passes: list[Pass] = []
        self.asked = self.reused = 0
        self._branches: dict[int, _Branch] = {}
        self._now = _Branch()
        self._input_change = 0.0

    def branch(self, key: int) -> None:
        """The next pass is one of this branch, a step further."""
        self._now = self._branches.setdefault(key, _Branch())
        self._now.step += 1

    def reuse(self, x: Float[Tensor, "B N D"], time: Float[Tensor, "B 6 D"]) -> Float[Tensor, "B N D"] | None:
        """What the blocks added when they last ran, if that will do; x: their input, time: its modulation.

        Raises ValueError for a threshold at which they rest for more than a third of all steps in a row.
        """
        now, stride = self._now, -(-x.shape[1] // _COMPARED)
        shift, scale = time.float().chunk(6, 1)[:2]
        compared = F.layer_norm(x[:, ::stride].float(), x.shape[-1:]) * (1 + scale) + shift
        before, now.input = now.input, compared
        self.asked += 1
        if before is None or now.added is None:
            return None
        self._input_change = relative_change(compared, before)
        now.change += max(evaluate(self.fit, self._input_change), 0.0)
        if now.step == self.steps - 1 or now.change >= self.threshold:
            return None
        now.idle += 1
        if now.idle > max(3, self.steps // 3):
            raise ValueError(
                f"with the step cache at {self.threshold:g} the network rests for {now.idle} of {self.steps} steps in "
                "a row: lower --cache, or fit it to the model by `mvtrack calibrate`"
            )
        self.reused += 1
        return now.added

    def keep(self, added: Float[Tensor, "B N D"]) -> None:
        """What the blocks have added, as they did run."""
        now = self._now
        if self.record and now.added is not None:
            self.passes.append(Pass(self._input_change, relative_change(added, now.added)))
        now.added, now.change, now.idle = added, 0.0, 0


def relative_change(x: Tensor, before: Tensor) -> float:
    """Relative L1 distance."""
    return ((x - before).abs().mean(dtype=torch.float32) / before.abs().mean(dtype=torch.float32)).item()


def evaluate(fit: tuple[float, ...], x: float) -> float:
    """A polynomial, highest power first."""
    value = 0.0
    for coefficient in fit:
        value = value * x + coefficient
    return value
