"""What a public dataset does not say of itself, or keeps elsewhere: options of `mvtrack prepare`."""

from pathlib import Path

from mvtrack.config.checked import Positive, config
from mvtrack.config.command_line import option


@config(kw_only=True)
class DatasetOptions:
    """What the files themselves do not say.

    captions: file_name is a scene's name, or a video's path in MultiCamVideo.
    """

    layout: str | None = option(None, "which dataset's layout the folder has; default: the one that it fits")
    focal_mm: Positive | None = option(None, "lens of a MultiCamVideo scene whose folder does not name it (f24_…)")
    ortho_scale: Positive | None = option(None, "units that Wonder3D's orthographic pictures are wide")
    captions: Path | None = option(None, "table of captions (file_name,text); default: metadata.csv in the folder")
    tracks: Path | None = option(None, "folder of point tracks, SCENE.npz each; default: tracks.npz in each scene")
