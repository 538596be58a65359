"""Discrete diffusion against the numbers of CAMEO's schedule, and what has to hold of any."""

import pytest
import torch

from mvtrack.config.diffusion import DiffusionConfig
from mvtrack.models import diffusers_parts
from mvtrack.models.diffusion.discrete import ddim_scheduler, ddim_steps, draw_timestep

SD21 = DiffusionConfig(snr_rescale="none", zero_terminal_snr=False)
SCHEDULES = {
    "sd21": SD21,
    "zero_snr": DiffusionConfig(snr_rescale="none"),
    "cameo": DiffusionConfig(),
    "snr_rescale2": DiffusionConfig(snr_rescale="cumulative"),
}


@pytest.fixture(scope="module")
def golden(golden_numbers):
    return {k: torch.from_numpy(v) for k, v in golden_numbers("cat3d_schedule").items() if k != "config"}


def wave(x, t):
    """The model that the goldens were sampled with."""
    return torch.sin(3 * x) * torch.cos(t.view(-1, *[1] * (x.ndim - 1)) / 300)


@pytest.mark.parametrize("name", SCHEDULES)
def test_golden_schedules(golden, name):
    scheduler = ddim_scheduler(SCHEDULES[name])
    close = {"atol": 2e-6, "rtol": 0}  # a product of 1000 roundings of 6e-8 each, and then their root's
    torch.testing.assert_close(scheduler.alphas_cumprod, golden[f"{name}.alphas_cumprod"], **close)
    # The last betas are one minus a quotient of numbers that are nearly zero.
    torch.testing.assert_close(scheduler.betas, golden[f"{name}.betas"], atol=2e-5, rtol=0)
    torch.testing.assert_close(scheduler.final_alpha_cumprod, golden[f"{name}.final_alpha_cumprod"][0], **close)
    others = [golden[f"{other}.alphas_cumprod"] for other in SCHEDULES if other != name]
    assert min((scheduler.alphas_cumprod - other).abs().max() for other in others) > 1e-3


def test_golden_noising_and_target(golden):
    scheduler, given = ddim_scheduler(DiffusionConfig()), (golden["x0"], golden["noise"], golden["t"])
    noisy, velocity = scheduler.add_noise(*given), scheduler.get_velocity(*given)
    torch.testing.assert_close(noisy, golden["noisy"], atol=2e-6, rtol=0)
    torch.testing.assert_close(velocity, golden["velocity"], atol=2e-6, rtol=0)
    assert golden["t"][-1] == 999
    torch.testing.assert_close(noisy[-1], golden["noise"][-1])
    torch.testing.assert_close(velocity[-1], -golden["x0"][-1])


@pytest.mark.parametrize("steps", [50, 4])
def test_golden_sampling(golden, steps):
    config = DiffusionConfig(spacing="leading")
    seen = []

    def velocity(x, t):
        seen.append(int(t[0]))
        return wave(x, t)

    *_, last = ddim_steps(velocity, golden["noise"], config, steps)
    assert seen == golden[f"timesteps{steps}"].tolist()
    torch.testing.assert_close(last, golden[f"sampled{steps}"], atol=2e-5, rtol=0)
    *_, trailing = ddim_steps(wave, golden["noise"], DiffusionConfig(), steps)
    assert (trailing - last).abs().max() > 1e-3


def test_trailing_spacing_starts_at_pure_noise_and_stays_finite(golden):
    seen = []

    def velocity(x, t):
        seen.append(int(t[0]))
        return wave(x, t)

    states = list(ddim_steps(velocity, golden["noise"], DiffusionConfig(), 5))
    assert seen == [999, 799, 599, 399, 199]
    assert all(state.isfinite().all() for state in states)


def test_true_velocity_leads_to_the_data(golden):
    """With the velocity of known data, every step stays on their path, from pure noise too."""
    x0, noise, scheduler = golden["x0"], golden["noise"], ddim_scheduler(DiffusionConfig())
    steps = ddim_steps(lambda _x, t: scheduler.get_velocity(x0, noise, t), noise, DiffusionConfig(), 8)
    for state, t in zip(steps, [874, 749, 624, 499, 374, 249, 124, 0], strict=True):
        torch.testing.assert_close(state, scheduler.add_noise(x0, noise, torch.full((4,), t)), atol=1e-5, rtol=0)


def test_references_are_put_back_after_a_step_on_all_views(golden):
    noise, clean = golden["noise"], golden["x0"][:, :1]
    states = []

    def velocity(x, t):
        states.append(x)
        return wave(x, t)

    found = list(ddim_steps(velocity, noise, DiffusionConfig(), 4, lambda x: torch.cat([clean, x[:, 1:]], 1)))
    assert all(torch.equal(x[:, :1], clean) for x in (*states, *found))
    alone = list(ddim_steps(wave, noise[:, 1:], DiffusionConfig(), 4))
    torch.testing.assert_close(found[-1][:, 1:], alone[-1])


def test_training_levels_are_uniform_and_reach_pure_noise(generator):
    drawn = draw_timestep(generator, 100_000)
    assert drawn.min() == 0
    assert drawn.max() == 999
    assert abs(drawn.double().mean() - 499.5) < 5  # five standard errors


def test_bad_schedules_raise(unchecked):
    with pytest.raises(
        ValueError, match="steps 30 does not divide 1000, so its levels are unevenly spaced: take 25, or"
    ):
        DiffusionConfig(steps=30)
    with pytest.raises(ValueError, match="steps must lie in"):
        list(ddim_steps(wave, torch.zeros(1, 2), DiffusionConfig(), 1001))
    assert DiffusionConfig(steps=30, spacing="leading").steps == 30
    with pytest.raises(ValueError, match="betas must rise below 1, got beta_start 0.5 and beta_end 0.012"):
        DiffusionConfig(beta_start=0.5)


def test_missing_diffusers_says_what_to_install(monkeypatch, unchecked):
    monkeypatch.setattr(diffusers_parts.importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(ValueError, match=r"DDIMScheduler needs the package diffusers: pip install -e '\.\[sd\]'"):
        ddim_scheduler(SD21)
