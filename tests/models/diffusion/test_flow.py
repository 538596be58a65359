import numpy as np
import pytest
import torch

from mvtrack.config.model import FlowConfig
from mvtrack.models.diffusion.flow import (
    add_noise,
    draw_sigma,
    euler_steps,
    sampling_sigmas,
    training_sigmas,
    training_weight,
    velocity_from_x0,
    x0_from_velocity,
)


@pytest.fixture
def golden(golden_numbers):
    return golden_numbers("scheduler")


def test_golden_noise_levels_and_weights(golden):
    np.testing.assert_allclose(training_sigmas(5.0), golden["train_sigmas"], atol=1e-6)
    np.testing.assert_allclose(1000 * training_sigmas(5.0), golden["train_timesteps"], atol=1e-3)
    np.testing.assert_allclose(
        training_weight(training_sigmas(5.0), FlowConfig(shift=5.0)), golden["train_weights"], atol=1e-5
    )
    for name, steps, shift in (("infer50_shift5", 50, 5.0), ("infer7_shift5", 7, 5.0), ("infer20_shift3", 20, 3.0)):
        ours = sampling_sigmas(steps, shift)
        assert ours[-1] == 0
        np.testing.assert_allclose(ours[:-1], golden[f"{name}_sigmas"], atol=1e-6)


def test_golden_noising_with_one_sigma_per_sample(golden):
    x0, noise = torch.from_numpy(golden["ex_x0"]), torch.from_numpy(golden["ex_noise"])
    sigma = torch.from_numpy(golden["ex_timestep"]) / 1000
    noisy = add_noise(x0, noise, sigma)
    torch.testing.assert_close(noisy, torch.from_numpy(golden["ex_noisy"]), atol=1e-6, rtol=0)
    torch.testing.assert_close(noise - x0, torch.from_numpy(golden["ex_target"]))
    np.testing.assert_allclose(training_weight(sigma, FlowConfig(shift=5.0)), golden["ex_weight"], atol=1e-5)


def test_golden_euler_run(golden):
    velocities = iter(torch.from_numpy(golden["euler7_velocity"]))
    states = list(euler_steps(lambda x, s: next(velocities), torch.from_numpy(golden["euler7_start"]), 7, 5.0))
    for ours, theirs in zip(states, golden["euler7_states"][1:], strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_exact_velocity_recovers_sample(generator):
    x0, noise = torch.randn(2, 3, 5, 7, generator=generator)
    for steps in (1, 5):
        *_, end = euler_steps(lambda x, s: noise - x0, noise, steps, 5.0)
        torch.testing.assert_close(end, x0, atol=1e-5, rtol=0)


def test_x0_and_velocity_convert_both_ways(generator):
    x0, noise = torch.randn(2, 5, 3, 2, generator=generator)
    sigma = torch.tensor([0.9, 0.5, 0.2, 0.05, 1.0])
    noisy = add_noise(x0, noise, sigma)
    torch.testing.assert_close(velocity_from_x0(x0, noisy, sigma), noise - x0, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(x0_from_velocity(noise - x0, noisy, sigma), x0)


@pytest.mark.parametrize("sampling", ["shifted", "uniform", "logit_normal"])
def test_training_weight_has_mean_one_over_draws(sampling):
    """Whatever is drawn: with the shifted levels' divisor uniform draws had a mean of 1.32."""
    g = torch.Generator().manual_seed(1)
    config = FlowConfig(shift=5.0, timestep_sampling=sampling)
    sigma = torch.stack([draw_sigma(config, g) for _ in range(4000)])
    weight = training_weight(sigma, config)
    assert weight.min() >= 0
    assert weight.mean().item() == pytest.approx(1, abs=4 * weight.std().item() / 4000**0.5)  # four standard errors
    ends = training_weight(torch.tensor([0.0, 0.5, 1.0]), config)
    assert ends[0] == ends[2] == 0
    assert ends[1] >= weight.max()


@pytest.mark.parametrize(
    ("sampling", "low", "high"), [("shifted", 0.72, 0.83), ("uniform", 0.44, 0.56), ("logit_normal", 0.44, 0.56)]
)
def test_sigma_draws_follow_schedule(sampling, low, high):
    """Median noise level of each distribution: shift 5 puts it at 5 * 0.5 / 3 = 0.83; here shift 3 gives 0.75."""
    g = torch.Generator().manual_seed(0)
    config = FlowConfig(shift=3.0, timestep_sampling=sampling)
    sigma = torch.stack([draw_sigma(config, g) for _ in range(800)])
    assert low < sigma.median() < high
    assert sigma.min() >= 0
    assert sigma.max() <= 1


def test_zero_steps_raise():
    with pytest.raises(ValueError, match="at least 1, got 0"):
        sampling_sigmas(0, 5.0)
