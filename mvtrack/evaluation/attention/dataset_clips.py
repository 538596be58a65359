"""Clips of a dataset to analyse attention on: scenes, and two views of each, drawn at random (MVTrack4Gen A.1)."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mvtrack.config.datasets import DatasetOptions
from mvtrack.config.model import ModelConfig
from mvtrack.data.clip import Clip, num_latent_frames
from mvtrack.data.public.fitting import FittedScene
from mvtrack.data.public.layout import DatasetLayout, SceneFiles
from mvtrack.data.public.registry import open_dataset_folder
from mvtrack.data.public.sampling import drawn_scenes, read_pair
from mvtrack.video.resize import plan_fit


@dataclass(frozen=True)
class DatasetClips(Sequence[Clip]):
    """Each clip is read whenever it is indexed, so that one lies in memory: two views, the first the reference, at the
    model's size. A scene's views are drawn from `seed` and its name.

    Raises ValueError, when a scene is read, for one that has no tracks or fewer than two views.
    """

    layout: DatasetLayout
    scenes: tuple[SceneFiles, ...]
    model: ModelConfig
    num_frames: int
    seed: int = 0

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, index: int | slice) -> "Clip | DatasetClips":
        if isinstance(index, slice):
            return DatasetClips(self.layout, self.scenes[index], self.model, self.num_frames, self.seed)
        files = self.scenes[index]
        pair, _ = read_pair(self.layout, files, self.seed)
        if pair.tracks is None:
            raise ValueError(f"{files.path} has no tracks to compare with: make them with `mvtrack pseudo-tracks`")
        fit = partial(plan_fit, config=self.model, mode="crop", size=self.model.sizes[0])
        return FittedScene(pair, self.num_frames, fit, min_views=2).clip()


def draw_clips(
    root: Path, dataset: DatasetOptions, model: ModelConfig, count: int, num_frames: int | None = None, seed: int = 0
) -> DatasetClips:
    """`count` scenes of a folder, or all where there are fewer. num_frames: the first of each video; None: the model's.

    Raises ValueError for a model for still scenes, a number of frames that is not 4n + 1, and a folder without scenes.
    """
    if model.views is not None:
        raise ValueError("this model makes views of still scenes, and clips are videos: analyse it with eval/navi.py")
    frames = num_frames or model.num_frames
    num_latent_frames(frames)
    layout, scenes = open_dataset_folder(root, dataset)
    return DatasetClips(layout, drawn_scenes(scenes, count, seed), model, frames, seed)
