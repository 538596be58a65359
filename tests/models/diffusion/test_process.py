"""Both diffusion processes behind their one interface."""

import pytest
import torch

from mvtrack.config.diffusion import DiffusionConfig
from mvtrack.config.model import FlowConfig
from mvtrack.models.diffusion.flow import euler_steps, sampling_sigmas
from mvtrack.models.diffusion.process import DiscreteDiffusion, RectifiedFlow


@pytest.fixture(scope="module")
def golden(golden_numbers):
    return {k: torch.from_numpy(v) for k, v in golden_numbers("cat3d_schedule").items() if k != "config"}


def test_levels_carry_every_timestep_exactly():
    every = torch.arange(1000)
    assert torch.equal(DiscreteDiffusion(DiffusionConfig()).timestep(every / 1000), every)


def test_golden_noise_and_target_by_level(golden):
    process, level = DiscreteDiffusion(DiffusionConfig()), golden["t"] / 1000
    close = {"atol": 2e-6, "rtol": 0}
    torch.testing.assert_close(process.add_noise(golden["x0"], golden["noise"], level), golden["noisy"], **close)
    torch.testing.assert_close(process.target(golden["x0"], golden["noise"], level), golden["velocity"], **close)
    assert process.weight(level) is None


def test_golden_sample_and_its_levels(golden):
    process = DiscreteDiffusion(DiffusionConfig(spacing="leading"))
    assert torch.equal(process.timestep(process.sampling_levels(50)), golden["timesteps50"])

    def velocity(x, level):
        t = process.timestep(level)
        return torch.sin(3 * x) * torch.cos(t.view(-1, *[1] * (x.ndim - 1)) / 300)

    *_, sample = process.sample(velocity, golden["noise"], 4)
    torch.testing.assert_close(sample, golden["sampled4"], atol=2e-5, rtol=0)


def test_all_timesteps_are_drawn_pure_noise_included():
    process, generator = DiscreteDiffusion(DiffusionConfig()), torch.Generator().manual_seed(3)
    drawn = process.timestep(torch.stack([process.draw(generator) for _ in range(20_000)]))
    assert len(drawn.unique()) == 1000  # misses one of them once in 500,000 seeds


@pytest.mark.parametrize("prediction", ["x0", "velocity"])
def test_a_perfect_flow_arrives_at_the_data(generator, prediction):
    process = RectifiedFlow(FlowConfig(shift=3.0, prediction=prediction, weighting="none"))
    x0, noise = torch.randn(2, 3, 5, generator=generator), torch.randn(2, 3, 5, generator=generator)

    def velocity(x, level):
        return process.velocity(process.target(x0, noise, level), x, level)

    *_, sample = process.sample(velocity, noise, 5)
    torch.testing.assert_close(sample, x0, atol=1e-5, rtol=0)
    torch.testing.assert_close(process.sampling_levels(5), sampling_sigmas(5, 3.0)[:-1])
    assert torch.equal(sample, list(euler_steps(velocity, noise, 5, 3.0))[-1])
