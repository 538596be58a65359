"""Cameras by Depth Anything 3, in its own environment: what the paper names for DAVIS, though not which variant."""

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from mvtrack.evaluation.interface import Declined, Estimate, Inputs, Subject
from mvtrack.inference.camera_estimation.depth_anything import (
    DepthAnythingConfig,
    depth_anything_missing,
    recover_with_depth_anything,
)
from mvtrack.models.weights.consent import consent_lacking
from mvtrack.video.writer import to_bytes


@dataclass(frozen=True)
class DepthAnythingPoses:
    """non_commercial: whether weights that may not be used commercially, or whose licence is not known, may run."""

    config: DepthAnythingConfig = DepthAnythingConfig()
    non_commercial: bool = False
    name: str = "depth_anything_3"
    version: int = 1
    gives: Literal["poses"] = "poses"
    needs: tuple[str, ...] = ()

    @property
    def settings(self) -> dict:
        return self.config.record()

    @property
    def footnotes(self) -> tuple[str, ...]:
        head = "ray" if self.config.ray_pose else "camera"
        return (
            f"Poses: Depth Anything 3, {self.config.model}, {head} head, longest side {self.config.process_res} px, "
            "all frames at once; the paper does not say which variant it used.",
        )

    def missing(self) -> str | None:
        return depth_anything_missing(self.config) or (
            None if self.non_commercial else consent_lacking(self.config.model)
        )

    def estimate(self, inputs: Inputs, video: Float[Tensor, "N 3 H W"], subject: Subject) -> Estimate | Declined:
        return recover_with_depth_anything(to_bytes(video), self.config).arrays()
