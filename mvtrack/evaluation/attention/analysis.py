"""Which layers of a model match points across views and time, and at which noise level (MVTrack4Gen §4; CAMEO §3.2).

Ground-truth clips are noised to every level of a sampling run; while the transformer runs, each block's queries and
keys are probed and dropped, so one layer's features are held at a time and never an attention map.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from operator import add

import torch
from jaxtyping import Float
from torch import Tensor

from mvtrack.config.checked import config
from mvtrack.correspondence.features import features_from_tokens
from mvtrack.correspondence.nearest_neighbours import points_from_depth, token_points
from mvtrack.correspondence.probe import probe_rows
from mvtrack.correspondence.probe_scores import KINDS, ProbeSums, kinds_of_rows, sum_scores
from mvtrack.correspondence.space_scores import SpaceSums, SpaceTruth, space_truth, sum_space
from mvtrack.evaluation.attention.scenes import ProbedScene, Subject, check_subject, kinds_of, scene_of
from mvtrack.inference.forward_noised import NoisedVideos
from mvtrack.metrics.correspondence import harmonic_mean
from mvtrack.models.hooks import visiting_layers
from mvtrack.models.reshoot_model import ReshootModel

SCORES = ("pck", "attention_score", "confidence_score")


@config
class AnalysisConfig:
    """steps: noise levels, those of a sampling run of so many steps. queries: track points, or
    tokens of a still scene, drawn per clip.

    threshold_px: for PCK and its cycle check, in every layer; None: one token of the tapped layer, the paper's 16
    pixels at its size.
    near_share: how near in space a match must come, as a share of the median depth of the reference's first frame;
    0.04 is CAMEO's 2 cm for an object half a metre away. near_m: the same in the clips' own unit, instead.
    """

    steps: int = 10
    queries: int = 256
    threshold_px: float | None = None
    near_share: float = 0.04
    near_m: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.queries < 1:
            raise ValueError(f"steps and queries must be at least 1, got {self.steps} and {self.queries}")
        near = self.near_share if self.near_m is None else self.near_m
        if not near > 0 or (self.threshold_px is not None and not self.threshold_px > 0):
            raise ValueError(f"distances that count as near must be positive, got {near} and {self.threshold_px} px")


@dataclass(frozen=True)
class Analysis:
    """Sums of every clip, layer and noise level. unmoved_pck: the PCK of matching every point with its own place, per
    kind: what a layer that only knows positions would get. space: over the clips with depth, None without any.
    """

    sigmas: list[float]
    by_clip: list[list[list[ProbeSums]]]  # clip, layer, step
    space: list[list[SpaceSums]] | None  # layer, step
    unmoved_pck: dict[str, float]
    threshold_px: float

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of correspondence that were probed: of still scenes only those across views."""
        return tuple(self.unmoved_pck)

    @cached_property
    def sums(self) -> list[list[ProbeSums]]:
        """Over all clips: layer, step."""
        return _over_clips(self.by_clip)

    def table(self, kind: str, score: str) -> Float[Tensor, "layers steps"]:
        """One score by layer and step: pck, attention_score, confidence_score, alignment_error or harmonic_mean."""
        if score == "harmonic_mean":
            return harmonic_mean(*(self.table(kind, name) for name in SCORES))
        return torch.tensor([[sums.means()[kind][score] for sums in row] for row in self.sums], dtype=torch.float64)

    def alignment_error_per_head(self, kind: str = "cross_view") -> Float[Tensor, "layers steps heads"]:
        return torch.tensor([[sums.alignment_error_per_head(kind) for sums in row] for row in self.sums])

    def alignment_error_per_clip(self, kind: str = "cross_view") -> Float[Tensor, "clips layers"]:
        """Mean over heads and noise levels; NaN for a clip without a row of this kind."""
        errors = [[[s.alignment_error_per_head(kind) for s in steps] for steps in clip] for clip in self.by_clip]
        return torch.tensor(errors, dtype=torch.float64).mean((2, 3))

    def layer_to_tap(self, kind: str = "cross_view") -> int:
        """The layer with the best harmonic mean, averaged over the noise levels (counted from 0)."""
        return int(self.table(kind, "harmonic_mean").mean(1).argmax())


@torch.no_grad()
def analyse(
    model: ReshootModel, clips: Sequence[Subject], config: AnalysisConfig, on_step: Callable[[], None] | None = None
) -> Analysis:
    """Probe every layer at every noise level.

    clips: with tracks (and depth, where the model's scale needs it); of a model that makes views of still scenes, still
    cases, in which tokens correspond by their points in 3D. Each is taken once, when its turn comes. on_step: called
    after each forward. Raises ValueError for clips without tracks, of the other sort of model, or in which a kind of
    correspondence does not occur.
    """
    kinds = kinds_of(model)
    sizes = [model.config.token_px(layer) for layer in range(model.config.num_layers)]
    threshold = config.threshold_px or float(model.config.token_px())
    sigmas = model.process.sampling_levels(config.steps).tolist()
    by_clip, space = [], []
    unmoved, rows = torch.zeros(len(KINDS)), torch.zeros(len(KINDS))
    for number, clip in enumerate(clips):
        check_subject(model, clip)
        scenes = {px: scene_of(clip, px, config.queries, config.seed + number) for px in sorted(set(sizes))}
        tapped = scenes[model.config.token_px()]
        right, count = _unmoved(tapped, threshold)
        unmoved, rows = unmoved + right, rows + count
        videos = tapped.noised(model, config.seed + number)
        by_size = {px: _Judge(scene, _space_truth(scene, config), px, threshold) for px, scene in scenes.items()}
        judges = [by_size[px] for px in sizes]
        levels = []
        for sigma in sigmas:
            levels.append(_all_layers(model, videos, sigma, judges))
            if on_step:
                on_step()
        by_clip.append([[sums for sums, _ in steps] for steps in zip(*levels, strict=True)])
        if judges[0].truth is not None:
            space.append([[sums for _, sums in steps] for steps in zip(*levels, strict=True)])
    found = dict(zip(KINDS, zip(unmoved.tolist(), rows.tolist(), strict=True), strict=True))
    missing = [kind for kind in kinds if found[kind][1] == 0]
    if missing:
        raise ValueError(f"{len(clips)} clips hold no {', '.join(missing)} correspondence: use longer or other clips")
    shares = {kind: found[kind][0] / found[kind][1] for kind in kinds}
    return Analysis(sigmas, by_clip, _over_clips(space) if space else None, shares, threshold)


@dataclass(frozen=True)
class _Judge:
    """What one clip's attention is measured against in layers of one size of tokens."""

    scene: ProbedScene
    truth: SpaceTruth | None
    token_px: int
    threshold_px: float

    def sums(self, q: Tensor, k: Tensor) -> tuple[ProbeSums, SpaceSums | None]:
        """Of a layer's queries and keys (1, N, heads, d)."""
        targets = self.scene.targets
        views, frames = targets.label.shape[2:]
        q, k = (features_from_tokens(x.flatten(2).cpu(), views, frames, targets.grid, x.shape[2]) for x in (q, k))
        rows = probe_rows(q, k, targets, self.token_px)
        in_space = None if self.truth is None else sum_space(rows, targets, self.truth)
        return sum_scores(rows, targets, self.threshold_px, reference=self.scene.reference), in_space


def _all_layers(
    model: ReshootModel, videos: NoisedVideos, sigma: float, judges: Sequence[_Judge]
) -> list[tuple[ProbeSums, SpaceSums | None]]:
    """Sums of every layer, each by its judge, in one forward."""
    found = []
    with visiting_layers(model.dit, lambda layer, q, k: found.append((layer, judges[layer].sums(q, k)))):
        videos.forward(model, sigma)
    return [sums for _, sums in sorted(found, key=lambda entry: entry[0])]


def _over_clips(tables: list[list[list]]) -> list[list]:
    """Sums of [clip][layer][step] over the clips."""
    return [[reduce(add, cells) for cells in zip(*layers, strict=True)] for layers in zip(*tables, strict=True)]


def _space_truth(scene: ProbedScene, config: AnalysisConfig) -> SpaceTruth | None:
    if scene.depth is None:
        return None
    camera, targets = scene.camera[None], scene.targets
    points = points_from_depth(scene.depth[None], camera)
    place, valid = token_points(points, points.isfinite().all(3), targets.grid, resize="nearest")
    place = torch.where(valid[..., None], place, torch.nan)
    near = config.near_m or config.near_share * float(scene.clip.scene_depth)
    return space_truth(targets, place, camera.c2w[..., :3, 3], torch.tensor([near]))


def _unmoved(scene: ProbedScene, threshold_px: float) -> tuple[Float[Tensor, "3"], Float[Tensor, "3"]]:
    """Rows of each kind whose truth lies where the query is, and all rows."""
    targets = scene.targets
    near = (targets.label_xy - targets.query_xy[:, :, None, None]).norm(dim=-1) <= threshold_px
    views, frames = targets.label.shape[2:]
    elsewhere = torch.arange(views * frames).view(views, frames) != targets.own_frame[..., None, None]
    kinds = kinds_of_rows(targets, reference=scene.reference) & elsewhere & (targets.weight > 0)
    return (kinds & near).flatten(1).sum(1).float(), kinds.flatten(1).sum(1).float()
