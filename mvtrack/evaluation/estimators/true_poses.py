"""Cameras that are known without looking: of the rows that are the reference or the true target by their making."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from mvtrack.evaluation.interface import Estimate, Estimator, Inputs, Skipped, Subject, skipped
from mvtrack.inference.camera_estimation.estimated_cameras import cameras_from_poses

_SHOWN = {"copy": 0, "blur": 0, "depth_warp": 1, "ground_truth": 1}  # baselines: the view whose cameras they show


@dataclass(frozen=True)
class TruePoses(Estimator):
    """row: whose video it is. Nobody knows the true cameras of a video that a model made."""

    row: str | None = None
    name = "true_poses"
    version = 2
    needs = ("source_camera",)
    footnotes = (
        "Poses: not estimated but known, of copies of the reference (its own), and of the truth and warps to it by "
        "true depth (the target path's); no other row has any.",
    )

    def of_row(self, row: str) -> "TruePoses":
        return replace(self, row=row)

    def estimate(self, inputs: Inputs, video: Float[Tensor, "N 3 H W"], subject: Subject) -> Estimate | Skipped:
        if self.row not in _SHOWN:
            return skipped("a generated video has no true cameras, only those of the target path: set poses.estimator")
        views = [0, _SHOWN[self.row]] if subject == "joint" else [_SHOWN[self.row]]
        c2w, K = (part[views].flatten(0, 1) for part in (inputs.camera.c2w, inputs.camera.K))
        found = torch.ones(len(c2w), dtype=torch.bool)
        return cameras_from_poses(c2w, K, inputs.camera.size, found, "true", inputs.camera.scale_known).arrays()
