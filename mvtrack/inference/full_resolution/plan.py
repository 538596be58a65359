"""From what a shot asks for to a `FullResolution`: the region, the best geometry there is, and what to say about it."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import torch
from jaxtyping import UInt8
from torch import Tensor

from mvtrack.config.video_reading import DEFAULT_READING, VideoReading
from mvtrack.geometry.camera import Camera
from mvtrack.inference.full_resolution.geometry import FileGeometry, GeometrySource, LearnedGeometry
from mvtrack.inference.full_resolution.monocular import monocular_geometry
from mvtrack.inference.full_resolution.region import MAX_PIXELS, Region, Resolution, plan_region
from mvtrack.inference.full_resolution.stream import REACH, FullResolution, stands_still
from mvtrack.inference.machine import free_gib
from mvtrack.models.refiner.files import Refiner, load_refiner
from mvtrack.video.depth_file import DepthFile, is_depth_file
from mvtrack.video.reader import open_video
from mvtrack.video.resize import Fit
from mvtrack.video.video import Video

_BYTES_PER_PIXEL = 6 * (REACH * 2 + 4) + 120  # of the result: frames that are held, and work on one of them


@dataclass(frozen=True)
class FullPlan:
    """region, full: None where the model's own picture is the result. geometry: its name, for run.json."""

    region: Region | None
    full: FullResolution | None
    geometry: str | None
    notes: tuple[str, ...] = ()


def shipped_refiner() -> Path:
    """Folder of the refiner that comes with the package."""
    return Path(str(resources.files("mvtrack").joinpath("shipped", "tiny_refiner")))


def plan_full_resolution(
    resolution: Resolution, depth: Path | str | None, footage: Video, fit: Fit, cameras: Camera,
    subject_distance: float, motion_known: bool, reading: VideoReading = DEFAULT_READING,
) -> FullPlan:  # fmt: skip
    """cameras: (2, T) of the model's picture. motion_known: whether the source's cameras were given or measured.

    Raises ValueError for depth that cannot be used, and for a result that does not fit into memory.
    """
    region = plan_region(fit, resolution)
    if region is None:
        return FullPlan(None, None, None)
    refuse_too_large(region)
    refiner = load_refiner(shipped_refiner())
    scaled = cameras.scaled(1 / subject_distance)
    frames = cameras.shape[1]
    turns = all(stands_still(scaled[0, t], scaled[1, t]) for t in range(frames))
    notes = list(region_notes(region, resolution))
    if depth is not None and turns:
        notes.append(f"--depth {depth} has no effect: the path only turns and zooms, which needs no depth")
    geometry = choose_geometry(None if turns else depth, refiner, region, footage, subject_distance, motion_known)
    name = "homography: the path only turns and zooms" if turns else geometry.name
    if not turns and depth is None and not motion_known:
        notes.append(
            "geometry is estimated from the source and the result (no --depth, no --source-cameras): where both "
            "mislead it, contours bend"
        )
    large = open_video(
        footage.path, fps=reading.fps, damaged=reading.damaged
    )  # a decoder of its own: the model's goes on reading small frames

    def read(number: int) -> UInt8[Tensor, "3 H W"]:
        return large.read(number, number + 1)[0]

    full = FullResolution(refiner.blend, geometry, region, cameras, subject_distance, read)
    return FullPlan(region, full, name, tuple(notes))


def choose_geometry(
    depth: Path | str | None, refiner: Refiner, region: Region, footage: Video, subject_distance: float,
    motion_known: bool, result: bool = True,
) -> GeometrySource:  # fmt: skip
    """The best there is: depth from a file; that of a network for single pictures, where it is asked for; or the
    learned sweep. result: whether a model's result will be there to look at."""
    learned = LearnedGeometry(refiner.depth, motion_known, result)
    if depth is None:
        return learned
    if not is_depth_file(depth):
        return monocular_geometry(str(depth), learned)
    file, place = DepthFile(Path(depth), footage), _region_fit(region)
    check_depth(file, place, len(footage), subject_distance, Path(depth))
    return FileGeometry(lambda frame: file.read(frame, place), subject_distance, f"depth of {depth}")


def check_depth(file: DepthFile, fit: Fit, frames: int, subject_distance: float, path: Path) -> None:
    """Raises ValueError for depth that is mostly negative, or that is of another unit than the subject's distance."""
    for frame in sorted({0, frames // 2, frames - 1}):
        depth = file.read(frame, fit)
        known = depth.isfinite()
        if known.any() and (depth[known] <= 0).float().mean() > 0.5:
            raise ValueError(
                f"{path}: most depth of frame {frame} is not positive; z-depth grows away from the camera: change the "
                "sign, or invert disparity"
            )
        usable = depth[known & (depth > 0)]
        if len(usable) and not 0.02 < float(usable.median()) / subject_distance < 50:
            raise ValueError(
                f"{path}: the middle depth of frame {frame} is {float(usable.median()):.4g}, the subject's distance "
                f"{subject_distance:g}: they must be in one unit; scale the file, or pass --subject-distance"
            )


def composition_bytes(size: tuple[int, int]) -> int:
    """Memory that a result of a size (H, W) takes beside the model."""
    return size[0] * size[1] * _BYTES_PER_PIXEL


def refuse_too_large(region: Region) -> None:
    """Raises ValueError where a result takes more memory than is free."""
    needed = composition_bytes(region.size) / 2**30
    free = free_gib(torch.device("cpu"))
    if free is not None and needed > 0.9 * free:
        raise ValueError(
            f"a result of {region.size[1]}x{region.size[0]} takes {needed:.1f} GiB, {free:.1f} GiB are free: choose a "
            f"smaller one with --resolution HxW"
        )


def region_notes(region: Region | None, resolution: Resolution) -> Iterator[str]:
    """What a result of this resolution does not show of what could be shown, in words."""
    if region is None:
        return
    shown, whole = region.box[2:], plan_region(region.fit, "source").box[2:]
    lost = [1 - part / of for part, of in zip(shown, whole, strict=True)]
    if max(lost) > 0.01:
        scale = max((math.prod(region.size) / math.prod(whole)) ** 0.5, 16 / min(whole))
        height, width = (2 * round(side * scale / 2) for side in whole)
        sides = "left and right" if lost[1] > lost[0] else "above and below"
        yield (
            f"--resolution {region.size[0]}x{region.size[1]} is of another aspect: {100 * max(lost):.0f} % of the "
            f"picture is cut off {sides}; --resolution {height}x{width}, or source, keeps it"
        )
    if resolution == "source" and shown[0] * shown[1] > MAX_PIXELS:
        yield (
            f"the source's {shown[1]}x{shown[0]} is made {region.size[1]}x{region.size[0]}; --resolution "
            f"{shown[0]}x{shown[1]} keeps it"
        )


def _region_fit(region: Region) -> Fit:
    """How the source lies in the region, at most as large as geometry is carried over."""
    top, left, height, width = region.box
    return Fit("crop", region.fit.source, region.fit.source, (top, left), (height, width), (0, 0), (height, width))
