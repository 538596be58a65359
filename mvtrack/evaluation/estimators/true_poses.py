"""Cameras that the benchmark knows: of the reference. Nobody knows the true cameras of a generated video."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from mvtrack.evaluation.interface import Declined, Estimate, Inputs, skipped
from mvtrack.structure.recovered import recovered


@dataclass(frozen=True)
class TruePoses:
    name: str = "true_poses"
    version: int = 1
    gives: Literal["poses"] = "poses"
    needs: tuple[str, ...] = ("source_camera",)

    @property
    def settings(self) -> dict:
        return {}

    @property
    def footnotes(self) -> tuple[str, ...]:
        return ("Poses of the reference: the benchmark's own. Poses of generated videos were not estimated.",)

    def missing(self) -> str | None:
        return None

    def estimate(
        self, inputs: Inputs, video: Float[Tensor, "T 3 H W"], subject: Literal["generated", "reference"]
    ) -> Estimate | Declined:
        if subject == "generated":
            return skipped("a generated video has no true cameras, only those asked for: estimate them (--poses)")
        camera = inputs.camera[0]
        found = torch.ones(len(video), dtype=torch.bool)
        return recovered(camera.c2w, camera.K, camera.size, found, "true", camera.scale_known).arrays()
