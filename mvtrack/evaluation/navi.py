"""Do a model's features match photographs of one object from other sides? NAVI's Precision@2cm by Probe3D's protocol.

Photographs are cropped to their object; each is seen by the model alone, as every view of a scene that does not move,
the last of them noised. Of all object pixels the best matches by the ratio test are scored: how many lie within 1, 2
and 5 centimetres of the true surface point, by the angle between the two cameras.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor

from mvtrack.config.datasets import DatasetOptions
from mvtrack.config.model import ModelConfig
from mvtrack.correspondence.ratio_test import ratio_test_matches
from mvtrack.data.public.layout import SceneView
from mvtrack.data.public.navi import Navi
from mvtrack.geometry.camera import Camera, unproject
from mvtrack.inference.forward_noised import noised_videos
from mvtrack.models.conditioning import Window
from mvtrack.models.reshoot_model import ReshootModel
from mvtrack.video.writer import from_bytes

ANGLES_DEG = (0, 30, 60, 90, 120)
THRESHOLDS_M = (0.01, 0.02, 0.05)
_SEED, _EVERY = 8, 4  # Probe3D's: of partners drawn; every fourth photograph asks
_CELL = 4  # pixels of the picture that one feature stands for

Split = Literal["wild_set", "multiview"]


class PhotographPair(NamedTuple):
    """Two photographs of one folder, and how far their cameras are turned apart."""

    scene: str
    first: SceneView
    second: SceneView
    angle_deg: float


@dataclass(frozen=True)
class Photograph:
    """An object's square, as a model sees it. points: metres, NaN off the object. distance: median z-depth of it."""

    picture: Float[Tensor, "3 S S"]
    camera: Camera
    points: Float[Tensor, "g g 3"]
    distance: float


def draw_pairs(root: Path, split: Split) -> list[PhotographPair]:
    """Every fourth photograph of the split's folders, each with a partner of its folder at most 120 degrees away.

    Raises ValueError where there is none.
    """
    layout, rng = Navi(), np.random.default_rng(_SEED)
    folders = [files for files in layout.scenes(root, DatasetOptions()) if files.path.name.startswith(split)]
    scenes = [layout.read(files) for files in folders]
    found = []
    for scene, i in [(each, i) for each in scenes for i in range(len(each.views))][::_EVERY]:
        angles = [_angle_deg(scene.views[i], other) for other in scene.views]
        near = [j for j, angle in enumerate(angles) if j != i and angle < ANGLES_DEG[-1]]
        if near:
            j = near[rng.integers(len(near))]
            found.append(PhotographPair(scene.name, scene.views[i], scene.views[j], angles[j]))
    if not found:
        raise ValueError(f"{root} holds no two photographs within {ANGLES_DEG[-1]} degrees in a folder {split}")
    return found


def _angle_deg(first: SceneView, second: SceneView) -> float:
    turn = first.camera.c2w[0, :3, :3].mT @ second.camera.c2w[0, :3, :3]
    return float(torch.rad2deg(((torch.trace(turn) - 1) / 2).clamp(-1, 1).acos()))


def square_side(model: ModelConfig) -> int:
    """Of the picture: of the model's own area, in whole tokens of features and of tokens."""
    height, width = model.sizes[0]
    unit = int(np.lcm(model.size_unit_px, _CELL))
    return max(unit, int((height * width) ** 0.5) // unit * unit)


def photograph_of(view: SceneView, side: int) -> Photograph:
    """The object's box, made square, of the picture's middle square; scaled to `side` pixels.

    Raises ValueError for a photograph without depth or mask, or whose object is not in the middle square.
    """
    if view.depth is None or view.masks is None:
        raise ValueError(f"{view.video.path} has no {'depth' if view.depth is None else 'mask'}: it cannot be scored")
    depth, inside = view.depth(1)[0], view.masks(1)[0]
    left, top, width = _object_square(inside, view.video.path)
    pixels = from_bytes(view.video.read(0, 1))[..., top : top + width, left : left + width]
    picture = F.interpolate(pixels, (side, side), mode="bilinear", antialias=True, align_corners=False)[0]
    camera = view.camera[0].cropped(left, top, (width, width)).resized((side, side)).to(dtype=torch.float32)
    at = ((torch.arange(side // _CELL) + 0.5) * (_CELL * width / side)).long()
    y, x = torch.meshgrid(top + at, left + at, indexing="ij")
    z, known = depth[y, x].double(), inside[y, x] & (depth[y, x] > 0)
    points = unproject((torch.stack([x, y], -1) + 0.5).double().flatten(0, 1), z.flatten(), view.camera[0])
    points = torch.where(known[..., None], points.view(*z.shape, 3), torch.nan).float()
    if int(known.sum()) < 2:
        raise ValueError(f"{view.video.path}: its object has no depth in the middle square")
    return Photograph(picture, camera, points, float(z[known].median()))


def _object_square(inside: Tensor, where: Path) -> tuple[int, int, int]:
    """Left, top and side of a square around the object, within the picture's middle square."""
    height, width = inside.shape
    side = min(height, width)
    start = torch.tensor([(height - side) // 2, (width - side) // 2])
    seen = inside[start[0] : start[0] + side, start[1] : start[1] + side].nonzero()
    if not len(seen):
        raise ValueError(f"{where}: its object is not in the middle square")
    low, high = seen.amin(0), seen.amax(0) + 1
    box = int((high - low).max())
    corner = (((low + high) - box) // 2).clamp(torch.zeros(2, dtype=torch.long), torch.tensor(side - box))
    top, left = (start + corner).tolist()
    return left, top, box


@torch.no_grad()
def features(model: ReshootModel, photo: Photograph, sigma: float, seed: int) -> list[Float[Tensor, "d h w"]]:
    """What the block of every layer makes of a photograph's tokens, noised to `sigma`, beside clean copies of it. Maps
    are as large as the layer's tokens are many."""
    views = model.config.views
    count = 2 if views is None else views.count
    in_time = views is not None and views.encoding == "path"
    shape = (1, views.num_frames) if in_time else (count, 1)
    latent = (1, count) if in_time else (count, 1)
    video = repeat(photo.picture, "c h w -> v t c h w", v=shape[0], t=shape[1])
    camera = Camera.stack([Camera.stack([photo.camera] * shape[1])] * shape[0])
    given = (torch.arange(count) < count - 1).view(1, *latent)
    videos = noised_videos(model, video, Window(camera, photo.distance), seed, None if views is None else given)
    hidden = videos.forward(model, sigma, tuple(range(model.config.num_layers))).hidden
    return [rearrange(tokens[0, -1, -1].float(), "h w d -> d h w") for tokens in hidden]


def precision(
    photos: tuple[Photograph, Photograph], maps: tuple[Tensor, Tensor], matches: int
) -> Float[Tensor, "thresholds"]:
    """Share of the best matches whose surface points lie within each of `THRESHOLDS_M`."""
    rows, places = zip(*(_object_rows(*each) for each in zip(photos, maps, strict=True)), strict=True)
    first, second = (index.cpu() for index in ratio_test_matches(*rows, matches))
    error = (places[0][first] - places[1][second]).norm(dim=-1)
    return (error[:, None] < torch.tensor(THRESHOLDS_M)).double().mean(0)


def _object_rows(photo: Photograph, tokens: Float[Tensor, "d h w"]) -> tuple[Tensor, Float[Tensor, "n 3"]]:
    """Features of the object's pixels, and their points."""
    dense = F.interpolate(tokens[None], photo.points.shape[:2], mode="bicubic", align_corners=False)[0]
    known = photo.points.isfinite().all(-1)
    return dense[:, known.to(dense.device)].mT, photo.points[known]


def score_pair(
    model: ReshootModel, pair: PhotographPair, sigmas: list[float], side: int, matches: int, seed: int
) -> Float[Tensor, "layers steps thresholds"]:
    """Precision of every layer at every noise level; the photographs are noised from seeds of their own.

    Raises ValueError for a photograph that cannot be scored.
    """
    photos = photograph_of(pair.first, side), photograph_of(pair.second, side)
    levels = []
    for sigma in sigmas:
        both = [features(model, photo, sigma, 2 * seed + i) for i, photo in enumerate(photos)]
        levels.append(torch.stack([precision(photos, maps, matches) for maps in zip(*both, strict=True)]))
    return torch.stack(levels, 1)


def by_angle(scores: Float[Tensor, "pairs *any"], angles_deg: Float[Tensor, "pairs"]) -> list[Tensor | None]:
    """Means over the pairs of each bin of `ANGLES_DEG`; None where there is none."""
    bins = torch.bucketize(angles_deg, torch.tensor(ANGLES_DEG[1:-1], dtype=angles_deg.dtype), right=True)
    members = (scores[bins == i] for i in range(len(ANGLES_DEG) - 1))
    return [of_bin.mean(0) if len(of_bin) else None for of_bin in members]
