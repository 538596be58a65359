"""What `mvtrack prepare` encodes: scenes of a dataset, or scenes that this project renders, told apart by keys."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path

from mvtrack.config.data import LatentsConfig
from mvtrack.config.datasets import DatasetOptions
from mvtrack.config.run import RunConfig
from mvtrack.data.public.fitting import FittedScene, FittedView
from mvtrack.data.public.layout import DatasetLayout, SceneFiles
from mvtrack.data.public.registry import open_dataset_folder
from mvtrack.data.synthetic.bank import BankRecipe, render_scene_tensors
from mvtrack.data.synthetic.scene import SceneStyle
from mvtrack.files.cache import sampled_sha256
from mvtrack.geometry.camera import Camera
from mvtrack.video.resize import plan_fit
from tracking_head import Tracks

RENDERED_VIEWS = 3
_WHOLE = 1 << 20  # bytes up to which a file's hash is of all of it
_PIECES, _PIECE_BYTES = 4, 1 << 14  # of larger ones: a dataset of 136,000 videos is told apart by reading 9 GB of it


class Source(ABC):
    """A clip to come. captions: none, one of all views, or one of each."""

    name: str
    captions: tuple[str, ...] = ()
    domain: str = ""

    @abstractmethod
    def contents(self) -> list:
        """What its pictures, cameras and depth are made of, for a key. Raises ValueError for a clip that lacks some."""

    @abstractmethod
    def tracks_contents(self) -> list | None:
        """What its tracks are made of beside `contents`; None: it has none."""

    @abstractmethod
    def num_views(self) -> int:
        """How many views it will have."""

    @abstractmethod
    def views(self) -> Iterator[FittedView]:
        """Its views at the clip's size, one by one. Raises ValueError for what cannot be read."""

    @abstractmethod
    def tracks(self) -> Tracks:
        """Its tracks in the clip's pixels."""

    def close(self) -> None:
        """Let go of what was opened, which would stay for all clips of a dataset; it is opened anew where needed."""
        for name in ("_scene", "_part"):
            self.__dict__.pop(name, None)


@dataclass
class DatasetSource(Source):
    """A scene of a dataset."""

    layout: DatasetLayout
    files: SceneFiles
    config: RunConfig
    entry: LatentsConfig

    def __post_init__(self) -> None:
        self.name, self.captions = self.files.name, self.files.captions
        self.domain = self.files.domain or self.layout.domain

    def contents(self) -> list:
        paths = self.layout.files(self.files)
        return [self.layout.name, list(self.files.detail), [f"{path.name} {file_hash(path)}" for path in paths]]

    def tracks_contents(self) -> list | None:
        return [file_hash(path) for path in self.layout.track_files(self.files)] or None

    @cached_property
    def _scene(self) -> FittedScene:
        fit = partial(plan_fit, config=self.config.model, mode="crop", size=self.entry.size)
        views = self.config.model.views
        needed = 2 if views is None else 1 if views.encoding == "path" else views.count
        return FittedScene(self.layout.read(self.files), self.config.data.num_frames, fit, needed)

    def num_views(self) -> int:
        return self._scene.num_views

    def views(self) -> Iterator[FittedView]:
        yield from self._scene.views()

    def tracks(self) -> Tracks:
        return self._scene.tracks()


@dataclass
class RenderedSource(Source):
    """A scene that the project renders, with exact tracks and depth, and no caption."""

    recipe: BankRecipe
    number: int

    def __post_init__(self) -> None:
        self.name, self.domain = f"rendered_{self.number:06d}", "rendered"

    def contents(self) -> list:
        return [asdict(self.recipe), self.number]

    def tracks_contents(self) -> list:
        return []

    def num_views(self) -> int:
        return self.recipe.num_views

    @cached_property
    def _part(self) -> dict:
        return render_scene_tensors(self.recipe, self.number)

    def views(self) -> Iterator[FittedView]:
        part = self._part
        for video, c2w, K, depth in zip(part["video"], part["c2w"], part["K"], part["depth"], strict=True):
            yield FittedView(video, Camera(c2w, K, self.recipe.size, True), depth.float())

    def tracks(self) -> Tracks:
        return Tracks(*(self._part[f"track_{name}"] for name in ("xy", "visible", "valid")))


def sources_of_folder(root: Path, config: RunConfig, entry: LatentsConfig, options: DatasetOptions) -> list[Source]:
    """The scenes of a dataset's folder, or the clips of a user's, see mvtrack/data/public."""
    layout, scenes = open_dataset_folder(root, options)
    return [DatasetSource(layout, scene, config, entry) for scene in scenes]


def rendered_sources(count: int, config: RunConfig, entry: LatentsConfig) -> list[Source]:
    """Scenes by their numbers; still ones, of as many views as there are choices in, for a model of still scenes."""
    views = config.model.views
    num_views = RENDERED_VIEWS if views is None else max(RENDERED_VIEWS, 2 * views.count)
    recipe = BankRecipe(entry.size, config.data.num_frames, num_views, scene=SceneStyle(static=views is not None))
    return [RenderedSource(recipe, n) for n in range(count)]


def file_hash(path: Path) -> str:
    """What tells a dataset's file from others, read in part. A folder: of its files' names and sizes.

    Raises ValueError for a file that is not there.
    """
    try:
        if path.is_dir():
            listed = "".join(f"{file.name} {file.stat().st_size}\n" for file in sorted(path.iterdir()))
            return hashlib.sha256(listed.encode()).hexdigest()
        return sampled_sha256(path, _PIECES, _PIECE_BYTES, _WHOLE)
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror or error}") from None
