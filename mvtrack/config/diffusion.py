"""Discrete diffusion with v-prediction, as Stable Diffusion 2.1 and Hunyuan-DiT are trained."""

from typing import Literal

from mvtrack.config.checked import Count, Positive, config

NUM_DIFFUSION_STEPS = 1000


@config
class DiffusionConfig:
    """A schedule of 1000 noise levels and how it is sampled; the defaults train CAT3D on SD2.1 (CAMEO).

    beta_start, beta_end: of scaled linear betas (Hunyuan-DiT: 0.00085 to 0.03, from version 1.2 on 0.018). snr_divisor:
    divides the signal-to-noise ratio of every single step, (1 - beta) / beta, or the cumulative one by so much.
    zero_terminal_snr: the last level is pure noise. spacing: sampling starts at it (`trailing`), or below it, as the
    released pipelines do (`leading`, offset 1). guidance: scale of guidance by the camera, 1 is none.
    """

    beta_start: Positive = 0.00085
    beta_end: Positive = 0.012
    snr_rescale: Literal["none", "per_step", "cumulative"] = "per_step"
    snr_divisor: Positive = 2.0
    zero_terminal_snr: bool = True
    spacing: Literal["trailing", "leading"] = "trailing"
    steps: Count = 50
    guidance: float = 2.0

    def __post_init__(self) -> None:
        if not self.beta_start < self.beta_end < 1:
            raise ValueError(
                f"betas must rise below 1, got beta_start {self.beta_start:g} and beta_end {self.beta_end:g}"
            )
        self.check_steps(self.steps)

    def check_steps(self, steps: int) -> None:
        """Raise ValueError for a number of sampling steps that does not walk the levels evenly down to the data."""
        if not 1 <= steps <= NUM_DIFFUSION_STEPS:
            raise ValueError(f"steps must lie in [1, {NUM_DIFFUSION_STEPS}], got {steps}")
        if self.spacing == "trailing" and NUM_DIFFUSION_STEPS % steps:
            near = min((n for n in range(1, 1001) if NUM_DIFFUSION_STEPS % n == 0), key=lambda n: abs(n - steps))
            raise ValueError(
                f"steps {steps} does not divide {NUM_DIFFUSION_STEPS}, so its levels are unevenly spaced: take {near}, "
                "or spacing: leading"
            )
