"""Unseen still scenes, what a model makes of their views, and how well a layer aligns them; training and evaluation."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mvtrack.config.losses import PointMatchConfig
from mvtrack.config.views import ViewsConfig
from mvtrack.correspondence.nearest_neighbours import PointMaps, points_from_depth, targets_from_points
from mvtrack.correspondence.probe_scores import ProbeSums
from mvtrack.correspondence.targets import token_grid
from mvtrack.data.clip import Clip
from mvtrack.data.synthetic.test_scenes import render_still_scene
from mvtrack.geometry.camera import Camera
from mvtrack.inference.forward_noised import noised_videos, probe_layer
from mvtrack.inference.sampler import SamplerOptions
from mvtrack.inference.views.generate import generate_views
from mvtrack.metrics.image import psnr
from mvtrack.models.conditioning import Window
from mvtrack.models.reshoot_model import ReshootModel

_LEVELS = 4  # noise levels of a sampling run at which attention is probed


@dataclass(frozen=True)
class StillCase:
    """A still scene as a model takes it: F views of one frame (V = F, T = 1), or one path (V = 1)."""

    clip: Clip
    num_given: int  # images, or frames of the path
    num_reference: int  # views

    @property
    def images(self) -> Float[Tensor, "F 3 H W"]:
        """All views, or all frames of the path, the given ones first."""
        return self.clip.video.flatten(0, 1)

    @property
    def camera(self) -> Camera:
        camera = self.clip.camera
        return replace(camera, c2w=camera.c2w.flatten(0, 1), K=camera.K.flatten(0, 1))

    @property
    def other_camera(self) -> Camera:
        """Wrong cameras of the same scene: each missing view gets another one's, a path is run backwards."""
        n, camera = self.num_given, self.camera
        order = torch.arange(len(camera.c2w))
        order[n:] = order[n:].flip(0) if len(self.clip.video) == 1 else torch.cat([order[:1], order[n:-1]])
        return camera[order]

    @property
    def reference(self) -> Bool[Tensor, "1 V f"]:
        """Which latent frames are given."""
        views, frames = self.clip.video.shape[:2]
        shape = (views, 1) if frames == 1 else (1, (frames - 1) // 4 + 1)
        return (torch.arange(shape[0] * shape[1]) < self.num_reference).view(1, *shape)


@dataclass(frozen=True)
class StillScore:
    """What a model made of a case. other_db: PSNR when it was given wrong cameras."""

    made: Float[Tensor, "N 3 H W"]
    psnr_db: float
    other_db: float


def still_cases(views: ViewsConfig, size: tuple[int, int], count: int, first_seed: int) -> list[StillCase]:
    """Rendered scenes that no bank holds; the numbers of given views take turns."""
    cases = []
    for i in range(count):
        num_reference = views.references[i % len(views.references)]
        if views.encoding == "images":
            clip = render_still_scene(first_seed + i, views.count, 1, size)
            cases.append(StillCase(clip, num_reference, num_reference))
        else:
            path = render_still_scene(first_seed + i, 2, views.num_frames, size).views([1])
            cases.append(StillCase(path, 4 * (num_reference - 1) + 1, num_reference))
    return cases


def score_views(model: ReshootModel, case: StillCase, sample: SamplerOptions) -> StillScore:
    """Generate the missing views with the true cameras and with wrong ones."""
    given, truth = case.images[: case.num_given], case.images[case.num_given :]
    depth = case.clip.scene_depth
    made, other = (generate_views(model, given, camera, sample, depth) for camera in (case.camera, case.other_camera))
    return StillScore(made, psnr(made, truth), psnr(other, truth))


def alignment(model: ReshootModel, case: StillCase, layer: int, matches: PointMatchConfig, seed: int = 0) -> ProbeSums:
    """How well one layer's attention matches 3D points between all views, all tokens, summed over noise levels."""
    clip = case.clip
    grid = token_grid(clip.camera.size, model.config.token_px(layer))
    points = clip.point_map[None] if clip.depth is None else points_from_depth(clip.depth[None], clip.camera[None])
    targets = targets_from_points(PointMaps(points), grid, matches)
    sigmas = model.process.sampling_levels(_LEVELS)
    window = Window(clip.camera, clip.scene_depth)
    videos = noised_videos(model, clip.video, window, seed, case.reference)
    first, *others = probe_layer(model, videos, targets, layer, sigmas)
    for sums in others:
        first = first + sums
    return first
