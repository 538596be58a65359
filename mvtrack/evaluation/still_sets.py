"""Cases of public still sets (RealEstate10K, DTU) by an evaluation index, as pixelSplat and MVSplat write them.

{"SCENE": {"context": [i, j], "target": [k, ...]} | null, ...}: numbers of a scene's pictures; null leaves a scene out.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mvtrack.config.datasets import DatasetOptions
from mvtrack.config.model import ModelConfig
from mvtrack.data.public.fitting import FittedScene
from mvtrack.data.public.layout import DatasetLayout, MultiViewScene, SceneFiles
from mvtrack.data.public.registry import open_dataset_folder
from mvtrack.geometry.pose_files.parse import read_json, read_text
from mvtrack.training.static_validation import StillCase
from mvtrack.video.resize import plan_fit

_LARGEST = 1 << 28  # bytes of an index


@dataclass(frozen=True)
class StillSet:
    """Scenes of a folder that an index names, in its order, and the pictures of each. given: how many are given."""

    layout: DatasetLayout
    scenes: tuple[SceneFiles, ...]
    pictures: tuple[tuple[int, ...], ...]
    given: int
    model: ModelConfig

    def __len__(self) -> int:
        return len(self.scenes)

    def __iter__(self) -> Iterator[StillCase]:
        """One scene in memory at a time. Raises ValueError for one that lacks a picture of the index."""
        fit = partial(plan_fit, config=self.model, mode="crop", size=self.model.sizes[0])
        for files, numbers in zip(self.scenes, self.pictures, strict=True):
            scene = self.layout.read(files)
            places = {number: i for i, number in enumerate(_numbers(self.layout, files, scene))}
            missing = next((n for n in numbers if n not in places), None)
            if missing is not None:
                raise ValueError(f"{files.path}: {files.name} has no picture {missing}, which the index names")
            chosen = scene.select([places[n] for n in numbers])
            yield StillCase(FittedScene(chosen, 1, fit).clip(), self.given, self.given)


def open_still_set(
    root: Path, index: Path, dataset: DatasetOptions, model: ModelConfig, given: int, count: int
) -> StillSet:
    """The first `count` cases with `given` context pictures and as many targets as the model makes beside them.

    Raises ValueError for a model that makes no single images, for an index of another form, and where no scene of the
    folder is in it, or none with enough pictures.
    """
    if model.views is None or model.views.encoding != "images":
        raise ValueError("a still set is for models that make single views: model.views with encoding images")
    if not given < model.views.count:
        raise ValueError(f"{given} of {model.views.count} views cannot be given: one at least is made")
    layout, scenes = open_dataset_folder(root, dataset)
    by_key = {key: scene for scene in reversed(scenes) for key in _keys(scene.name)}
    made, chosen, pictures, known = model.views.count - given, [], [], 0
    for key, context, target in _rows(index):
        if key not in by_key or len(chosen) == count:
            continue
        known += 1
        if len(context) >= given and len(target) >= made:
            chosen.append(by_key[key])
            pictures.append((*context[:given], *target[:made]))
    if not chosen:
        why = f"{known} scenes that are there have too few pictures" if known else "none of its scenes is there"
        raise ValueError(f"{index}: no case of {given} given and {made} made views in {root}: {why}")
    return StillSet(layout, tuple(chosen), tuple(pictures), given, model)


def _keys(name: str) -> list[str]:
    """A scene's name without the folders that it begins with: test_0a1b is the index's 0a1b."""
    parts = name.split("_")
    return ["_".join(parts[i:]) for i in range(len(parts))]


def _rows(index: Path) -> Iterator[tuple[str, list[int], list[int]]]:
    table = read_json(index, _LARGEST)
    if not isinstance(table, dict):
        raise ValueError(f"{index}: expected an object of scenes")
    for key, row in table.items():
        if row is None:
            continue
        lists = [row.get(name) for name in ("context", "target")] if isinstance(row, dict) else []
        if not lists or not all(isinstance(x, list) and x and all(type(n) is int and n >= 0 for n in x) for x in lists):
            raise ValueError(f'{index}: {key} must be null or {{"context": [i, j], "target": [k, ...]}}')
        if len({*lists[0], *lists[1]}) < len(lists[0]) + len(lists[1]):
            raise ValueError(f"{index}: {key} names a picture twice")
        yield key, *lists


def _numbers(layout: DatasetLayout, files: SceneFiles, scene: MultiViewScene) -> list[int]:
    """What an index calls each picture: DTU's are numbered as its cameras are, from 0; others by their places."""
    names = [view.name for view in scene.views]
    if layout.name == "dtu":
        return [int(name.split("_")[1]) - 1 for name in names]
    if layout.name == "dtu-pixelnerf":
        return [int(name) for name in names]
    if layout.name == "realestate10k":
        lines = sum(bool(line.strip()) for line in read_text(files.path).splitlines()) - 1
        if lines != len(names):
            raise ValueError(
                f"{files.path}: {len(names)} pictures for {lines} lines: an index counts lines, so all must be there"
            )
    return list(range(len(names)))
