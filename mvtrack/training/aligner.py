"""Training of an aligning decoder on rendered scenes, whose depth is exact: noise stands in for what is not, later.

The target's latents are what the model itself makes of the true ones from a random noise level: blurred and imagined as
generated ones are, but of a truth that is known. The transformer and the codec are left as they are.
"""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from tqdm import tqdm

from mvtrack.config.checked import config
from mvtrack.data.clip import Clip
from mvtrack.data.synthetic.bank import Bank
from mvtrack.inference.forward_noised import noised_latents
from mvtrack.models.conditioning import Window
from mvtrack.models.decoder.depth_noise import AMPLITUDES, disturbed
from mvtrack.models.decoder.files import build_aligner, save_aligner
from mvtrack.models.decoder.scene import DecoderScene
from mvtrack.models.diffusion.flow import add_noise, x0_from_velocity
from mvtrack.models.reshoot_model import ReshootModel

Perceptual = Callable[[Float[Tensor, "N 3 H W"], Float[Tensor, "N 3 H W"]], Float[Tensor, ""]]
_TARGET = 1
_SAVE_EVERY = 200


@config
class AlignerRun:
    """scenes: rendered ones, each taken again and again. frames: of a clip in one step. sigma: noise levels from which
    the model restores the target. depth_noise: times the paper's amplitudes. perceptual: weight of a perceptual
    distance beside the mean squared error. settings: of the decoder, see `SmallAligner` and `WanAligner`."""

    scenes: int = 512
    steps: int = 4000
    frames: int = 2
    lr: float = 1e-3
    sigma: tuple[float, float] = (0.4, 0.98)
    depth_noise: float = 1.0
    perceptual: float = 0.0
    seed: int = 0
    settings: dict | None = None

    def __post_init__(self) -> None:
        for name in ("scenes", "steps", "frames", "lr"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if not 0 <= self.sigma[0] <= self.sigma[1] <= 1:
            raise ValueError(f"sigma must be two noise levels in [0, 1], the lower first, got {self.sigma}")


@dataclass(frozen=True)
class Example:
    """A clip, and the latents of both views as the decoder will meet them."""

    clip: Clip
    latents: Float[Tensor, "V f c h w"]


def make_example(model: ReshootModel, clip: Clip, sigma: float, seed: int) -> Example:
    """The reference's own latents; the target's as the model restores them from a noise level."""
    latents = model.encode(clip.video[None])[0].cpu()
    noised = noised_latents(model, latents, Window(clip.camera, clip.scene_depth), seed)
    level, restored = torch.tensor([sigma]), noised.forward(model, sigma).prediction[:, _TARGET].float().cpu()
    if model.config.flow.prediction != "x0":
        noisy = add_noise(latents[None, _TARGET], noised.noise[:, _TARGET], level)
        restored = x0_from_velocity(restored, noisy, level)
    return Example(clip, torch.stack([latents[0], restored[0]]))


def train_aligner(
    model: ReshootModel, bank: Bank, out: Path, run: AlignerRun, perceptual: Perceptual | None = None
) -> nn.Module:
    """Train, write `decoder.safetensors` and `decoder.json` (settings and losses) into `out`; returns the decoder.

    bank: scenes of two views or more, of a size and length that the model takes. perceptual: a differentiable distance
    of pictures in [-1, 1]. Raises ValueError for a weight without a distance.
    """
    if run.perceptual and perceptual is None:
        raise ValueError("a perceptual weight needs a distance: give one, or leave the weight at 0")
    torch.manual_seed(run.seed)
    aligner = build_aligner(model.config.codec, run.settings).train()
    optimizer = torch.optim.AdamW(aligner.parameters(), lr=run.lr, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, run.lr, total_steps=run.steps, pct_start=0.05)
    examples, rng, losses, began = _Examples(model, bank, run), np.random.default_rng(run.seed), [], time.monotonic()
    generator = torch.Generator().manual_seed(run.seed)
    with tqdm(total=run.steps, desc="training the decoder", unit="step") as bar:
        for step in range(run.steps):
            loss = _loss(aligner, model, examples.draw(rng), run, generator, perceptual)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(aligner.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
            bar.update()
            bar.set_postfix(loss=f"{np.mean(losses[-50:]):.4f}")
            if (step + 1) % _SAVE_EVERY == 0 or step + 1 == run.steps:
                save_aligner(aligner, model.config.codec, out)
                record = {"run": asdict(run), "steps_done": step + 1, "seconds": round(time.monotonic() - began, 1)}
                record["mean_loss_by_50_steps"] = [float(f"{x:.4g}") for x in _means(losses, 50)]
                (out / "decoder.json").write_text(json.dumps(record, indent=1))
    return aligner.eval()


def _loss(
    aligner: nn.Module, model: ReshootModel, example: Example, run: AlignerRun, generator: torch.Generator,
    perceptual: Perceptual | None,
) -> Float[Tensor, ""]:  # fmt: skip
    clip, amplitudes = example.clip, tuple(run.depth_noise * a for a in AMPLITUDES)
    depth = disturbed(clip.depth, float(clip.depth.median()), generator, amplitudes=amplitudes)
    scene = DecoderScene.of(clip.camera, depth, {0: clip.video[0]})
    at, made = aligner.some_frames(model.codec, example.latents, scene, (_TARGET,), run.frames, generator)
    made, truth = made[_TARGET], clip.video[_TARGET, at]
    loss = (made - truth).square().mean()
    return loss + run.perceptual * perceptual(made, truth) if run.perceptual else loss


class _Examples:
    """Examples by number, made when first asked for and kept."""

    def __init__(self, model: ReshootModel, bank: Bank, run: AlignerRun) -> None:
        self.model, self.bank, self.run = model, bank, run
        self.kept: dict[int, Example | None] = {}

    def draw(self, rng: np.random.Generator) -> Example:
        """One at random. Raises ValueError where no scene can be used."""
        for number in rng.permutation(self.run.scenes):
            example = self._example(int(number))
            if example is not None:
                return example
        raise ValueError(f"no scene of {self.bank.root} has depth everywhere: take another seed or more scenes")

    def _example(self, number: int) -> Example | None:
        """None for a scene in which a camera came to stand below the ground, where depth is negative."""
        if number not in self.kept:
            rng = np.random.default_rng([self.run.seed, number])
            views = rng.permutation(self.bank.recipe.num_views)[:2].tolist()
            frames = self.model.config.num_frames
            start = int(rng.integers(self.bank.recipe.num_frames - frames + 1))
            clip = self.bank.clip(number, views, slice(start, start + frames))
            sigma, known = float(rng.uniform(*self.run.sigma)), bool((clip.depth > 0).all())
            self.kept[number] = make_example(self.model, clip, sigma, seed=number) if known else None
        return self.kept[number]


def _means(values: list[float], count: int) -> list[float]:
    return [float(np.mean(values[i : i + count])) for i in range(0, len(values), count)]
