"""Which layers of a model match points across views and time, and at which noise level (MVTrack4Gen §4; CAMEO §3.2).

Ground-truth clips are noised to every level of a sampling run; while the transformer runs, each block's queries and
keys are probed and dropped, so one layer's features are held at a time and never an attention map.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from mvtrack.backbone.dit import WanDiT
from mvtrack.backbone.model import ReshootModel, model_cameras
from mvtrack.backbone.ray_encoder import ray_maps
from mvtrack.correspondence.features import features_from_tokens
from mvtrack.correspondence.probe import probe_rows
from mvtrack.correspondence.probe_scores import KINDS, ProbeSums, kinds_of_rows, sum_scores
from mvtrack.correspondence.targets import CorrespondenceTargets, targets_from_tracks
from mvtrack.diffusion.flow import add_noise, sampling_sigmas
from mvtrack.metrics.correspondence import harmonic_mean
from mvtrack.video_clip import Clip
from tracking_head import Tracks

SCORES = ("pck", "attention_score", "confidence_score")


@dataclass(frozen=True)
class AnalysisConfig:
    """steps: noise levels, those of a sampling run of so many steps. queries: track points drawn per clip.

    threshold_px: for PCK and its cycle check; None: one token, which are the paper's 16 pixels at its size.
    """

    steps: int = 10
    queries: int = 256
    threshold_px: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.queries < 1:
            raise ValueError(f"steps and queries must be at least 1, got {self.steps} and {self.queries}")


@dataclass(frozen=True)
class Analysis:
    """Sums of every layer and noise level over all clips. unmoved_pck: the PCK of matching every point with its own
    place, per kind: what a layer that only knows positions would get.
    """

    sigmas: list[float]
    sums: list[list[ProbeSums]]  # layer, step
    unmoved_pck: dict[str, float]
    threshold_px: float

    def table(self, kind: str, score: str) -> Float[Tensor, "layers steps"]:
        """One score by layer and step: pck, attention_score, confidence_score, alignment_error or harmonic_mean."""
        if score == "harmonic_mean":
            return harmonic_mean(*(self.table(kind, name) for name in SCORES))
        return torch.tensor([[sums.means()[kind][score] for sums in row] for row in self.sums], dtype=torch.float64)

    def alignment_error_per_head(self, kind: str = "cross_view") -> Float[Tensor, "layers steps heads"]:
        return torch.tensor([[sums.alignment_error_per_head(kind) for sums in row] for row in self.sums])

    def layer_to_tap(self, kind: str = "cross_view") -> int:
        """The layer with the best harmonic mean, averaged over the noise levels (counted from 0)."""
        return int(self.table(kind, "harmonic_mean").mean(1).argmax())


@torch.no_grad()
def analyse(
    model: ReshootModel, clips: list[Clip], config: AnalysisConfig, on_step: Callable[[], None] | None = None
) -> Analysis:
    """Probe every layer at every noise level on clips with tracks (and depth, where the model's scale needs it).

    on_step: called after each forward. Raises ValueError for clips without tracks, or in which no kind of
    correspondence occurs.
    """
    token_px = model.config.rays.token_px
    threshold = config.threshold_px or float(token_px)
    sigmas = sampling_sigmas(config.steps, model.config.flow.shift)[:-1]
    layers = range(len(model.dit.blocks))
    sums: list[list[ProbeSums | None]] = [[None] * config.steps for _ in layers]
    unmoved, rows = torch.zeros(len(KINDS)), torch.zeros(len(KINDS))
    for number, clip in enumerate(clips):
        if clip.tracks is None:
            raise ValueError(f"clip {clip.key or number} has no tracks: correspondences are measured against them")
        size = tuple(clip.video.shape[-2:])
        targets = targets_from_tracks(Tracks.stack([clip.tracks]), size, token_px, config.queries, config.seed + number)
        right, count = _unmoved(targets, threshold)
        unmoved, rows = unmoved + right, rows + count
        latents = model.codec.encode(clip.video[None])
        depth = None if clip.depth is None else clip.depth[None]
        camera, _ = model_cameras(clip.camera[None], model.config.rays, depth)
        rays = ray_maps(camera, model.config.rays)
        noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(config.seed + number))
        for step, sigma in enumerate(sigmas):
            noisy = torch.cat([latents[:, :1], add_noise(latents, noise, sigma[None])[:, 1:]], 1)

            def visit(layer: int, q: Tensor, k: Tensor, step=step, targets=targets, latents=latents) -> None:
                split = (latents.shape[1], latents.shape[2], targets.grid, q.shape[2])
                q, k = (features_from_tokens(x.flatten(2), *split) for x in (q, k))
                found = sum_scores(probe_rows(q, k, targets, token_px), targets, threshold)
                sums[layer][step] = found if sums[layer][step] is None else sums[layer][step] + found

            with visiting_layers(model.dit, visit):
                model.dit(noisy, 1000 * sigma[None], rays)
            if on_step:
                on_step()
    if not clips or (rows == 0).any():
        missing = [kind for kind, n in zip(KINDS, rows, strict=True) if n == 0]
        raise ValueError(f"{len(clips)} clips hold no {', '.join(missing)} correspondence: use longer or other clips")
    shares = dict(zip(KINDS, (unmoved / rows).tolist(), strict=True))
    return Analysis(sigmas.tolist(), sums, shares, threshold)


@contextmanager
def visiting_layers(dit: WanDiT, visit: Callable[[int, Tensor, Tensor], None]) -> Iterator[None]:
    """While open, `visit(layer, q, k)` is called as each block has run; q and k are (B, N, heads, d)."""

    def hook(layer: int):
        return lambda _module, _inputs, output: visit(layer, output[1].q, output[1].k)

    handles = [block.register_forward_hook(hook(i)) for i, block in enumerate(dit.blocks)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _unmoved(targets: CorrespondenceTargets, threshold_px: float) -> tuple[Float[Tensor, "3"], Float[Tensor, "3"]]:
    """Rows of each kind whose truth lies where the query is, and all rows."""
    near = (targets.label_xy - targets.query_xy[:, :, None, None]).norm(dim=-1) <= threshold_px
    views, frames = targets.label.shape[2:]
    elsewhere = torch.arange(views * frames).view(views, frames) != targets.own_frame[..., None, None]
    kinds = kinds_of_rows(targets) & elsewhere & (targets.weight > 0)
    return (kinds & near).flatten(1).sum(1).float(), kinds.flatten(1).sum(1).float()
