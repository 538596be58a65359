"""MultiCamVideo (ReCamMaster): ten synchronised cameras a scene, poses in Unreal's axes, the lens in a folder's name.

train/f24_aperture5/scene1/videos/cam01.mp4 … cam10.mp4, cameras/camera_extrinsics.json; val/10basic_trajectories/ alike
metadata.csv  file_name,text  captions that ReCamMaster's users make, of videos by their path in the dataset
"""

import re
from dataclasses import replace
from pathlib import Path

from mvtrack.config.datasets import DatasetOptions
from mvtrack.data.public.layout import (
    DatasetLayout,
    MultiViewScene,
    SceneFiles,
    SceneView,
    open_videos,
    read_captions,
    scene_tracks,
)
from mvtrack.geometry.pose_files.parse import natural_order
from mvtrack.geometry.pose_files.timing import FrameGrid, read_video_cameras
from mvtrack.video.reader import videos_in

_LENS = re.compile(r"f(\d{1,3}(?:\.\d+)?)(?:_aperture[\d.]+)?", re.ASCII)
_CAMERAS, _CAPTIONS = "cameras/camera_extrinsics.json", "metadata.csv"


class MultiCamVideo(DatasetLayout):
    name = "multicamvideo"
    title = "MultiCamVideo (ReCamMaster)"
    domain = "rendered"
    bases = ("train/f*/scene*", "f*/scene*", "scene*", "val/*", "*", ".")
    signs = ("videos/cam*.mp4", _CAMERAS)
    options = ("focal_mm",)

    def is_scene(self, folder: Path) -> bool:
        return (folder / "videos").is_dir() or (folder / "cameras").is_dir()

    def scene_name(self, root: Path, folder: Path) -> str:
        parts = [part for part in folder.relative_to(root).parts if part != "train"]
        lens = _lens_folder(folder)
        named = parts if lens is None or lens in parts else [lens, *parts]
        return "_".join(named or [folder.resolve().name])

    def scenes(self, root: Path, options: DatasetOptions) -> list[SceneFiles]:
        table = options.captions or next(
            (p / _CAPTIONS for p in (root, root.parent) if (p / _CAPTIONS).is_file()), None
        )
        captions = {} if table is None else read_captions(table)
        found = []
        for scene in super().scenes(root, options):
            lens = _lens_folder(scene.path)
            focal_mm = options.focal_mm if lens is None else float(_LENS.fullmatch(lens)[1])
            own = _captions_of(scene, captions) or scene.captions
            found.append(replace(scene, detail=() if focal_mm is None else (focal_mm,), captions=own))
        return found

    def files(self, scene: SceneFiles) -> list[Path]:
        return [*_videos(scene.path), scene.path / _CAMERAS]

    def read(self, scene: SceneFiles) -> MultiViewScene:
        if not scene.detail:
            raise ValueError(
                f"{scene.path}: none of its folders names the lens (such as f24_aperture5): say it with --focal-mm"
            )
        views = []
        for video in open_videos(_videos(scene.path)):
            camera, _ = read_video_cameras(
                scene.path / _CAMERAS, FrameGrid.of(video), format="recammaster", camera=video.path.stem,
                focal_mm=scene.detail[0],
            )  # fmt: skip
            views.append(SceneView(video.path.stem, video, camera))
        return MultiViewScene(scene.name, tuple(views), tracks=scene_tracks(scene, len(views)))


def _videos(folder: Path) -> list[Path]:
    videos = videos_in(folder / "videos") if (folder / "videos").is_dir() else []
    if len(videos) < 2:
        raise ValueError(f"{folder / 'videos'} holds {len(videos)} videos: expected cam01.mp4, cam02.mp4, …")
    return [videos[i] for i in natural_order([video.stem for video in videos])]


def _lens_folder(folder: Path) -> str | None:
    """The nearest parent that is named after a lens."""
    return next((p.name for p in folder.resolve().parents if _LENS.fullmatch(p.name)), None)


def _captions_of(scene: SceneFiles, captions: dict[str, str]) -> tuple[str, ...]:
    """Of each view, where the table has any of them: paths are compared by their ends, scenes restart per lens."""
    if not captions or not (scene.path / "videos").is_dir():
        return ()
    found, videos = [], videos_in(scene.path / "videos")
    for video in (videos[i] for i in natural_order([video.stem for video in videos])):
        parts = video.resolve().parts
        tails = ("/".join(parts[-n:]) for n in range(min(6, len(parts)), 2, -1))
        found.append(next((captions[tail] for tail in tails if tail in captions), ""))
    return tuple(found) if any(found) else ()
