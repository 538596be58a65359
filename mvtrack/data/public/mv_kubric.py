"""MV-Kubric (MVTracker): synchronised rendered views with exact depth and point tracks.

kubric-multiview/{train,validation,test}/{n}/view_{k}/rgba_00000.png depth_00000.tiff segmentation_00000.png
                                                      metadata.json tracks_2d.npz
kubric-multiview/{train,validation,test}/{n}/tracks_3d.npz
"""

from functools import partial
from pathlib import Path

import torch
from jaxtyping import Bool
from torch import Tensor

from mvtrack.data.public.files import read_arrays, read_map, same_size
from mvtrack.data.public.kubric import camera_of_metadata, numbered, read_depth, read_metadata
from mvtrack.data.public.layout import (
    DatasetLayout,
    MultiViewScene,
    PointTracks,
    SceneFiles,
    SceneView,
    tracks_from_file,
)
from mvtrack.geometry.camera import project
from mvtrack.geometry.pose_files.parse import natural_order
from mvtrack.video.images import ImageVideo

_MAX_ERROR_PX = 1.0  # of the middle point: its tracks tell whether a scene's cameras were read rightly


class MVKubric(DatasetLayout):
    name = "mv-kubric"
    title = "MV-Kubric (MVTracker)"
    domain = "rendered"
    bases = ("kubric-multiview/*/*", "train/*", "validation/*", "test/*", "*", ".")
    signs = ("view_*/metadata.json", "view_*/rgba_*.png", "view_*/tracks_2d.npz", "tracks_3d.npz")

    def is_scene(self, folder: Path) -> bool:
        return next(folder.glob("view_*"), None) is not None

    def files(self, scene: SceneFiles) -> list[Path]:
        kinds = (("rgba", ".png"), ("depth", ".tiff"), ("segmentation", ".png"))
        return [
            file
            for view in _views(scene.path)
            for file in (*(f for kind in kinds for f in numbered(view, *kind)), view / "metadata.json")
        ]

    def track_files(self, scene: SceneFiles) -> list[Path]:
        own = [scene.path / "tracks_3d.npz", *(view / "tracks_2d.npz" for view in _views(scene.path))]
        return super().track_files(scene) or own

    def read(self, scene: SceneFiles) -> MultiViewScene:
        views = []
        for folder in _views(scene.path):
            fields, size, rate = read_metadata(folder / "metadata.json")
            camera = camera_of_metadata(fields, size)
            count = camera.shape[0]
            video = ImageVideo.of(folder, numbered(folder, "rgba", ".png", count), rate)
            depth, masks = numbered(folder, "depth", ".tiff", count), numbered(folder, "segmentation", ".png", count)
            maps = partial(read_depth, depth, camera), partial(_objects, masks, size)
            views.append(SceneView(folder.name, video, camera, *maps))
        tracks = partial(_tracks, scene, views)
        return MultiViewScene(scene.name, tuple(views), tracks=tracks)


def _views(scene: Path) -> list[Path]:
    views = [path for path in scene.glob("view_*") if path.is_dir()]
    if not views:
        raise ValueError(f"{scene} holds no views: expected view_0, view_1, …")
    return [views[i] for i in natural_order([view.name for view in views])]


def _objects(files: list[Path], size: tuple[int, int], frames: int) -> Bool[Tensor, "T H W"]:
    return same_size([read_map(path) for path in files[:frames]], size, files[0].parent) > 0


def _tracks(scene: SceneFiles, views: list[SceneView]) -> PointTracks:
    """Raises ValueError where the cameras do not project the scene's points onto its tracks."""
    if scene.tracks is not None:
        return tracks_from_file(scene.tracks, len(views))
    (world,) = (torch.from_numpy(array).double() for array in read_arrays(scene.path / "tracks_3d.npz", "tracks_3d"))
    made = []
    for view in views:
        path = scene.path / view.name / "tracks_2d.npz"
        xy, occluded = (torch.from_numpy(array) for array in read_arrays(path, "tracks_2d", "occlusion"))
        if tuple(xy.shape) != (len(view.video), world.shape[1], 2) or occluded.shape != xy.shape[:2]:
            raise ValueError(
                f"{path}: expected {world.shape[1]} tracks over {len(view.video)} frames as in tracks_3d.npz, got "
                f"{tuple(xy.shape)} and occlusion {tuple(occluded.shape)}"
            )
        visible = ~occluded.bool()
        error = (project(world, view.camera)[0] - xy).norm(dim=-1)[visible]
        if len(error) and error.median() > _MAX_ERROR_PX:
            raise ValueError(
                f"{path}: its cameras project tracks_3d {error.median():.3g} px beside tracks_2d: axes, quaternions "
                "(w x y z) or size are not as this layout has them"
            )
        made.append((xy.float(), visible, visible.any(0)))
    return PointTracks(*(torch.stack(part) for part in zip(*made, strict=True)))
