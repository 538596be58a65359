"""Cameras by structure from motion (pycolmap): no weights; says where it cannot tell."""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from mvtrack.data.video_io import to_bytes
from mvtrack.evaluation.interface import Declined, Estimate, Inputs
from mvtrack.metrics.splat import splat
from mvtrack.structure.colmap import DEFAULT, ColmapConfig, colmap_missing, recover_with_colmap

_TOUCHED = 0.1  # share of a pixel that a moving thing covers
_WIDENED = 1 / 80  # of the picture's width, to each side


@dataclass(frozen=True)
class ColmapPoses:
    """K is the benchmark's and kept; of a reference whose lens is only assumed, the focal length is measured too."""

    config: ColmapConfig = DEFAULT
    name: str = "colmap"
    version: int = 1
    gives: Literal["poses"] = "poses"
    needs: tuple[str, ...] = ()

    @property
    def settings(self) -> dict:
        return self.config.record()

    @property
    def footnotes(self) -> tuple[str, ...]:
        return (
            "Poses: pycolmap, SIFT, lens of the asked-for cameras; the better of incremental and global mapping, or a "
            "camera that turns on the spot where that explains the matches. What moves is masked where the benchmark "
            "says it, in generated videos by the references' masks, carried along the asked-for path (by true depth, "
            "else at the subject's distance) and widened. Not comparable to learned estimators' figures.",
        )

    def missing(self) -> str | None:
        return colmap_missing()

    def estimate(
        self, inputs: Inputs, video: Float[Tensor, "T 3 H W"], subject: Literal["generated", "reference"]
    ) -> Estimate | Declined:
        of_reference = subject == "reference"
        camera = inputs.camera[0 if of_reference else 1]
        known = inputs.source_camera_known or not of_reference
        lens = camera if known and bool((camera.K[:1] != camera.K).any()) else camera[:1]
        moving = inputs.dynamic if of_reference else moving_in_target(inputs)
        ignore = None if moving is None else moving.numpy()
        return recover_with_colmap(to_bytes(video), lens, known, ignore, self.config).arrays()


def moving_in_target(inputs: Inputs) -> Bool[Tensor, "T H W"] | None:
    """About where things that move would be seen from the asked-for cameras; None where the benchmark does not say.

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
