"""The scenes of a dataset's folder, as what tracks them needs them."""

from dataclasses import dataclass
from pathlib import Path

from mvtrack.config.datasets import DatasetOptions
from mvtrack.data.public.layout import TRACKS, DatasetLayout, SceneFiles
from mvtrack.data.public.registry import find_layout
from mvtrack.training.clip_sources import file_hash
from mvtrack.training.pseudo_tracks.views import ClipViews


@dataclass(frozen=True)
class DatasetClip:
    """One scene. tracks: the file that its tracks belong into."""

    layout: DatasetLayout
    files: SceneFiles
    tracks: Path

    @property
    def name(self) -> str:
        return self.files.name

    def contents(self) -> list:
        """What its videos and cameras are, for a key. Raises ValueError for a file that is not there."""
        paths = [f"{path.name} {file_hash(path)}" for path in self.layout.files(self.files)]
        return [self.layout.name, list(self.files.detail), paths]

    def open(self) -> ClipViews:
        """All its views. Raises ValueError for videos or cameras that cannot be read or do not belong together."""
        scene = self.layout.read(self.files)
        if scene.is_still:
            raise ValueError(f"{self.files.path} holds photographs of something that does not move: nothing to follow")
        videos, cameras = zip(*((view.video, view.camera) for view in scene.views), strict=True)
        if any(camera is None for camera in cameras):
            raise ValueError(f"{self.files.path} has no cameras, without which no view tells anything of another")
        return ClipViews(videos, cameras)


def tracked_clips(root: Path, options: DatasetOptions) -> list[DatasetClip]:
    """All scenes of a folder, whatever its layout. Raises ValueError where there is none."""
    layout = find_layout(root, options.layout)
    scenes = layout.scenes(root, options)
    if options.tracks is None:
        places = [scene.path / TRACKS for scene in scenes]
        if len(set(places)) < len(places):
            raise ValueError(f"several scenes of {root} lie in one folder: name one for their tracks with --tracks")
    else:
        places = [options.tracks / f"{scene.name}.npz" for scene in scenes]
    return [DatasetClip(layout, scene, place) for scene, place in zip(scenes, places, strict=True)]
