"""Who counts the matches between views."""

from dataclasses import fields
from pathlib import Path
from typing import Literal

from mvtrack.config.checked import Count, Share, config


@config
class MatchingConfig:
    """matcher: mutual nearest neighbours of SIFT descriptors, or a dense matcher in an environment of its own; the
    rest is for that. python: its interpreter; null: what $MVTRACK_LOFTR_PYTHON, $MVTRACK_ASPANFORMER_PYTHON name.
    weights: its file. repo: AspanFormer's checkout. threshold: of confidence, 0.2 as published. side: the longer side,
    in pixels, to which it scales pictures. non_commercial: consent to AspanFormer's licence."""

    matcher: Literal["sift", "loftr", "aspanformer"] = "sift"
    python: Path | None = None
    weights: Path | None = None
    repo: Path | None = None
    threshold: Share = 0.2
    side: Count = 640
    non_commercial: bool = False

    def __post_init__(self) -> None:
        if self.matcher == "sift" and any(getattr(self, f.name) != f.default for f in fields(self)):
            raise ValueError(
                "matching.matcher sift has no other settings: leave them out, or name loftr or aspanformer"
            )
        if self.matcher == "loftr" and self.repo is not None:
            raise ValueError("matching.repo is AspanFormer's checkout, LoFTR comes with kornia: leave it out")
        if self.matcher != "sift" and self.weights is None:
            raise ValueError(f"matching.matcher {self.matcher} needs matching.weights, the file of its weights")
