"""What a shot will look like, before any model runs: camera frusta, and the source warped with flat or given depth.

The cameras are `shot_cameras`, the very ones that the render uses.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor
from tqdm import tqdm

from mvtrack.config.model import ModelConfig
from mvtrack.data.visualize.contact_sheet import strip_grid
from mvtrack.data.visualize.panels import side_by_side
from mvtrack.files.atomic_io import new_folder, refuse_existing
from mvtrack.geometry.camera import Camera, camera_rays, pixel_grid, project, unproject
from mvtrack.geometry.frusta import draw_frusta
from mvtrack.geometry.keyframe_path import warn_of_jumps
from mvtrack.geometry.path_language import parse_path
from mvtrack.geometry.presets import PRESETS
from mvtrack.geometry.splat import splat_depth
from mvtrack.geometry.warp import reproject, sample_bilinear, sample_nearest
from mvtrack.inference.full_resolution.fill import push_pull
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
_SAME_SURFACE = 0.1  # relative depth within which two views see the same surface
_SLIT = 48  # of the picture's height: half the width of gaps that are closed
DARK = -0.85  # where the source saw nothing
_DIMMED = 0.5  # of the colours around it, for what nothing is known of


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
    refuse_existing(out, overwrite, video, depth)
    footage = open_video(video, fps=shot.reading.fps, damaged=shot.reading.damaged)
    fit = plan_fit(footage.size, config, shot.fit, shot.size)
    cameras = shot_cameras(shot, footage, fit)
    warper = Warper(footage, fit, depth_of(depth, footage, cameras, shot.path.pivot_m), shot.path.pivot_m)
    with new_folder(out, overwrite, video, depth) as aside:
        with VideoWriter(aside / "preview.mp4", footage.fps) as writer:
            for reference, warped in warper.pairs(cameras):
                shown = {"source": reference, f"preview: {shot.path.label}": gaps_filled(warped)}
                for frame in side_by_side(shown):
                    writer.append(frame)
        draw_frusta(aside / "frusta.png", cameras, shot.path.pivot_m)
    path = path_notes(shot.path, len(footage))
    jumps = warn_of_jumps(cameras.c2w[1].double(), shot.path.pivot_m)
    warnings = [*footage.notes, *fit.notes, *path, *jumps]
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


def preset_sheet(
    video: Path, shot: Shot, config: ModelConfig, out: Path, depth: Path | str | None = None, overwrite: bool = False
) -> tuple[Path, list[str]]:
    """Write presets.png to a new folder: the source at a third, two thirds and its end, and what the camera of each
    preset sees then. Returns it, and notes about the video."""
    refuse_existing(out, overwrite, video, depth)
    footage = open_video(video, fps=shot.reading.fps, damaged=shot.reading.damaged)
    fit = plan_fit(footage.size, config, shot.fit, shot.size)
    still = shot_cameras(shot, footage, fit)
    warper = Warper(footage, fit, depth_of(depth, footage, still, shot.path.pivot_m), shot.path.pivot_m)
    last = len(footage) - 1
    shown = [round(last * part / 3) for part in (1, 2, 3)]
    source = torch.cat([warper.source(frame, frame + 1) for frame in shown])
    strips = {"source: a third, two thirds, end": warper.fit.undo(source)}
    strips[""] = torch.ones_like(warper.fit.undo(source))  # so that mirrored presets stand side by side
    for name in tqdm(PRESETS, desc="previewing", unit="preset"):
        cameras = shot_cameras(replace(shot, path=parse_path(name, shot.path.pivot_m)), footage, fit)
        seen = [warper.warp(image, frame, cameras) for image, frame in zip(source, shown, strict=True)]
        filled = gaps_filled(warper.fit.undo(torch.stack(seen)))
        strips[f"{name} {round(PRESETS[name].amount)} {PRESETS[name].unit}"] = filled
    with new_folder(out, overwrite, video, depth) as aside:
        strip_grid(aside / "presets.png", strips)
    return out / "presets.png", [*footage.notes, *fit.notes]


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
        source, target = large[0, frame], large[1, frame]
        if self.depth is None:
            return sampled(image, flat_depth(target, large[0, 0], self.subject_distance), source, target)
        z = self.depth.read(frame, self.fit)
        return sampled(image, seen_depth(z, source, target), source, target, z)

    def pairs(self, cameras: Camera) -> Iterator[tuple[Float[Tensor, "n 3 H W"], Float[Tensor, "n 3 H W"]]]:
        """The whole source and its warp in pieces, without what was padded."""
        frames = len(self.footage)
        for start in tqdm(range(0, frames, _CHUNK), desc="previewing", unit="chunk"):
            source = self.source(start, min(start + _CHUNK, frames))
            warped = torch.stack([self.warp(image, i, cameras) for i, image in enumerate(source, start)])
            yield self.fit.undo(source), self.fit.undo(warped)


def _times(pair: tuple[int, int], factor: int) -> tuple[int, int]:
    return pair[0] * factor, pair[1] * factor


def gaps_filled(warped: Float[Tensor, "T 3 H W"]) -> Float[Tensor, "T 3 H W"]:
    """What the source does not show takes the colours around it, dimmed, so that it is told from what it shows."""
    out = []
    for picture in warped.movedim(1, -1):
        known = (picture != DARK).any(-1, keepdim=True)
        around = torch.from_numpy(push_pull(picture.numpy(), known.float().numpy()))
        out.append(torch.where(known, picture, DARK + _DIMMED * (around - DARK)))
    return torch.stack(out).movedim(-1, 1)


def flat_depth(camera: Camera, first: Camera, distance: float) -> Float[Tensor, "H W"]:
    """z-depth of a plane that faces the source's first frame at a distance. Behind or beside the camera: infinite."""
    normal = first.c2w[:3, 2]
    point = first.c2w[:3, 3] + distance * normal
    rays = camera_rays(pixel_grid(camera.size).to(camera.K), camera.K) @ camera.c2w[:3, :3].T
    depth = ((point - camera.c2w[:3, 3]) @ normal) / (rays @ normal)
    return torch.where(depth > 0, depth, torch.inf)


def sampled(
    image: Float[Tensor, "3 H W"], target_depth: Float[Tensor, "H W"], source: Camera, target: Camera,
    source_depth: Float[Tensor, "H W"] | None = None,
) -> Float[Tensor, "3 H W"]:  # fmt: skip
    """What a target camera sees of a source frame: each of its pixels looked up in the source, however far magnified.

    target_depth: z-depth, not finite where it sees nothing. source_depth: tells what something nearer hides from the
    source. Specks and slits are closed from beside them; wider gaps are dark.
    """  # fmt: skip
    known = torch.isfinite(target_depth) & (target_depth > 0)
    xy, z = (part[0] for part in reproject(torch.where(known, target_depth, 1.0)[None], target[None], source[None]))
    inside = (xy >= 0).all(-1) & (xy < xy.new_tensor(source.size[::-1])).all(-1) & (z > 0)
    seen = known & inside
    if source_depth is not None:
        surface = sample_nearest(source_depth[None, None], xy[None])[0, 0]
        seen &= z - surface < _SAME_SURFACE * surface
    found = sample_bilinear(image[None], xy[None])[0]
    return found if seen.all() else closed(found, seen, max(1, target.size[0] // _SLIT))


def closed(picture: Float[Tensor, "3 H W"], seen: Bool[Tensor, "H W"], reach: int) -> Float[Tensor, "3 H W"]:
    """A picture whose gaps of up to twice `reach` pixels take the colours around them; others are dark."""
    side, known = 2 * reach + 1, seen[..., None].float()
    grown = F.max_pool2d(known.movedim(-1, 0), side, 1, reach)
    narrow = (-F.max_pool2d(-grown, side, 1, reach) > 0) & ~seen
    around = torch.from_numpy(push_pull(picture.movedim(0, -1).numpy(), known.numpy())).movedim(-1, 0)
    return torch.where(seen, picture, torch.where(narrow, around, DARK))


def seen_depth(depth: Float[Tensor, "H W"], source: Camera, target: Camera) -> Float[Tensor, "H W"]:
    """A depth map carried to another camera, so coarsely that magnified surfaces stay closed; NaN where nothing is."""
    known = (torch.isfinite(depth) & (depth > 0)).flatten()
    near = depth.flatten()[known]
    xy, z = project(unproject(pixel_grid(source.size).to(depth).flatten(0, 1)[known], near, source), target)
    in_view = (z > 0) & (xy >= 0).all(-1) & (xy < xy.new_tensor(target.size[::-1])).all(-1)
    if not in_view.any():
        return torch.full(target.size, torch.nan)
    zoom = (target.K[0, 0] / source.K[0, 0] * near / z)[in_view].quantile(0.9)
    factor = max(1, math.ceil(float(zoom)))
    coarse = target.resized(tuple(max(1, side // factor) for side in target.size))
    return F.interpolate(splat_depth(depth, source, coarse)[None, None], target.size, mode="nearest-exact")[0, 0]
