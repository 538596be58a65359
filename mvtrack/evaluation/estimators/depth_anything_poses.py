"""Cameras by Depth Anything 3, in its own environment: what the paper names for DAVIS, though not which variant."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from mvtrack.evaluation.interface import Estimate, Estimator, Inputs, Subject
from mvtrack.inference.camera_estimation.depth_anything import DepthAnythingConfig, recover_with_depth_anything
from mvtrack.models.weights.consent import consent_lacking
from mvtrack.video.writer import to_bytes


@dataclass(frozen=True)
class DepthAnythingPoses(Estimator):
    """non_commercial: whether weights that may not be used commercially, or whose licence is not known, may run."""

    config: DepthAnythingConfig = DepthAnythingConfig()
    non_commercial: bool = False
    name = "depth_anything_3"

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
        lacking = self.config.program.missing()
        return lacking or (None if self.non_commercial else consent_lacking(self.config.model))

    def estimate(self, inputs: Inputs, video: Float[Tensor, "N 3 H W"], subject: Subject) -> Estimate:
        return recover_with_depth_anything(to_bytes(video), self.config).arrays()
