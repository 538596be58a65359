"""Depth of the reference from its own moving camera: needs no weights, works where there is parallax."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from torch import Tensor

from mvtrack.evaluation.interface import Estimate, Estimator, Inputs, Skipped, Subject, skipped
from mvtrack.geometry.plane_sweep import plane_sweep_depth


@dataclass(frozen=True)
class PlaneSweepDepth(Estimator):
    planes: int = 48
    name = "plane_sweep"
    gives = "depth"
    needs = ("source_camera",)
    footnotes = ("Estimated depth: plane sweep over the reference's own frames, scene taken as static.",)

    @property
    def settings(self) -> dict:
        return {"planes": self.planes}

    def estimate(self, inputs: Inputs, video: Float[Tensor, "N 3 H W"], subject: Subject) -> Estimate | Skipped:
        camera = inputs.camera[0 if subject == "reference" else 1]
        centre = camera.c2w[:, :3, 3]
        if float((centre - centre[0]).norm(dim=-1).max()) < 1e-6:
            return skipped("the reference camera does not move: no depth without parallax")
        return {"depth": plane_sweep_depth(video, camera, self.planes).numpy().astype(np.float32)}
