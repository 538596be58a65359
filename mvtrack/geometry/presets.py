"""The ten basic camera paths of ReCamMaster by name, and how fast they run. No torch: command lines list them.

The motion itself is `CameraPath` in trajectory.py.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

Speed = Literal["linear", "ease", "ease_in", "ease_out"]

# ReCamMaster's own files end one half step early: 81 frames reach 160/161 of the nominal amount.
RECAMMASTER_END = 160 / 161

PIVOT_M = 4.0  # distance of the point that translate and arc presets look at


@dataclass(frozen=True)
class Preset:
    """amount: of the whole path, in `unit`. mirror: the preset that goes the other way."""

    unit: Literal["deg", "m"]
    amount: float
    mirror: str


PRESETS: dict[str, Preset] = {
    "pan_right": Preset("deg", 20 * RECAMMASTER_END, "pan_left"),
    "pan_left": Preset("deg", 20 * RECAMMASTER_END, "pan_right"),
    "tilt_up": Preset("deg", 10 * RECAMMASTER_END, "tilt_down"),
    "tilt_down": Preset("deg", 10 * RECAMMASTER_END, "tilt_up"),
    "zoom_in": Preset("m", 2 * RECAMMASTER_END, "zoom_out"),
    "zoom_out": Preset("m", 2 * RECAMMASTER_END, "zoom_in"),
    "translate_up": Preset("m", 1 * RECAMMASTER_END, "translate_down"),
    "translate_down": Preset("m", 1 * RECAMMASTER_END, "translate_up"),
    "arc_left": Preset("deg", 30.0, "arc_right"),
    "arc_right": Preset("deg", 30.0, "arc_left"),
}

SPEEDS: dict[str, Callable[[Any], Any]] = {  # progress over time, both from 0 to 1
    "linear": lambda u: u,
    "ease": lambda u: u * u * (3 - 2 * u),
    "ease_in": lambda u: u * u,
    "ease_out": lambda u: u * (2 - u),
}
