"""Few-step distillation: a student makes in one step what a frozen teacher, guided, makes in several.

The noise levels of the student's sampling, 1 first and the closing 0 last, cut the path from noise to data into
segments. The teacher walks a segment in Euler steps at its own levels between; the student predicts, at the segment's
start, the straight way to where the teacher arrives. With one teacher's step to a segment guidance alone is distilled.
A regression on the teacher's own map (as in progressive distillation, Salimans & Ho 2022, of any ratio at once): it has
no critic, and no further copy of weights that trains.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mvtrack.config.run import RunConfig
from mvtrack.data.loader import Batch
from mvtrack.inference.guidance import guided
from mvtrack.models.backbone import DiTOutput, Tap
from mvtrack.models.conditioning import Conditioning
from mvtrack.models.diffusion.flow import x0_from_velocity
from mvtrack.models.diffusion.process import process_of
from mvtrack.training.losses.base import TrainingBatch


@dataclass(frozen=True)
class Teacher:
    """network: frozen, where the batches are. guidance: by which it is sampled; negative_text: what that steers away
    from, where it is not 1."""

    network: Callable[..., DiTOutput]
    guidance: float = 1.0
    negative_text: Float[Tensor, "L t"] | None = None


class DistillationLoss:
    """Squared error of the target views' prediction (velocity or clean latents) at the start of a segment; all segments
    count alike. teacher: to be set before the first step, see `open_teacher`."""

    name = "distillation"
    tap_layers = ()
    seed_offset = 7
    sees_pictures = False

    def __init__(self, config: RunConfig) -> None:
        self.weight, self.flow = config.loss.distillation, config.model.flow
        self.process, self.options = process_of(config.model), config.loss.distillation_options
        self.teacher: Teacher | None = None

    @cached_property
    def levels(self) -> Float[Tensor, "steps levels"]:
        """The teacher's noise levels in every segment, its two ends the student's to the bit."""
        student, teacher = (
            torch.cat([self.process.sampling_levels(steps), torch.zeros(1)])
            for steps in (self.options.steps, self.options.teacher_steps)
        )
        count = self.options.teacher_steps // self.options.steps
        levels = teacher.unfold(0, count + 1, count).clone()
        levels[:, 0], levels[:, -1] = student[:-1], student[1:]
        return levels

    def targets(self, batch: Batch, seeds: list[int]) -> Int[Tensor, "B"]:
        """The segment of each sample, drawn by its seed; `taught` replaces it by what the student is to predict."""
        draws = (torch.randint(self.options.steps, (), generator=torch.Generator().manual_seed(seed)) for seed in seeds)
        return torch.stack(list(draws))

    def starts(self, segments: Int[Tensor, "B"]) -> Float[Tensor, "B"]:
        """Noise levels at which segments start."""
        return self.levels[segments, 0]

    @torch.no_grad()
    def taught(self, batch: TrainingBatch, noisy: Float[Tensor, "B V f c h w"]) -> TrainingBatch:
        """The batch with what the student is to predict in its target views. noisy: at the segments' starts, the
        reference clean. Called before the student's pass, so that the teacher's memory is free again then."""
        teacher, levels = self.teacher, self.levels[batch.targets[self.name].cpu()].to(noisy.device)  # (B, n + 1)
        assert teacher is not None, "the objective has no teacher yet: open_teacher gives one"
        conditioning = batch.conditioning
        if teacher.negative_text is not None:
            negative = teacher.negative_text.to(noisy.device).expand(len(noisy), -1, -1)
            conditioning = conditioning._replace(negative_text=negative)

        def velocity(x: Tensor, level: Float[Tensor, "B"], conditioning: Conditioning) -> Tensor:
            seen = torch.cat([noisy[:, :1], x], 1)
            output = teacher.network(seen, self.process.timestep(level), conditioning, ())
            return self.process.velocity(output.prediction[:, 1:].to(x.dtype), x, level)

        step, start = guided(velocity, conditioning, teacher.guidance), noisy[:, 1:]
        end = start
        for now, then in zip(levels[:, :-1].unbind(1), levels[:, 1:].unbind(1), strict=True):
            end = end + _per_sample(then - now, end) * step(end, now)
        way = (end - start) / _per_sample(levels[:, -1] - levels[:, 0], end)
        wanted = x0_from_velocity(way, start, levels[:, 0]) if self.flow.prediction == "x0" else way
        return replace(batch, targets=batch.targets | {self.name: wanted})

    def __call__(
        self, network: Callable[..., DiTOutput], batch: TrainingBatch, output: DiTOutput, taps: dict[int, Tap]
    ) -> dict[str, Float[Tensor, ""]]:
        predicted = output.prediction[:, 1:]
        wanted = batch.targets[self.name]
        return {self.name: (predicted.to(wanted.dtype) - wanted).square().mean()}


def _per_sample(values: Float[Tensor, "B"], like: Tensor) -> Tensor:
    return values.view(-1, *[1] * (like.ndim - 1))
