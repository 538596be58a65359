"""Rectified flow: noise schedule, training draw and weights, conversion between outputs, Euler sampling.

Conventions of DiffSynth's "Wan" scheduler (method §2): x = (1 - sigma) x0 + sigma noise, velocity = noise - x0,
timestep = 1000 sigma. Everything is float32 or wider; sigma is one value per sample.
"""

import math
from collections.abc import Callable, Iterator

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mvtrack.config.model import FlowConfig

NUM_TRAIN_STEPS = 1000


def shifted(s: Float[Tensor, "*b"], shift: float) -> Float[Tensor, "*b"]:
    """Move uniform times s in [0, 1] towards noise: shift s / (1 + (shift - 1) s)."""
    return shift * s / (1 + (shift - 1) * s)


def sampling_sigmas(steps: int, shift: float) -> Float[Tensor, "levels"]:
    """Descending noise levels of a sampling run, 1 first, a closing 0 last."""
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    return shifted(torch.linspace(1, 0, steps + 1, dtype=torch.float64), shift).float()


def training_sigmas(shift: float) -> Float[Tensor, "1000"]:
    """The 1000 noise levels that training draws from, descending from 1."""
    return shifted(torch.linspace(1, 0, NUM_TRAIN_STEPS + 1, dtype=torch.float64)[:-1], shift).float()


def drawn_sigmas(config: FlowConfig) -> Float[Tensor, "1000"]:
    """1000 noise levels that are as likely as each other in training: for `shifted` the very ones that are drawn."""
    if config.timestep_sampling == "shifted":
        return training_sigmas(config.shift)
    share = (torch.arange(NUM_TRAIN_STEPS, dtype=torch.float64) + 0.5) / NUM_TRAIN_STEPS
    return (share if config.timestep_sampling == "uniform" else torch.special.ndtri(share).sigmoid()).float()


def training_weight(sigma: Float[Tensor, "B"], config: FlowConfig) -> Float[Tensor, "B"]:
    """Wan's loss weight: a bell around sigma = 0.5, shifted to 0 at sigma = 1, with mean 1 over what training draws."""

    def bell(s: Tensor) -> Tensor:
        return (torch.exp(-2 * (s.double() - 0.5) ** 2) - math.exp(-0.5)).clamp_min(0)

    return (bell(sigma) / bell(drawn_sigmas(config).to(sigma.device)).mean()).float()


def draw_sigma(config: FlowConfig, generator: torch.Generator) -> Float[Tensor, ""]:
    """One training noise level."""
    if config.timestep_sampling == "shifted":
        index = torch.randint(NUM_TRAIN_STEPS, (), generator=generator)
        return training_sigmas(config.shift)[index]
    if config.timestep_sampling == "uniform":
        return torch.rand((), generator=generator)
    return torch.randn((), generator=generator).sigmoid()


def add_noise(
    x0: Float[Tensor, "B *n"], noise: Float[Tensor, "B *n"], sigma: Float[Tensor, "B"]
) -> Float[Tensor, "B *n"]:
    """x_sigma of every sample."""
    s = _broadcast(sigma, x0)
    return (1 - s) * x0 + s * noise


def keep_references(
    clean: Float[Tensor, "B V f c h w"], noisy: Float[Tensor, "B V f c h w"], reference: Bool[Tensor, "B V f"] | None
) -> Float[Tensor, "B V f c h w"]:
    """Noisy latents with the references' clean ones in their places; None: the first view is the reference."""
    if reference is None:
        return torch.cat([clean[:, :1], noisy[:, 1:]], 1)
    return torch.where(reference[..., None, None, None], clean, noisy)


def velocity_from_x0(x0: Tensor, noisy: Tensor, sigma: Float[Tensor, "B"]) -> Tensor:
    """The velocity at x_sigma that leads to x0. sigma is kept from 0, where the velocity is undefined."""
    return (noisy - x0) / _broadcast(sigma.clamp_min(1e-3), noisy)


def x0_from_velocity(velocity: Tensor, noisy: Tensor, sigma: Float[Tensor, "B"]) -> Tensor:
    """The clean sample that a velocity at x_sigma points to."""
    return noisy - _broadcast(sigma, noisy) * velocity


def _broadcast(sigma: Tensor, like: Tensor) -> Tensor:
    return sigma.to(like.device).view(-1, *[1] * (like.ndim - 1))


def euler_steps(
    velocity: Callable[[Tensor, Float[Tensor, "B"]], Tensor], noise: Float[Tensor, "B *n"], steps: int, shift: float
) -> Iterator[Float[Tensor, "B *n"]]:
    """Integrate from pure noise to a sample; yields the state after every step (the last one is the sample)."""
    x = noise
    sigmas = sampling_sigmas(steps, shift).to(noise.device)
    for now, then in zip(sigmas[:-1], sigmas[1:], strict=True):
        x = x + (then - now) * velocity(x, now.expand(x.shape[0]))
        yield x
