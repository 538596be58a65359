"""Features of other networks that a diffusion model's own are drawn to: REPA and Geometry Forcing."""

from typing import Literal

from mvtrack.config.checked import Count, NonNegative, NonNegativeInt, config


@config
class ProjectorConfig:
    """An MLP from what a layer's block returns to a teacher's features, trained and kept with the network.

    layer: counted from 0. features: the teacher's values a token. scale: with a second MLP, from the features'
    direction to the features themselves (Geometry Forcing).
    """

    layer: NonNegativeInt
    features: Count
    hidden: Count = 2048
    scale: bool = False


@config
class TeacherConfig:
    """A frozen network, and what stands in for one where nothing can be downloaded.

    kind: `dinov2` by transformers, each view alone (REPA); `vggt` by its package, all views together (Geometry
    Forcing); `colours`, the colours of a token's cells; `points`, the exact point in 3D of each token in the first
    view's frame, as sines and cosines. weights: a hub id or folder, of the first two.
    """

    kind: Literal["dinov2", "vggt", "colours", "points"] = "dinov2"
    weights: str | None = "facebook/dinov2-base"

    def __post_init__(self) -> None:
        if (self.kind in ("dinov2", "vggt")) != (self.weights is not None):
            raise ValueError(
                f"weights are of kinds dinov2 and vggt, which need them, got {self.weights} for {self.kind}"
            )


@config
class FeatureLossConfig:
    """repa: weight of REPA's loss, 0 is off (0.5 in its paper). geometry_forcing: of Geometry Forcing's, which is the
    sum of its two parts by `angular` and `scale`, the paper's weights."""

    repa: NonNegative = 0.0
    geometry_forcing: NonNegative = 0.0
    angular: NonNegative = 0.5
    scale: NonNegative = 0.05
    teacher: TeacherConfig = TeacherConfig()

    def __post_init__(self) -> None:
        if self.repa > 0 and self.geometry_forcing > 0:
            raise ValueError("repa and geometry_forcing draw one projector to two networks: set one of them to 0")

    @property
    def is_used(self) -> bool:
        """Whether there is anything to project to."""
        return self.repa > 0 or self.geometry_forcing > 0
