"""Ground truth that attention is measured against: clips with tracks, and still scenes with their points in 3D."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mvtrack.correspondence.nearest_neighbours import PointMaps, points_from_depth, targets_from_points
from mvtrack.correspondence.probe import cell_centres
from mvtrack.correspondence.probe_scores import KINDS
from mvtrack.correspondence.targets import CorrespondenceTargets, targets_from_tracks, token_grid
from mvtrack.data.clip import Clip, anchor_frames, num_latent_frames
from mvtrack.geometry.camera import Camera
from mvtrack.inference.forward_noised import NoisedVideos, noised_videos
from mvtrack.models.conditioning import Window
from mvtrack.models.reshoot_model import ReshootModel
from mvtrack.training.static_validation import StillCase
from tracking_head import Tracks

Subject = Clip | StillCase


@dataclass(frozen=True)
class ProbedScene:
    """One subject as V views of f latent frames; of a still scene every latent frame is a view (V, 1).

    targets: a batch of one. frames, camera, depth: at the latent frames' anchors. reference: which of them are given.
    given: the same as the model lays out its latents; None: the first view.
    """

    clip: Clip
    targets: CorrespondenceTargets
    frames: Float[Tensor, "V f 3 H W"]
    camera: Camera
    depth: Float[Tensor, "V f H W"] | None
    reference: Bool[Tensor, "1 V f"]
    given: Bool[Tensor, "1 views frames"] | None = None

    def noised(self, model: ReshootModel, seed: int) -> NoisedVideos:
        """The subject as the model sees it at any noise level."""
        clip = self.clip
        return noised_videos(model, clip.video, Window(clip.camera, clip.scene_depth), seed, self.given)


def kinds_of(model: ReshootModel) -> tuple[str, ...]:
    """The kinds of correspondence that a model has: of still scenes only those across views."""
    return KINDS if model.config.views is None else KINDS[2:]


def check_subject(model: ReshootModel, subject: Subject) -> None:
    """Raise ValueError for a subject that is not of the model's sort."""
    still = model.config.views is not None
    if isinstance(subject, StillCase) != still:
        own, other = ("makes views of still scenes", "clips") if still else ("re-shoots videos", "still scenes")
        raise ValueError(f"this model {own}, and {other} were given: use {'still_cases' if still else 'render_case'}")


def scene_of(subject: Subject, token_px: int, num_queries: int, seed: int) -> ProbedScene:
    """Draw queries of one subject. Raises ValueError for a clip without tracks."""
    return (_still_scene if isinstance(subject, StillCase) else _moving_scene)(subject, token_px, num_queries, seed)


def clip_targets(clip: Clip, token_px: int, num_queries: int, seed: int) -> CorrespondenceTargets:
    """A batch of one: tokens of visible track points. Raises ValueError for a clip without tracks."""
    if clip.tracks is None:
        raise ValueError(f"clip {clip.key or seed} has no tracks: correspondences are measured against them")
    return targets_from_tracks(Tracks.stack([clip.tracks]), tuple(clip.video.shape[-2:]), token_px, num_queries, seed)


def _moving_scene(clip: Clip, token_px: int, num_queries: int, seed: int) -> ProbedScene:
    targets = clip_targets(clip, token_px, num_queries, seed)
    anchors = anchor_frames(num_latent_frames(clip.num_frames))
    depth = None if clip.depth is None else clip.depth[:, anchors]
    reference = torch.zeros(1, *targets.label.shape[2:], dtype=torch.bool)
    reference[:, 0] = True
    return ProbedScene(clip, targets, clip.video[:, anchors], clip.camera[:, anchors], depth, reference)


def _still_scene(case: StillCase, token_px: int, num_queries: int, seed: int) -> ProbedScene:
    """Nothing moves, so tokens correspond by their points in 3D, between any two latent frames (CAMEO §3.2)."""
    anchors = anchor_frames(num_latent_frames(case.clip.num_frames))
    camera, depth, frames = case.clip.camera[:, anchors], case.clip.depth[:, anchors], case.clip.video[:, anchors]
    camera = replace(camera, c2w=camera.c2w.flatten(0, 1)[:, None], K=camera.K.flatten(0, 1)[:, None])
    depth, frames = (x.flatten(0, 1)[:, None] for x in (depth, frames))
    grid = token_grid(camera.size, token_px)
    points = points_from_depth(depth[None], camera[None])
    targets = targets_from_points(PointMaps(points), grid, num_queries=num_queries, seed=seed)
    exact = (cell_centres(index, grid, token_px) for index in (targets.query % (grid[0] * grid[1]), targets.label))
    targets = replace(targets, **dict(zip(("query_xy", "label_xy"), exact, strict=True)))
    return ProbedScene(case.clip, targets, frames, camera, depth, case.reference.view(1, -1, 1), case.reference)
