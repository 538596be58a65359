"""Which tracker makes pseudo tracks, as it is typed."""

from pathlib import Path
from typing import Literal

from mvtrack.config.checked import Positive, config
from mvtrack.config.command_line import option
from mvtrack.geometry.presets import PIVOT_M

TrackerName = Literal["own", "mvtap", "cotracker3"]


@config
class TrackerOptions:
    """Which tracker follows points, and where they begin in views that are not the query's."""

    tracker: TrackerName = option("own", "own: --model's tracking head; mvtap, cotracker3: released weights")
    tracker_weights: Path | None = option(None, "of mvtap or cotracker3 (scaled_offline.pth)", metavar="FILE")
    tracker_python: Path | None = option(None, "of cotracker3: the interpreter of an environment that has it")
    starts: Literal["attention", "none"] = option(
        "attention", "how mvtap and cotracker3 find points in other views: by --model's attention, or not at all"
    )
    subject_distance: Positive = option(PIVOT_M, "of the scene, in the cameras' unit", metavar="M")
    non_commercial: bool = option(False, "use weights that are for non-commercial use, or whose licence is not known")

    def __post_init__(self) -> None:
        if self.tracker == "own" and self.starts == "none":
            raise ValueError(
                "--starts none is for mvtap and cotracker3: the model's own head finds points by attention"
            )
        if self.tracker == "own" and self.tracker_weights is not None:
            raise ValueError("--tracker-weights is for mvtap and cotracker3: name the model with --model")
        if self.tracker != "cotracker3" and self.tracker_python is not None:
            raise ValueError("--tracker-python is for cotracker3, which runs in an environment of its own")

    @property
    def needs_model(self) -> bool:
        """Whether this project's model is at work."""
        return self.tracker == "own" or self.starts == "attention"
