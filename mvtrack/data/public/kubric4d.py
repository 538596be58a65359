"""Kubric-4D and ParallelDomain-4D's layout of it (GCD): sixteen still, synchronised cameras around a scene.

kubric4d/scn00000/scn00000_p0_v{0…15}.json, …_rgb.mp4
kubric4d/scn00000/frames_p0_v{0…15}/rgba_00000.png depth_00000.tiff segmentation_00000.png
"""

from functools import partial
from pathlib import Path

from mvtrack.data.public.kubric import camera_of_metadata, numbered, read_depth, read_metadata
from mvtrack.data.public.layout import DatasetLayout, MultiViewScene, SceneFiles, SceneView, scene_tracks
from mvtrack.geometry.pose_files.parse import natural_order
from mvtrack.video.images import ImageVideo
from mvtrack.video.reader import open_video


class Kubric4D(DatasetLayout):
    name = "kubric-4d"
    title = "Kubric-4D (GCD)"
    domain = "rendered"
    bases = ("kubric4d/scn*", "scn*", ".")
    signs = ("scn*_p*_v*.json",)

    def files(self, scene: SceneFiles) -> list[Path]:
        found = []
        for metadata in _metadata(scene.path):
            frames, video = _frames(metadata), _video(metadata)
            pictures = numbered(frames, "rgba", ".png") if frames else [video]
            depth = sorted(frames.glob("depth_*.tiff")) if frames else []
            found += [metadata, *pictures, *depth]
        return found

    def read(self, scene: SceneFiles) -> MultiViewScene:
        views = []
        for metadata in _metadata(scene.path):
            fields, size, rate = read_metadata(metadata)
            camera, frames, depth = camera_of_metadata(fields, size), _frames(metadata), None
            count = camera.shape[0]
            if frames:
                video = ImageVideo.of(frames, numbered(frames, "rgba", ".png", count), rate)
                if next(frames.glob("depth_*.tiff"), None) is not None:
                    depth = partial(read_depth, numbered(frames, "depth", ".tiff", count), camera)
            else:
                video = open_video(_video(metadata))
            views.append(SceneView(metadata.stem.rpartition("_")[2], video, camera, depth))
        return MultiViewScene(scene.name, tuple(views), tracks=scene_tracks(scene, len(views)))


def _metadata(scene: Path) -> list[Path]:
    files = list(scene.glob("scn*_p*_v*.json"))
    return [files[i] for i in natural_order([file.name for file in files])]


def _frames(metadata: Path) -> Path | None:
    folder = metadata.with_name("frames_" + "_".join(metadata.stem.split("_")[-2:]))
    return folder if folder.is_dir() else None


def _video(metadata: Path) -> Path:
    return metadata.with_name(f"{metadata.stem}_rgb.mp4")
