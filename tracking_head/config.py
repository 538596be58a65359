"""Sizes and options of the tracking head."""

from dataclasses import dataclass, field
from typing import Literal

from tracking_head.checks import check_fields
from tracking_head.pyramid import CorrelationConfig

_KEPT_BYTES = 2**30


@dataclass(frozen=True)
class HeadConfig:
    """Defaults are MVTrack4Gen's head (§5.2, B.2) with MV-TAP's sizes (method §5).

    displacement: add the point's motion to and from the neighbouring frames to the tokens (84 values, as MV-TAP).
    camera: add the ray of the current estimate, in coordinates of the mean of all cameras (permuting views changes
        nothing) or of view 0's first frame; `mvtap`: MV-TAP's frame, see `encodings.common_frame`; none: no cameras.
    time_length: a clip of another number of frames gets the time embedding of one of this length, stretched; None:
        frames are numbered as they come.
    recompute: compute activations again in the backward pass instead of keeping them; None: those of the correlation,
        and those of the transformer, where they would take more than 1 GiB.
    """

    correlation: CorrelationConfig = field(default_factory=CorrelationConfig)
    correlation_hidden: int = 384
    correlation_dim: int = 256  # per level
    dim: int = 384
    heads: int = 8
    layers: int = 3
    mlp_ratio: float = 4.0
    virtual_tracks: int = 64
    view_attention: bool = True
    iterations: int = 4
    displacement: bool = False
    camera: Literal["none", "mean", "reference", "mvtap"] = "none"
    time_length: int | None = None
    recompute: bool | None = None

    def __post_init__(self) -> None:
        counts = (
            "correlation_hidden", "correlation_dim", "dim", "heads", "layers", "virtual_tracks", "iterations",
            "time_length",
        )  # fmt: skip
        check_fields(self, dict.fromkeys(counts, 1))
        if self.dim % self.heads:
            raise ValueError(f"head.dim {self.dim} must be divisible by head.heads {self.heads}")
        if self.token_dim % 2:
            raise ValueError(
                f"head.correlation_dim {self.correlation_dim} must make an even token, not {self.token_dim}"
            )

    @property
    def token_dim(self) -> int:
        """Values of one token: visibility, confidence, correlation, displacement."""
        return 2 + self.correlation.levels * self.correlation_dim + (84 if self.displacement else 0)

    def recomputes(self, values: int) -> bool:
        """Whether activations of so many values an iteration are computed again in the backward pass."""
        return 4 * values * self.iterations > _KEPT_BYTES if self.recompute is None else self.recompute
