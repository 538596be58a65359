"""Rectified flow and discrete diffusion behind one interface: what training, probing and sampling ask of either.

A noise level is a number in [0, 1], 0 the data; a thousand times it is the network's timestep.
"""

from collections.abc import Callable, Iterator
from functools import cached_property, lru_cache
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Real
from torch import Tensor

from mvtrack.config.diffusion import NUM_DIFFUSION_STEPS, DiffusionConfig
from mvtrack.config.model import FlowConfig, ModelConfig
from mvtrack.models.diffusion import discrete, flow

Predict = Callable[[Tensor, Float[Tensor, "B"]], Tensor]  # of x and its noise level


@runtime_checkable
class DiffusionProcess(Protocol):
    """levels are one per sample, on any device; everything else lies on one."""

    def draw(self, generator: torch.Generator) -> Float[Tensor, ""]:
        """One training noise level."""

    def timestep(self, level: Float[Tensor, "B"]) -> Real[Tensor, "B"]:
        """What the network is given."""

    def add_noise(self, x0: Tensor, noise: Tensor, level: Float[Tensor, "B"]) -> Tensor:
        """x at the levels."""

    def target(self, x0: Tensor, noise: Tensor, level: Float[Tensor, "B"]) -> Tensor:
        """What the network is to predict there."""

    def weight(self, level: Float[Tensor, "B"]) -> Float[Tensor, "B"] | None:
        """Of a sample's error; None: all count alike."""

    def velocity(self, prediction: Tensor, x: Tensor, level: Float[Tensor, "B"]) -> Tensor:
        """The prediction as `sample` steps along it."""

    def sampling_levels(self, steps: int) -> Float[Tensor, "steps"]:
        """Levels at which a sampling run asks the network, descending."""

    def sample(self, velocity: Predict, noise: Tensor, steps: int) -> Iterator[Tensor]:
        """The state after every step, the last one the sample. velocity: guided already."""


class RectifiedFlow:
    """Straight paths from data to noise (method §2), integrated by Euler steps."""

    def __init__(self, config: FlowConfig) -> None:
        self.config = config

    def draw(self, generator: torch.Generator) -> Float[Tensor, ""]:
        return flow.draw_sigma(self.config, generator)

    def timestep(self, level: Float[Tensor, "B"]) -> Float[Tensor, "B"]:
        return flow.NUM_TRAIN_STEPS * level

    def add_noise(self, x0: Tensor, noise: Tensor, level: Float[Tensor, "B"]) -> Tensor:
        return flow.add_noise(x0, noise, level)

    def target(self, x0: Tensor, noise: Tensor, level: Float[Tensor, "B"]) -> Tensor:
        return x0 if self.config.prediction == "x0" else noise - x0

    def weight(self, level: Float[Tensor, "B"]) -> Float[Tensor, "B"] | None:
        return flow.training_weight(level, self.config) if self.config.weighting == "wan" else None

    def velocity(self, prediction: Tensor, x: Tensor, level: Float[Tensor, "B"]) -> Tensor:
        return flow.velocity_from_x0(prediction, x, level) if self.config.prediction == "x0" else prediction

    def sampling_levels(self, steps: int) -> Float[Tensor, "steps"]:
        return flow.sampling_sigmas(steps, self.config.shift)[:-1]

    def sample(self, velocity: Predict, noise: Tensor, steps: int) -> Iterator[Tensor]:
        return flow.euler_steps(velocity, noise, steps, self.config.shift)


class DiscreteDiffusion:
    """A thousand levels, v-prediction, DDIM. A level t is t / 1000 here; every view of x steps, references too, whose
    places their clean latents take before the network sees them (`state` of `denoise`)."""

    def __init__(self, config: DiffusionConfig) -> None:
        self.config = config

    @cached_property
    def _scheduler(self):
        return discrete.ddim_scheduler(self.config)

    def draw(self, generator: torch.Generator) -> Float[Tensor, ""]:
        return discrete.draw_timestep(generator, 1)[0] / NUM_DIFFUSION_STEPS

    def timestep(self, level: Float[Tensor, "B"]) -> Real[Tensor, "B"]:
        return (NUM_DIFFUSION_STEPS * level).round().long()

    def add_noise(self, x0: Tensor, noise: Tensor, level: Float[Tensor, "B"]) -> Tensor:
        return self._scheduler.add_noise(x0, noise, self.timestep(level).to(x0.device))

    def target(self, x0: Tensor, noise: Tensor, level: Float[Tensor, "B"]) -> Tensor:
        return self._scheduler.get_velocity(x0, noise, self.timestep(level).to(x0.device))

    def weight(self, level: Float[Tensor, "B"]) -> None:
        return None

    def velocity(self, prediction: Tensor, x: Tensor, level: Float[Tensor, "B"]) -> Tensor:
        return prediction

    def sampling_levels(self, steps: int) -> Float[Tensor, "steps"]:
        self.config.check_steps(steps)
        scheduler = discrete.ddim_scheduler(self.config)
        scheduler.set_timesteps(steps)
        return scheduler.timesteps / NUM_DIFFUSION_STEPS

    def sample(self, velocity: Predict, noise: Tensor, steps: int) -> Iterator[Tensor]:
        return discrete.ddim_steps(lambda x, t: velocity(x, t / NUM_DIFFUSION_STEPS), noise, self.config, steps)


def process_of(config: ModelConfig) -> DiffusionProcess:
    """How a model is trained and sampled."""
    return _process(config.diffusion or config.flow)


@lru_cache(maxsize=8)
def _process(config: FlowConfig | DiffusionConfig) -> DiffusionProcess:
    return DiscreteDiffusion(config) if isinstance(config, DiffusionConfig) else RectifiedFlow(config)
