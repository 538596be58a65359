"""Training of the refiner's depth by itself: three moments of many rendered scenes, and clips with the model's result.

Scenes matter more than frames and than results: most of what is known about depth is known from the picture.

An example is a pure function of the recipe and its number, so the folder is only a cache.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor

from mvtrack.config.model import ModelConfig
from mvtrack.data.clip import resize_frames
from mvtrack.data.synthetic.renderer import render
from mvtrack.files.atomic_io import write_aside
from mvtrack.geometry.camera import Camera
from mvtrack.models.refiner.cost_volume import FAR, NEAR, OFFSETS, PLANES, ViewPair, cost_volume
from mvtrack.models.refiner.source_depth import SourceDepth
from mvtrack.training.refiner_data import RefinerExample, RefinerScenes, draw_scene, moments_of

_STREAM = 6173  # keeps these seeds apart from every bank's and test set's
_DROPPED = 0.15  # share of results that are not shown
_DISTANCE_KNOWN = 0.8  # share in which the subject's distance is exactly the first frame's median depth


def ensure_depth_example(scenes: RefinerScenes, number: int, config: ModelConfig) -> Path:
    """The file of a source's moments OFFSETS apart, made now if it is not there."""
    path = scenes.root / f"depth_{scenes.seed}_{number:06d}.safetensors"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        tensors = make_depth_example(scenes, number, config)
        write_aside(path, lambda aside: save_file(tensors, aside))
    return path


def make_depth_example(scenes: RefinerScenes, number: int, config: ModelConfig) -> dict[str, Tensor]:
    """Render the source at three moments."""
    scene, camera, rng = draw_scene(scenes, number, config, _STREAM)
    middle = int(rng.integers(max(OFFSETS), config.num_frames - max(OFFSETS)))
    at = torch.tensor([middle + min(OFFSETS), middle, middle + max(OFFSETS)])
    source = render(moments_of(scene, at), camera[:1, at])
    first = source if int(at[0]) == 0 else render(moments_of(scene, at[:1] * 0), camera[:1, :1])
    tensors = {"source": source.video[0], "source_depth": source.depth[0].half(), "c2w": camera.c2w[:, at]}
    tensors |= {"K": camera.K[:, at], "distance": first.depth[0, 0].median()}
    return {name: tensor.contiguous() for name, tensor in tensors.items()}


def depth_losses_of(network: SourceDepth, example: RefinerExample, rng: np.random.Generator) -> dict[str, Tensor]:
    """Of three moments OFFSETS apart; the source's motion and the result are shown or not."""
    if len(example.source) > 3:
        middle = int(rng.integers(max(OFFSETS), len(example.source) - max(OFFSETS)))
        example = _part(example, [middle + min(OFFSETS), middle, middle + max(OFFSETS)])
    distance = drawn_distance(example, rng)
    camera = example.camera.scaled(1 / distance)
    small = tuple(n // 2 for n in camera.size)
    result = None if example.generated is None or rng.uniform() < _DROPPED else example.generated
    offsets = ((), (-1,), (1,), (-1, 1))[int(rng.integers(4))]
    at = torch.arange(len(example.source))
    cost = cost_volume(ViewPair(resize_frames(example.source, small), result, camera.resized(small)), at, offsets)
    logits, maps = network(example.source, cost, camera[0])
    return depth_losses(logits, maps, distance / example.source_depth, parallax(camera))


def _part(example: RefinerExample, at: list[int]) -> RefinerExample:
    camera = example.camera[:, at]
    return replace(
        example, source=example.source[at], source_depth=example.source_depth[at], generated=example.generated[at],
        camera=camera,
    )  # fmt: skip


def drawn_distance(example: RefinerExample, rng: np.random.Generator) -> float:
    """The subject's distance as a user would know it: mostly the first frame's median depth, else near that."""
    known = rng.uniform() < _DISTANCE_KNOWN
    return example.distance * (1.0 if known else float(np.exp(rng.uniform(-0.2, 0.2))))


def parallax(camera: Camera) -> Float[Tensor, "N"]:
    """Pixels by which the target (1) moves a point that the source (0) sees, per unit of inverse depth."""
    baseline = (camera.c2w[1, :, :3, 3] - camera.c2w[0, :, :3, 3]).norm(dim=-1)
    return baseline * camera.K[0, :, 0, 0]


def depth_losses(
    logits: Float[Tensor, "N P h w"], maps: Float[Tensor, "N 2 H W"], true: Float[Tensor, "N H W"],
    parallax_px: Float[Tensor, "N"],
) -> dict[str, Tensor]:  # fmt: skip
    """Cross-entropy of the true plane (spread over the two nearest), and the distance in inverse depth."""
    coarse = F.interpolate(true[:, None], logits.shape[-2:], mode="nearest-exact")[:, 0]
    place = ((coarse - FAR) / (NEAR - FAR) * (PLANES - 1)).clamp(0, PLANES - 1 - 1e-3)
    low, part = place.long(), place.frac()
    log_p = logits.log_softmax(1)
    at_low, at_high = (log_p.gather(1, (low + k)[:, None])[:, 0] for k in (0, 1))
    weight = 0.3 + (parallax_px / 30).clamp_max(1.5)
    entropy = (-(1 - part) * at_low - part * at_high).mean((1, 2))
    distance = F.smooth_l1_loss(maps[:, 0], true.clamp(FAR, NEAR), beta=0.05, reduction="none").mean((1, 2))
    return {"planes": 0.04 * (weight * entropy).mean(), "depth": 0.5 * (weight * distance).mean()}
