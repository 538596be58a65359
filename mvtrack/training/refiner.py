"""Training of the refiner on rendered scenes: depth of the source's frames, and the blend in the target's view."""

import json
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from tqdm import tqdm

from mvtrack.config.checked import Count, NonNegativeInt, Positive, Share, config
from mvtrack.data.clip import resize_frames
from mvtrack.geometry.camera import Camera
from mvtrack.inference.full_resolution.compose import mix, mixed
from mvtrack.inference.full_resolution.warp import SourceMoment, target_geometry
from mvtrack.models.refiner.cost_volume import FAR, NEAR, OFFSETS, PLANES, ViewPair, cost_volume
from mvtrack.models.refiner.files import Refiner, save_refiner
from mvtrack.models.reshoot_model import ReshootModel
from mvtrack.training.refiner_data import RefinerExample, RefinerScenes, read_example

_SAVE_EVERY = 100
_REACH = 8  # frames to the other moments that a target frame is filled from


@config
class RefinerRun:
    """scenes: rendered ones, each taken again and again. clips: in one step. no_result, no_motion, true_depth: shares
    of clips in which the network sees no result, does not know the source's motion, or blends with exact depth."""

    scenes: Count = 240
    steps: Count = 1600
    clips: Count = 3
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
    optimizer = torch.optim.AdamW(refiner.parameters(), lr=run.lr, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, run.lr, total_steps=run.steps, pct_start=0.04)
    losses, began = [], time.monotonic()
    with tqdm(total=run.steps, desc="training the refiner", unit="step") as bar:
        for step in range(run.steps):
            numbers = rng.choice(run.scenes, run.clips, replace=False)
            parts = [
                _losses(refiner, augmented(read_example(scenes.ensure(int(n), model)), rng), run, rng) for n in numbers
            ]
            loss = sum(sum(part.values()) for part in parts) / run.clips
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(refiner.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            losses.append({name: float(np.mean([float(part[name].detach()) for part in parts])) for name in parts[0]})
            bar.update()
            bar.set_postfix(_mean(losses[-100:]))
            if (step + 1) % _SAVE_EVERY == 0 or step + 1 == run.steps:
                save_refiner(refiner, out)
                record = {"run": asdict(run), "steps_done": step + 1, "seconds": round(time.monotonic() - began, 1)}
                record["losses_by_100_steps"] = [_mean(losses[i : i + 100]) for i in range(0, len(losses), 100)]
                (out / "refiner.json").write_text(json.dumps(record, indent=1))
    return refiner.eval()


def _mean(rows: list[dict[str, float]]) -> dict[str, float]:
    return {name: float(f"{np.mean([row[name] for row in rows]):.4g}") for name in rows[0]}


def augmented(example: RefinerExample, rng: np.random.Generator) -> RefinerExample:
    """Mirrored, colours permuted and played backwards at random."""
    if rng.uniform() < 0.5:
        example = _mirrored(example)
    order = torch.from_numpy(rng.permutation(3))
    example = replace(
        example, source=example.source[:, order], generated=example.generated[:, order], truth=example.truth[:, order]
    )
    if rng.uniform() < 0.5:
        last = len(example.source) - 1
        example = replace(
            example,
            source=example.source.flip(0),
            source_depth=example.source_depth.flip(0),
            generated=example.generated.flip(0),
            camera=replace(example.camera, c2w=example.camera.c2w.flip(1), K=example.camera.K.flip(1)),
            at=last - example.at,
        )
    return example


def _mirrored(example: RefinerExample) -> RefinerExample:
    camera, flip = example.camera, torch.diag(torch.tensor([-1.0, 1, 1, 1]))
    K = camera.K.clone()
    K[..., 0, 2] = camera.size[1] - K[..., 0, 2]
    images = {
        name: getattr(example, name).flip(-1)
        for name in ("source", "source_depth", "generated", "truth", "truth_depth")
    }
    return replace(example, camera=replace(camera, c2w=flip @ camera.c2w @ flip, K=K), **images)


def _losses(refiner: Refiner, example: RefinerExample, run: RefinerRun, rng: np.random.Generator) -> dict[str, Tensor]:
    """Of one clip, at one of its true frames and the moments around it."""
    distance = example.distance * float(np.exp(rng.uniform(-0.2, 0.2)))
    camera, small = example.camera.scaled(1 / distance), tuple(example.generated.shape[-2:])
    number = int(rng.integers(len(example.at)))
    now, frames = int(example.at[number]), len(example.source)
    others = [t for t in (now - _REACH, now + _REACH) if 0 <= t < frames]
    at = torch.tensor([now, *others])
    true_inverse = distance / example.source_depth[at]
    result = None if rng.uniform() < run.no_result else example.generated
    pair = ViewPair(resize_frames(example.source, small), result, camera.resized(small))
    offsets = () if rng.uniform() < run.no_motion else (int(rng.choice(OFFSETS)),)
    first = at[:1]
    cost = cost_volume(pair, first, offsets)
    logits, maps = refiner.depth(example.source[first], cost, camera[0, first])
    losses = _depth_losses(logits, maps, true_inverse[:1], _parallax(camera, first))
    inverse, confidence = true_inverse.clone(), torch.ones_like(true_inverse)
    exact = rng.uniform() < run.true_depth
    if not exact:  # other moments are only looked up behind this one: smoothed truth stands in for their estimates
        inverse[0], confidence[0] = maps[0, 0].detach(), maps[0, 1].detach()
        inverse[1:] = _disturbed(true_inverse[1:], rng)
    moments = [SourceMoment(i, c, camera[0, t]) for i, c, t in zip(inverse, confidence, at, strict=True)]
    target, generated = camera[1, now], example.generated[now]
    geometry = target_geometry(moments[0], moments[1:], target)
    mixture = mix(refiner.blend, example.source[at], moments, geometry, target, generated, exact)
    error = mixed(mixture, generated) - example.truth[number]
    return losses | {"picture": 4 * error.square().mean() + 0.25 * error.abs().mean()}


def _disturbed(inverse_depth: Float[Tensor, "N H W"], rng: np.random.Generator) -> Float[Tensor, "N H W"]:
    """Blurred, and wrong by up to a tenth over areas."""
    height, width = inverse_depth.shape[-2:]
    noise = torch.from_numpy(rng.uniform(-0.1, 0.1, (len(inverse_depth), 1, height // 32, width // 32))).float()
    blurred = F.avg_pool2d(F.pad(inverse_depth[:, None], [2] * 4, mode="replicate"), 5, 1)
    return (blurred * (1 + F.interpolate(noise, (height, width), mode="bilinear")))[:, 0]


def _parallax(camera: Camera, at: Int[Tensor, "N"]) -> Float[Tensor, "N"]:
    """Pixels by which the target moves a point per unit of inverse depth."""
    baseline = (camera.c2w[1, at, :3, 3] - camera.c2w[0, at, :3, 3]).norm(dim=-1)
    return baseline * camera.K[0, at, 0, 0]


def _depth_losses(
    logits: Float[Tensor, "N P h w"], maps: Float[Tensor, "N 2 H W"], true: Float[Tensor, "N H W"],
    parallax: Float[Tensor, "N"],
) -> dict[str, Tensor]:  # fmt: skip
    """Cross-entropy of the true plane (spread over the two nearest), and the distance in inverse depth."""
    coarse = F.interpolate(true[:, None], logits.shape[-2:], mode="nearest-exact")[:, 0]
    place = ((coarse - FAR) / (NEAR - FAR) * (PLANES - 1)).clamp(0, PLANES - 1 - 1e-3)
    low, part = place.long(), place.frac()
    log_p = logits.log_softmax(1)
    at_low, at_high = (log_p.gather(1, (low + k)[:, None])[:, 0] for k in (0, 1))
    weight = 0.3 + (parallax / 30).clamp_max(1.5)
    entropy = (-(1 - part) * at_low - part * at_high).mean((1, 2))
    distance = F.smooth_l1_loss(maps[:, 0], true.clamp(FAR, NEAR), beta=0.05, reduction="none").mean((1, 2))
    return {"planes": 0.04 * (weight * entropy).mean(), "depth": 0.5 * (weight * distance).mean()}
