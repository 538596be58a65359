"""Few-step distillation: the target against a literal walk of the teacher, what is drawn, what is learned."""

from copy import deepcopy
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from mvtrack.config.run import RunConfig
from mvtrack.config.tree import from_tree
from mvtrack.data.loader import BatchDataset
from mvtrack.models.backbone import DiTOutput
from mvtrack.models.conditioning import Conditioning
from mvtrack.training.losses.base import TrainingBatch
from mvtrack.training.losses.distillation import DistillationLoss, Teacher
from mvtrack.training.objective import Objective

B, GUIDANCE, SHIFT = 5, 3.5, 3.0


def student(small_run: dict, prediction: str = "x0", **options) -> RunConfig:
    tree = deepcopy(small_run)
    options = {"steps": 2, "teacher_steps": 6} | options
    tree["model"] |= {"sampling": {"steps": options["steps"]}}
    tree["model"]["flow"] = {"shift": SHIFT, "prediction": prediction, "weighting": "wan"}
    tree["loss"] = {"distillation": 1.0, "distillation_options": options}
    tree["train"]["init_from"] = "teacher"
    return from_tree(RunConfig, tree, "tree")


def toy(latents: Tensor, timestep: Tensor, conditioning: Conditioning, _taps: tuple = ()) -> DiTOutput:
    """A smooth prediction of everything that a network sees; the two views meet."""
    text = 0.0 if conditioning.text is None else conditioning.text.mean((1, 2)).view(-1, *[1] * 5)
    level = timestep.view(-1, *[1] * 5) / 1000
    seen = 0.3 * latents[:, :1] - latents
    return DiTOutput(torch.sin(1.7 * seen) + 0.4 * level + 0.2 * text, ())


@pytest.fixture
def batch(generator):
    """Every segment of five, in float64, with a caption."""

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    shape = (B, 2, 3, 7, 2, 5)
    conditioning = Conditioning(text=draw(B, 7, 11))
    return TrainingBatch(draw(*shape), draw(*shape), torch.zeros(B), conditioning, {"distillation": torch.arange(B)})


def noised(loss: DistillationLoss, batch: TrainingBatch) -> Tensor:
    noisy = loss.process.add_noise(batch.latents, batch.noise, loss.starts(batch.targets["distillation"]))
    return torch.cat([batch.latents[:, :1], noisy[:, 1:]], 1)


def walk(batch: TrainingBatch, noisy: Tensor, prediction: str, each: int, negative: Tensor) -> Tensor:
    """What the definition says, sample by sample (sample b is segment b), levels in Python's numbers."""
    wanted, sigma = [], [SHIFT * s / (1 + (SHIFT - 1) * s) for s in (1 - i / (each * B) for i in range(each * B + 1))]
    for b in range(B):
        x = start = noisy[b : b + 1, 1:]
        for i in range(b * each, b * each + each):
            both = []
            for text in (batch.conditioning.text[b : b + 1], negative[None]):
                seen, timestep = torch.cat([noisy[b : b + 1, :1], x], 1), torch.tensor([1000 * sigma[i]])
                made = toy(seen, timestep, Conditioning(text=text)).prediction[:, 1:]
                both.append(made if prediction == "velocity" else (x - made) / sigma[i])
            x = x + (sigma[i + 1] - sigma[i]) * (both[1] + GUIDANCE * (both[0] - both[1]))
        velocity = (x - start) / (sigma[b * each + each] - sigma[b * each])
        wanted.append(velocity if prediction == "velocity" else start - sigma[b * each] * velocity)
    return torch.cat(wanted)


@pytest.mark.parametrize("each", [1, 3])
@pytest.mark.parametrize("prediction", ["x0", "velocity"])
def test_target_is_the_guided_teachers_walk(small_run, batch, generator, prediction, each):
    """Of one teacher's step it is u + s (v - u): guidance alone is distilled."""
    loss = DistillationLoss(student(small_run, prediction, steps=B, teacher_steps=each * B))
    negative = torch.randn(7, 11, generator=generator, dtype=torch.float64)
    loss.teacher, noisy = Teacher(toy, GUIDANCE, negative), noised(loss, batch)
    target = loss.taught(batch, noisy).targets["distillation"]
    torch.testing.assert_close(target, walk(batch, noisy, prediction, each, negative), atol=2e-6, rtol=0)
    loss.teacher = Teacher(toy)
    assert (loss.taught(batch, noisy).targets["distillation"] - target).abs().max() > 0.05


@pytest.mark.parametrize("prediction", ["x0", "velocity"])
@pytest.mark.parametrize(("steps", "teacher_steps"), [(1, 7), (4, 48), (5, 35)])
def test_segments_end_at_the_students_levels_and_one_step_arrives(small_run, batch, prediction, steps, teacher_steps):
    loss = DistillationLoss(student(small_run, prediction, steps=steps, teacher_steps=teacher_steps))
    ends = torch.cat([loss.process.sampling_levels(steps), torch.zeros(1)])
    assert torch.equal(loss.levels[:, [0, -1]], torch.stack([ends[:-1], ends[1:]], 1))
    assert (loss.levels.diff(dim=1) < 0).all()
    batch = replace(batch, targets={"distillation": torch.arange(B) % steps})
    loss.teacher, noisy = Teacher(toy), noised(loss, batch)
    target, levels = loss.taught(batch, noisy).targets["distillation"], loss.levels[batch.targets["distillation"]]

    def step(x: Tensor, made: Tensor, now: Tensor, then: Tensor) -> Tensor:
        return x + (then - now).view(B, 1, 1, 1, 1, 1) * loss.process.velocity(made, x, now)

    arrived, levels = noisy[:, 1:], levels.unbind(1)
    for now, then in pairwise(levels):
        seen = torch.cat([batch.latents[:, :1], arrived], 1)  # the reference stays clean
        arrived = step(arrived, toy(seen, 1000 * now, batch.conditioning).prediction[:, 1:], now, then)
    made = step(noisy[:, 1:], target, levels[0], levels[-1])
    torch.testing.assert_close(made, arrived, atol=1e-6, rtol=0)


@pytest.fixture
def rendered(small_run, small_model):
    config = student(small_run)
    network = deepcopy(small_model.dit)
    network.head.head.weight.data *= 10  # from scratch it says next to nothing
    return config, network, BatchDataset(config.data, 0, 4, 4)


@pytest.mark.parametrize("prediction", ["x0", "velocity"])
def test_a_student_that_is_its_teacher_has_nothing_to_learn(small_run, rendered, small_model, prediction):
    _, network, dataset = rendered
    objective = Objective(student(small_run, prediction, steps=3, teacher_steps=3))
    objective.distillation.teacher = Teacher(network)
    step = objective.prepare(dataset[0][0], small_model.codec)
    parts = objective(network, step)
    assert parts.keys() == {"distillation", "total"}  # no denoising loss
    assert parts["total"].item() < 1e-10
    other = deepcopy(network)
    other.head.head.weight.data *= 1.1
    assert objective(other, step)["total"].item() > 1e-4


def test_segments_depend_on_seed_and_sample_alone(small_run, rendered, small_model):
    """Whatever batch a sample comes in, and whatever was drawn before: a resumed run draws the same."""
    _, _, dataset = rendered
    config = student(small_run, steps=4, teacher_steps=8)
    together = Objective(config).prepare(dataset[2][0], small_model.codec)
    alone = [Objective(config).prepare(micro, small_model.codec) for micro in BatchDataset(config.data, 0, 4, 1)[2]]
    segments = together.targets["distillation"]
    assert torch.equal(segments, torch.cat([each.targets["distillation"] for each in alone]))
    assert torch.equal(together.noise, torch.cat([each.noise for each in alone]))
    levels = Objective(config).process.sampling_levels(4)
    assert torch.equal(together.sigma, levels[segments])  # noised to where the segment starts
    loss = Objective(config).distillation
    drawn = loss.targets(dataset[2][0], list(range(400)))
    assert (drawn.bincount(minlength=4) > 60).all()
    other = replace(config, train=replace(config.train, seed=5))
    seeds = [Objective(each)._seeds(loss.seed_offset, torch.arange(64)) for each in (config, other)]
    assert not torch.equal(*(loss.targets(dataset[2][0], each) for each in seeds))


def test_a_few_steps_lower_the_loss(rendered, small_model):
    config, network, dataset = rendered
    objective = Objective(config)
    objective.distillation.teacher = Teacher(network)
    learner, before = deepcopy(network), deepcopy(network.state_dict())
    optimizer = torch.optim.AdamW(learner.parameters(), lr=5e-3, weight_decay=0)
    steps = [objective.prepare(dataset[n][0], small_model.codec) for n in range(3)]
    first = [objective(learner, step)["total"].item() for step in steps]
    for n in range(24):
        optimizer.zero_grad()
        objective(learner, steps[n % 3])["total"].backward()
        optimizer.step()
    assert sum(objective(learner, step)["total"].item() for step in steps) < 0.8 * sum(first)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
