"""Cameras by structure from motion (pycolmap): no weights; says where it cannot tell."""

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from mvtrack.data.video_io import to_bytes
from mvtrack.evaluation.interface import Declined, Estimate, Inputs
from mvtrack.structure.colmap import DEFAULT, ColmapConfig, colmap_missing, recover_with_colmap


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
            "camera that turns on the spot where that explains the matches. In references, what moves is masked as far "
            "as the benchmark says; in generated videos nothing is. Not comparable to learned estimators' figures.",
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
        masked = of_reference and inputs.dynamic is not None
        ignore = inputs.dynamic.numpy() if masked else None
        return recover_with_colmap(to_bytes(video), lens, known, ignore, self.config).arrays()
