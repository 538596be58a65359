"""What a public dataset does not say of itself, or keeps elsewhere: options of `mvtrack prepare`."""

from pathlib import Path

from mvtrack.config.checked import Positive, config
from mvtrack.config.command_line import option


@config(kw_only=True)
class DatasetOptions:
    """focal_mm: where no folder's name says the lens. captions: a table. tracks: a folder with <scene>.npz files."""

    layout: str | None = option(None, "which dataset's layout the folder has; default: the one that it fits")
    focal_mm: Positive | None = option(None, "lens of a MultiCamVideo scene whose folder does not name it (f24_…)")
    captions: Path | None = option(None, "table of captions (file_name,text); default: metadata.csv in the folder")
    tracks: Path | None = option(None, "folder of point tracks, SCENE.npz each; default: tracks.npz in each scene")
