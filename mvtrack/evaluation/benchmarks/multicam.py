"""MVTrack4Gen's table 4: of synchronised videos one is re-shot along the camera of another, which is the truth."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from mvtrack.config.datasets import DatasetOptions
from mvtrack.config.sizes import FitMode
from mvtrack.data.public.fitting import FittedScene
from mvtrack.data.public.layout import DatasetLayout, SceneFiles
from mvtrack.data.public.registry import open_dataset_folder
from mvtrack.data.public.sampling import drawn_scenes, read_pair
from mvtrack.evaluation.benchmarks.pictures import BenchmarkOnDisk
from mvtrack.evaluation.interface import Inputs
from mvtrack.evaluation.report.columns import CAMERA
from mvtrack.evaluation.runner.records import hash_of_files
from mvtrack.video.resize import fit_to


@dataclass(frozen=True)
class MultiCam(BenchmarkOnDisk):
    """root: a dataset's folder of synchronised videos, such as MultiCamVideo's. A case is a scene and two of its views,
    drawn from `seed`. size, fit: of every picture. num_frames: the first of each video."""

    root: Path
    dataset: DatasetOptions
    num_scenes: int = 40
    size: tuple[int, int] = (480, 832)
    num_frames: int = 81
    seed: int = 0
    fit: FitMode = "crop"
    name = "multicam"
    title = "MultiCamVideo"
    paper_columns = {
        "Visual quality": ("psnr", "ssim", "lpips"),
        "Geometric consistency": ("met3r",),
        "Camera accuracy": CAMERA,
    }

    @cached_property
    def _opened(self) -> tuple[DatasetLayout, dict[str, SceneFiles]]:
        layout, scenes = open_dataset_folder(self.root, self.dataset)
        return layout, {scene.name: scene for scene in drawn_scenes(scenes, self.num_scenes, self.seed)}

    @property
    def settings(self) -> dict:
        return {
            "version": 1, "size": list(self.size), "num_frames": self.num_frames, "fit": self.fit, "seed": self.seed,
            "layout": self._opened[0].name, "focal_mm": self.dataset.focal_mm,
        }  # fmt: skip

    @property
    def footnotes(self) -> tuple[str, ...]:
        layout, scenes = self._opened
        return (
            f"{len(scenes)} scenes of {layout.title} and two views of each, drawn from seed {self.seed}; the paper "
            "does not say which scenes it held out, and a model may have been trained on these.",
            f"The first {self.num_frames} frames of each video. Pictures and cameras {self.fitted}.",
        )

    def case_keys(self) -> list[str]:
        return list(self._opened[1])

    def digest(self, key: str) -> str:
        layout, scenes = self._opened
        pair, order = read_pair(layout, scenes[key], self.seed)
        own = {view.video.path for view in pair.views}
        others = {view.video.path for view in layout.read(scenes[key]).views} - own
        paths = [*layout.files(scenes[key]), *layout.track_files(scenes[key])]
        files = [path for path in paths if not others & {path, *path.parents}]
        return hash_of_files(files, [key, self.settings, order, scenes[key].captions, [path.name for path in files]])

    def load(self, key: str) -> Inputs:
        layout, scenes = self._opened
        pair, order = read_pair(layout, scenes[key], self.seed)
        clip = FittedScene(pair, self.num_frames, lambda size: fit_to(size, self.size, self.fit), min_views=2).clip()
        depth, target_depth = (None, None) if clip.depth is None else clip.depth
        captions = scenes[key].captions
        return Inputs(
            key,
            clip.video[0],
            clip.camera,
            fps=clip.fps,
            caption=captions[order[1]] if len(captions) > 1 else "".join(captions),
            source_camera_known=True,
            subject_distance=clip.scene_depth,
            target=clip.video[1],
            target_frames=tuple(range(self.num_frames)),
            depth=depth,
            target_depth=target_depth,
            tracks=clip.tracks,
        )
