"""Picture sizes as people type them, and how a picture meets another size."""

import re
from typing import Literal

FitMode = Literal["auto", "crop", "pad", "stretch"]


def picture_size(text: str) -> tuple[int, int]:
    """(H, W) of text such as 480x832. Raises ValueError that completes a sentence, such as `--size ...`."""
    match = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", text)
    if not match:
        raise ValueError(f"must look like 480x832 (height x width), got {text!r}")
    return int(match[1]), int(match[2])
