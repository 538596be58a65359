"""How video files are read, as users say it."""

from typing import Annotated, Literal

from mvtrack.config.checked import Range, config
from mvtrack.config.command_line import option

OnDamage = Literal["refuse", "use-good-part"]


@config
class VideoReading:
    """Keyword arguments of `open_video`."""

    fps: Annotated[float, Range(1e-3, 1000)] | None = option(
        None, "frame rate of a folder of images, an image or an animated one"
    )
    damaged: OnDamage = option(
        "refuse", "what becomes of a video that is broken from a frame on; its good part is used with a note"
    )


DEFAULT_READING = VideoReading()
