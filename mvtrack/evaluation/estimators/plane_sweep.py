"""Depth of the reference from its own moving camera: needs no weights, works where there is parallax."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float
from torch import Tensor

from mvtrack.evaluation.interface import Declined, Estimate, Inputs, Subject, skipped
from mvtrack.geometry.plane_sweep import plane_sweep_depth


@dataclass(frozen=True)
class PlaneSweepDepth:
    planes: int = 48
    name: str = "plane_sweep"
    version: int = 1
    gives: Literal["depth"] = "depth"
    needs: tuple[str, ...] = ("source_camera",)

    @property
    def settings(self) -> dict:
        return {"planes": self.planes}

    @property
    def footnotes(self) -> tuple[str, ...]:
        return ("Estimated depth: plane sweep over the reference's own frames, scene taken as static.",)

    def missing(self) -> str | None:
        return None

    def estimate(self, inputs: Inputs, video: Float[Tensor, "N 3 H W"], subject: Subject) -> Estimate | Declined:
        camera = inputs.camera[0 if subject == "reference" else 1]
        centre = camera.c2w[:, :3, 3]
        if float((centre - centre[0]).norm(dim=-1).max()) < 1e-6:
            return skipped("the reference camera does not move: no depth without parallax")
        return {"depth": plane_sweep_depth(video, camera, self.planes).numpy().astype(np.float32)}
