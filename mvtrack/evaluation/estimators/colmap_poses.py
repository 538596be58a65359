"""Cameras by structure from motion (pycolmap): no weights; says where it cannot tell.

Of the reference and a generated video together, frames alternate: long videos are matched among neighbours only, and
the two pictures of one moment, which show the same things in the same places, have to be neighbours.
"""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from mvtrack.evaluation.interface import Estimate, Estimator, Inputs, Subject
from mvtrack.geometry.camera import Camera
from mvtrack.geometry.splat import splat
from mvtrack.inference.camera_estimation.colmap import DEFAULT, ColmapConfig, colmap_missing, recover_with_colmap
from mvtrack.inference.camera_estimation.estimated_cameras import EstimatedCameras
from mvtrack.video.writer import to_bytes

_TOUCHED = 0.1  # share of a pixel that a moving thing covers
_WIDENED = 1 / 80  # of the picture's width, to each side


@dataclass(frozen=True)
class ColmapPoses(Estimator):
    """K is the benchmark's and kept; where both videos share one lens that is only assumed, it is measured too."""

    config: ColmapConfig = DEFAULT
    name = "colmap"
    footnotes = (
        "Poses: pycolmap, SIFT, the benchmark's lenses; the better of incremental and global mapping, or a camera "
        "that turns on the spot where that explains the matches. What moves is masked where the benchmark says "
        "it, in generated videos by the references' masks, carried along the target path (by true depth, else "
        "at the subject's distance) and widened. Not comparable to learned estimators' figures.",
    )

    @property
    def settings(self) -> dict:
        return self.config.record()

    def missing(self) -> str | None:
        return colmap_missing()

    def estimate(self, inputs: Inputs, video: Float[Tensor, "N 3 H W"], subject: Subject) -> Estimate:
        if subject == "joint":
            return self._together(inputs, video).arrays()
        moving = moving_in_target(inputs)
        return self._recovered(video, inputs.camera[1], True, moving).arrays()

    def _together(self, inputs: Inputs, video: Float[Tensor, "N 3 H W"]) -> EstimatedCameras:
        """Cameras of the reference's T frames, then of the T generated ones, in one world."""
        frames = len(inputs.reference)
        order = torch.arange(2 * frames).reshape(2, frames).T.flatten()  # 0, T, 1, T + 1, ...
        camera = replace(inputs.camera, c2w=inputs.camera.c2w.flatten(0, 1), K=inputs.camera.K.flatten(0, 1))
        known = inputs.source_camera_known or not _is_one_lens(camera)
        moving = None
        if inputs.dynamic is not None:
            carried = moving_in_target(inputs)
            moving = torch.cat([inputs.dynamic, torch.zeros_like(inputs.dynamic) if carried is None else carried])
            moving = moving[order]
        found = self._recovered(video[order], camera[order], known, moving)
        back = order.argsort()
        return replace(found, camera=found.camera[back], found=found.found[back])

    def _recovered(
        self, video: Float[Tensor, "N 3 H W"], camera: Camera, known: bool, moving: Bool[Tensor, "N H W"] | None
    ) -> EstimatedCameras:
        ignore = None if moving is None else moving.numpy()
        lens = camera[:1] if _is_one_lens(camera) else camera
        return recover_with_colmap(to_bytes(video), lens, known, ignore, self.config)


def _is_one_lens(camera: Camera) -> bool:
    return bool((camera.K[:1] == camera.K).all())


def moving_in_target(inputs: Inputs) -> Bool[Tensor, "T H W"] | None:
    """About where things that move would be seen from the target cameras; None where the benchmark does not say.

    A video that does not follow its path loses other pixels than meant, which costs matches but bends nothing.
    """
    if inputs.dynamic is None or (inputs.depth is None and inputs.subject_distance is None):
        return None
    masks = []
    for t, moving in enumerate(inputs.dynamic):
        depth = torch.full(moving.shape, inputs.subject_distance) if inputs.depth is None else inputs.depth[t]
        carried, _ = splat(moving[None].float(), depth, inputs.camera[0, t], inputs.camera[1, t])
        masks.append(carried > _TOUCHED)
    reach = max(1, round(_WIDENED * inputs.camera.size[1]))
    return F.max_pool2d(torch.cat(masks).float(), 2 * reach + 1, 1, reach) > 0
