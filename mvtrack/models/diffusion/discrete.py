"""Discrete diffusion: noise schedule, training draw and target, DDIM over the views of a scene.

x_t = sqrt(a_t) x0 + sqrt(1 - a_t) noise and v = sqrt(a_t) noise - sqrt(1 - a_t) x0, a the cumulative alphas of 1000
levels. Schedule and steps are diffusers' `DDIMScheduler`; ours are the rescaled betas it is given and the order of a
step on views (CAMEO's pipeline).
"""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mvtrack.config.diffusion import NUM_DIFFUSION_STEPS, DiffusionConfig
from mvtrack.models.diffusers_parts import diffusers_class

if TYPE_CHECKING:
    from diffusers import DDIMScheduler


def betas(config: DiffusionConfig) -> Float[Tensor, "1000"]:
    """Scaled linear betas after the SNR's rescale, before that to a zero terminal SNR, which the scheduler does."""
    roots = torch.linspace(config.beta_start**0.5, config.beta_end**0.5, NUM_DIFFUSION_STEPS)
    beta, divisor = roots**2, config.snr_divisor
    if config.snr_rescale == "per_step":
        beta = divisor * beta / (1 + (divisor - 1) * beta)
    elif config.snr_rescale == "cumulative":
        alpha = (1 - beta).cumprod(0)
        alpha = alpha / (alpha + divisor * (1 - alpha))
        beta = 1 - alpha / torch.cat([alpha.new_ones(1), alpha[:-1]])
    return beta


def ddim_scheduler(config: DiffusionConfig) -> "DDIMScheduler":
    """diffusers' scheduler of this schedule. Raises ValueError where diffusers is not installed."""
    return diffusers_class("DDIMScheduler")(
        num_train_timesteps=NUM_DIFFUSION_STEPS,
        trained_betas=betas(config).tolist(),
        rescale_betas_zero_snr=config.zero_terminal_snr,
        prediction_type="v_prediction",
        timestep_spacing=config.spacing,
        steps_offset=1,
        clip_sample=False,
        set_alpha_to_one=False,
    )


def draw_timestep(generator: torch.Generator, batch: int) -> Int[Tensor, "B"]:
    """Training levels, one per scene, uniform over all 1000: pure noise included."""
    return torch.randint(NUM_DIFFUSION_STEPS, (batch,), generator=generator)


def ddim_steps(
    velocity: Callable[[Tensor, Int[Tensor, "B"]], Tensor], noise: Float[Tensor, "B *n"], config: DiffusionConfig,
    steps: int | None = None, with_references: Callable[[Tensor], Tensor] = lambda x: x,
) -> Iterator[Float[Tensor, "B *n"]]:  # fmt: skip
    """From noise to a sample without further noise; yields the state after every step (the last one is the sample).

    velocity: v at (x, timesteps), guided already. with_references: puts the clean references in their places: before
    the first step, and after every step, which is made on all views. Raises ValueError for a number of steps that the
    spacing cannot take.
    """
    steps = steps or config.steps
    config.check_steps(steps)
    scheduler = ddim_scheduler(config)
    scheduler.set_timesteps(steps, device=noise.device)
    x = with_references(noise)
    for t in scheduler.timesteps:
        v = velocity(x, t.expand(len(x)))
        x = with_references(scheduler.step(v, t, x, eta=0.0).prev_sample)
        yield x
