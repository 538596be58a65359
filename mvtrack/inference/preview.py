"""What a shot will look like, before any model runs: camera frusta, and the source warped with flat or given depth.

The cameras are `shot_cameras`, the very ones that the render uses.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from mvtrack.config.model import ModelConfig
from mvtrack.data.visualize.panels import side_by_side
from mvtrack.files.atomic_io import new_folder, refuse_existing
from mvtrack.geometry.camera import Camera, camera_rays, pixel_grid
from mvtrack.geometry.frusta import draw_frusta
from mvtrack.geometry.keyframe_path import warn_of_jumps
from mvtrack.geometry.splat import splat
from mvtrack.inference.full_resolution.frame_depth import FrameDepth
from mvtrack.inference.full_resolution.geometry import LearnedGeometry
from mvtrack.inference.full_resolution.monocular import monocular_geometry
from mvtrack.inference.full_resolution.plan import shipped_refiner
from mvtrack.inference.pipeline import Shot, path_notes, shot_cameras
from mvtrack.models.refiner.files import load_refiner
from mvtrack.video.depth_file import DepthFile, is_depth_file
from mvtrack.video.reader import open_video
from mvtrack.video.resize import Fit, plan_fit
from mvtrack.video.video import Video
from mvtrack.video.writer import VideoWriter

FLAT = "flat"  # for --depth
_HEIGHT = 240  # the preview's least height, whatever the model's
_CHUNK = 16  # frames held at a time


@dataclass(frozen=True)
class Preview:
    video: Path
    frusta: Path
    warnings: list[str]


def preview_file(
    video: Path, shot: Shot, config: ModelConfig, out: Path, depth: Path | str | None = None, overwrite: bool = False
) -> Preview:
    """Write preview.mp4 (source and warped source) and frusta.png to a new folder; returns warnings about the path.

    depth: see `depth_of`. config: of the model that will render, for the picture's shape.
    """
    refuse_existing(out, overwrite)
    footage = open_video(video)
    fit = plan_fit(footage.size, config, shot.fit, shot.size)
    cameras = shot_cameras(shot, footage, fit)
    warper = Warper(footage, fit, depth_of(depth, footage, cameras, shot.path.pivot_m), shot.path.pivot_m)
    with new_folder(out) as aside:
        with VideoWriter(aside / "preview.mp4", footage.fps) as writer:
            for reference, warped in warper.pairs(cameras):
                for frame in side_by_side({"source": reference, f"preview: {shot.path.label}": warped}):
                    writer.append(frame)
        draw_frusta(aside / "frusta.png", cameras, shot.path.pivot_m)
    warnings = [*path_notes(shot.path, len(footage)), *warn_of_jumps(cameras.c2w[1].double(), shot.path.pivot_m)]
    return Preview(out / "preview.mp4", out / "frusta.png", warnings)


def depth_of(
    depth: Path | str | None, footage: Video, cameras: Camera, subject_distance: float
) -> DepthFile | FrameDepth | None:
    """What a preview warps with. depth: a .npy or .npz file with z-depth (T, H, W) or (H, W) in the path's unit; `auto`
    or the id of a depth network; `flat`: None, a picture at the subject's distance; None: learned from single frames.
    """
    if depth == FLAT:
        return None
    if is_depth_file(depth):
        return DepthFile(Path(depth), footage)
    learned = LearnedGeometry(load_refiner(shipped_refiner()).depth, motion_known=False, result=False)
    geometry = learned if depth is None else monocular_geometry(str(depth), learned)
    return FrameDepth(geometry, footage, cameras, subject_distance)


FrameReader = DepthFile | FrameDepth


class Warper:
    """Warps a source's frames to other cameras, magnified to a size that can be looked at.

    depth: what gives the z-depth of a frame; None: a flat picture stands at `subject_distance`.
    """

    def __init__(self, footage: Video, fit: Fit, depth: FrameReader | None, subject_distance: float) -> None:
        zoom = max(1, -(-_HEIGHT // fit.model[0]))
        parts = (_times(part, zoom) for part in (fit.scaled, fit.cut, fit.content, fit.place, fit.model))
        self.footage, self.fit = footage, Fit(fit.mode, fit.source, *parts)
        self.depth, self.subject_distance = depth, subject_distance

    def source(self, start: int, stop: int) -> Float[Tensor, "T 3 H W"]:
        """Frames of the source."""
        return self.fit.apply(self.footage.read(start, stop, self.fit.scaled))

    def warp(self, image: Float[Tensor, "3 H W"], frame: int, cameras: Camera) -> Float[Tensor, "3 H W"]:
        """A source frame seen by cameras[1] at that time, of cameras (2, T) for the model's picture; gaps are dark."""
        large = cameras.resized(self.fit.model)
        if self.depth is None:
            z = flat_depth(large[0, frame], large[0, 0], self.subject_distance)
        else:
            z = self.depth.read(frame, self.fit)
        warped, hit = splat(image, z, large[0, frame], large[1, frame])
        return torch.where(hit, warped, -0.85)

    def pairs(self, cameras: Camera) -> Iterator[tuple[Float[Tensor, "n 3 H W"], Float[Tensor, "n 3 H W"]]]:
        """The whole source and its warp in pieces, without what was padded."""
        frames = len(self.footage)
        for start in tqdm(range(0, frames, _CHUNK), desc="previewing", unit="chunk"):
            source = self.source(start, min(start + _CHUNK, frames))
            warped = torch.stack([self.warp(image, i, cameras) for i, image in enumerate(source, start)])
            yield self.fit.undo(source), self.fit.undo(warped)


def _times(pair: tuple[int, int], factor: int) -> tuple[int, int]:
    return pair[0] * factor, pair[1] * factor


def flat_depth(camera: Camera, first: Camera, distance: float) -> Float[Tensor, "H W"]:
    """z-depth of a plane that faces the source's first frame at a distance. Behind or beside the camera: infinite."""
    normal = first.c2w[:3, 2]
    point = first.c2w[:3, 3] + distance * normal
    rays = camera_rays(pixel_grid(camera.size).to(camera.K), camera.K) @ camera.c2w[:3, :3].T
    depth = ((point - camera.c2w[:3, 3]) @ normal) / (rays @ normal)
    return torch.where(depth > 0, depth, torch.inf)
