"""Training of the refiner on rendered scenes: depth of the source's frames, and the blend in the target's view."""

import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from mvtrack.config.checked import Count, NonNegativeInt, Positive, Share, config
from mvtrack.data.clip import resize_frames
from mvtrack.inference.full_resolution.compose import mix, mixed
from mvtrack.inference.full_resolution.warp import SourceMoment, target_geometry
from mvtrack.models.refiner.cost_volume import OFFSETS, ViewPair, cost_volume
from mvtrack.models.refiner.files import Refiner, save_refiner
from mvtrack.models.reshoot_model import ReshootModel
from mvtrack.training.refiner_data import RefinerExample, RefinerScenes, read_example
from mvtrack.training.refiner_depth import depth_losses_of, drawn_distance, ensure_depth_example

_SAVE_EVERY = 100
_REACH = 8  # frames to the other moments that a target frame is filled from


@config
class RefinerRun:
    """Depth first, then the blend upon it.

    depth_scenes, depth_steps: of the first stage, its scenes taken in turn, with one of the second's in each step.
    scenes, steps: of the second, drawn at random. clips: in one step. no_result, no_motion, true_depth: shares of the
    second stage's clips in which depth sees no result, does not know the source's motion, or is exact.
    """

    depth_scenes: Count = 1000
    depth_steps: NonNegativeInt = 800
    scenes: Count = 240
    steps: NonNegativeInt = 800
    clips: Count = 2
    lr: Positive = 1.2e-3
    no_result: Share = 0.12
    no_motion: Share = 0.25
    true_depth: Share = 0.2
    seed: NonNegativeInt = 0


def train_refiner(
    model: ReshootModel, scenes: RefinerScenes, out: Path, run: RefinerRun, start: Refiner | None = None
) -> Refiner:
    """Train, write `refiner.safetensors` and `refiner.json` (settings and losses) into `out`. start: go on from it."""
    torch.manual_seed(run.seed)
    refiner, rng = (start or Refiner()).requires_grad_(True).train(), np.random.default_rng(run.seed)

    def examples(numbers: Iterable[int]) -> list[RefinerExample]:
        return [augmented(read_example(scenes.ensure(n, model)), rng) for n in numbers]

    def alone(step: int) -> list[dict[str, Tensor]]:
        numbers = [(step * run.clips + i) % run.depth_scenes for i in range(run.clips)]
        clips = [augmented(read_example(ensure_depth_example(scenes, n, model.config)), rng) for n in numbers]
        clips += examples([int(rng.integers(run.scenes))])
        return [depth_losses_of(refiner.depth, clip, rng) for clip in clips]

    def blended(step: int) -> list[dict[str, Tensor]]:
        clips = examples(rng.choice(run.scenes, run.clips, replace=False).tolist())
        return [blend_losses(refiner, clip, run, rng) for clip in clips]

    record, began = {"run": asdict(run)}, time.monotonic()
    for name, steps, losses_of in (("depth", run.depth_steps, alone), ("blend", run.steps, blended)):
        for step, losses in _optimise(getattr(refiner, name), name, steps, run.lr, losses_of):
            if step % _SAVE_EVERY == 0 or step == steps:
                save_refiner(refiner, out)
                by_100 = [_mean(losses[i : i + 100]) for i in range(0, len(losses), 100)]
                seconds = round(time.monotonic() - began, 1)
                record[name] = {"steps_done": step, "seconds_since_start": seconds, "losses_by_100_steps": by_100}
                (out / "refiner.json").write_text(json.dumps(record, indent=1))
    return refiner.eval()


def _optimise(
    network: nn.Module, name: str, steps: int, lr: float, losses_of: Callable[[int], list[dict[str, Tensor]]]
) -> Iterator[tuple[int, list[dict[str, float]]]]:
    """One stage of a cosine schedule; steps done and their losses, after each."""
    if steps == 0:
        return
    optimizer = torch.optim.AdamW(network.parameters(), lr=lr, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps, pct_start=0.04)
    losses = []
    with tqdm(total=steps, desc=f"training the {name}", unit="step") as bar:
        for step in range(steps):
            parts = losses_of(step)
            optimizer.zero_grad(set_to_none=True)
            (sum(sum(part.values()) for part in parts) / len(parts)).backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            losses.append({key: float(np.mean([float(part[key].detach()) for part in parts])) for key in parts[0]})
            bar.update()
            bar.set_postfix(_mean(losses[-100:]))
            yield step + 1, losses


def _mean(rows: list[dict[str, float]]) -> dict[str, float]:
    return {name: float(f"{np.mean([row[name] for row in rows]):.4g}") for name in rows[0]}


def augmented(example: RefinerExample, rng: np.random.Generator) -> RefinerExample:
    """Mirrored, colours permuted and played backwards at random."""
    if rng.uniform() < 0.5:
        example = _mirrored(example)
    if rng.uniform() < 0.5:
        order = torch.from_numpy(rng.permutation(3))
        example = _mapped(example, ("source", "generated", "truth"), lambda images: images[:, order])
    if rng.uniform() < 0.5:
        last, camera = len(example.source) - 1, example.camera
        example = _mapped(example, ("source", "source_depth", "generated"), lambda images: images.flip(0))
        camera = replace(camera, c2w=camera.c2w.flip(1), K=camera.K.flip(1))
        example = replace(example, camera=camera, at=last - example.at)
    return example


def _mirrored(example: RefinerExample) -> RefinerExample:
    camera, flip = example.camera, torch.diag(torch.tensor([-1.0, 1, 1, 1]))
    K = camera.K.clone()
    K[..., 0, 2] = camera.size[1] - K[..., 0, 2]
    names = ("source", "source_depth", "generated", "truth", "truth_depth")
    example = _mapped(example, names, lambda images: images.flip(-1))
    return replace(example, camera=replace(camera, c2w=flip @ camera.c2w @ flip, K=K))


def _mapped(example: RefinerExample, names: Sequence[str], change: Callable[[Tensor], Tensor]) -> RefinerExample:
    images = {name: getattr(example, name) for name in names}
    return replace(example, **{name: change(value) for name, value in images.items() if value is not None})


def blend_losses(
    refiner: Refiner, example: RefinerExample, run: RefinerRun, rng: np.random.Generator
) -> dict[str, Tensor]:
    """Of one clip, at one of its true frames, with the moments around it."""
    distance = drawn_distance(example, rng)
    camera, small = example.camera.scaled(1 / distance), tuple(example.generated.shape[-2:])
    number = int(rng.integers(len(example.at)))
    now, frames = int(example.at[number]), len(example.source)
    at = torch.tensor([now, *(t for t in (now - _REACH, now + _REACH) if 0 <= t < frames)])
    exact = rng.uniform() < run.true_depth
    if exact:
        inverse = distance / example.source_depth[at]
        maps = torch.stack([inverse, torch.ones_like(inverse)], 1)
    else:
        result = None if rng.uniform() < run.no_result else example.generated
        offsets = () if rng.uniform() < run.no_motion else OFFSETS
        with torch.no_grad():
            pair = ViewPair(resize_frames(example.source, small), result, camera.resized(small))
            maps = refiner.depth(example.source[at], cost_volume(pair, at, offsets), camera[0, at])[1]
    moments = [SourceMoment(*m, camera[0, t]) for m, t in zip(maps, at, strict=True)]
    target, generated = camera[1, now], example.generated[now]
    geometry = target_geometry(moments[0], moments[1:], target)
    mixture = mix(refiner.blend, example.source[at], moments, geometry, target, generated, exact)
    error = mixed(mixture, generated) - example.truth[number]
    return {"picture": 4 * error.square().mean() + 0.25 * error.abs().mean()}
