"""The cameras of photographs: of a pose file by their names, measured by structure from motion, or one assumed lens."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mvtrack.files.cache import sha256
from mvtrack.geometry.camera import Camera, intrinsics_from_fov, project
from mvtrack.geometry.pose_files.parse import shown_path
from mvtrack.geometry.pose_files.sequence import refuse_distortion
from mvtrack.geometry.pose_files.timing import read_with_defaults
from mvtrack.geometry.presets import PIVOT_M
from mvtrack.inference.camera_estimation.cached_estimate import GUESSED_FOV_DEG, LONGEST_SIDE, estimate_once
from mvtrack.inference.camera_estimation.colmap import DEFAULT, colmap_missing, recover_with_colmap
from mvtrack.inference.camera_estimation.estimated_cameras import CameraEstimationError, EstimatedCameras
from mvtrack.inference.views.photos import exif_fov_deg
from mvtrack.video.images import read_image, resized
from mvtrack.video.resize import Fit, fit_to

AUTO = "auto"
_ASPECT = 0.01
_MEETS = 0.06  # of the distance, by which optical axes may miss a place and still look at it
_ONE_LENS = 1.05  # ratio of focal lengths up to which EXIF may mean one lens
_VERSION = 1  # raised when the same photographs give other cameras


@dataclass(frozen=True)
class PhotoCameras:
    """camera: () of each photograph, in pixels of its own size; None where it could not be placed. points: of the
    scene, where some are known. record: how, as plain values. notes: what the user must know."""

    camera: tuple[Camera | None, ...]
    points: Float[Tensor, "N 3"] | None
    record: dict
    notes: tuple[str, ...] = ()


def assumed_camera(photo: Path, size: tuple[int, int], fov_deg: float | None) -> PhotoCameras:
    """Of a single photograph, the origin of its world: as wide as is given, as its EXIF says, or 50 degrees."""
    written = exif_fov_deg(photo, size) if fov_deg is None else None
    fov, notes = fov_deg or written or GUESSED_FOV_DEG, ()
    if fov_deg is None:
        how = "by its EXIF" if written else "an assumption: it does not say (--fov)"
        notes = (f"{photo.name} is {fov:.1f} degrees wide, {how}",)
    camera = Camera(torch.eye(4, dtype=torch.float64), intrinsics_from_fov(fov, size).double(), size)
    return PhotoCameras((camera,), None, {"assumed_fov_deg": round(fov, 3)}, notes)


def cameras_from_file(
    file: Path, photos: Sequence[Path], sizes: Sequence[tuple[int, int]], options: dict
) -> PhotoCameras:
    """By the photographs' names, or in their order where the file has no names of pictures and is as long.

    K follows a photograph that is larger or smaller than the file says. Raises ValueError for another aspect, for a
    distorted lens, and where a photograph has no camera.
    """
    sequence, shown = read_with_defaults(file, {"size": sizes[0]}, **options), shown_path(file)
    refuse_distortion(sequence, f"photographs, which {shown} is for,")
    place = {Path(name).stem: i for i, name in enumerate(sequence.names)}
    by_name = any(photo.stem in place for photo in photos)
    if not by_name and sequence.num_frames != len(photos):
        raise ValueError(
            f"{shown} holds {sequence.num_frames} cameras and none of them is named {photos[0].stem}: name its "
            f"pictures as the {len(photos)} photographs are, or give as many photographs, in its order"
        )
    cameras, own = [], sequence.camera.size
    for i, (photo, size) in enumerate(zip(photos, sizes, strict=True)):
        if by_name and photo.stem not in place:
            raise ValueError(f"{shown} names no camera of {photo.name}")
        if abs(own[1] / own[0] / (size[1] / size[0]) - 1) > _ASPECT:
            raise ValueError(
                f"{photo} is {size[1]}x{size[0]}, {shown} is for pictures of {own[1]}x{own[0]}: crop it to that aspect"
            )
        cameras.append(sequence.camera[place[photo.stem] if by_name else i].resized(size).to(dtype=torch.float64))
    notes = sequence.notes + (() if by_name else (f"{shown}: its cameras are taken in the photographs' order",))
    return PhotoCameras(tuple(cameras), sequence.points, {"file": str(file)}, notes)


def measured_photo_cameras(
    photos: Sequence[Path], sizes: Sequence[tuple[int, int]], fov_deg: float | None, subject_distance: float
) -> PhotoCameras:
    """By pycolmap; the middle depth of what the first placed photograph shows becomes `subject_distance`.

    Photographs are laid, at one length of their longer side, into one square where their aspects differ: those of one
    phone, upright and lying, have one lens then. Different lenses are known by EXIF. Raises ValueError with the reason
    where pictures do not tell, and without pycolmap.
    """
    if lacking := colmap_missing():
        raise ValueError(f"the cameras of photographs cannot be measured: missing {lacking}, or give --cameras FILE")
    canvas, fits = _canvas(sizes)
    focal_px, known = _lenses(photos, sizes, fits, fov_deg)
    K = torch.tensor([[[f, 0, canvas[1] / 2], [0, f, canvas[0] / 2], [0, 0, 1]] for f in focal_px])
    lens = Camera(torch.eye(4).expand(len(K), 4, 4), K, canvas)

    def measure() -> EstimatedCameras:
        frames, ignored = zip(
            *(_laid(photo, fit, canvas) for photo, fit in zip(photos, fits, strict=True)), strict=True
        )
        ignore = np.stack(ignored)
        return recover_with_colmap(np.stack(frames), lens, known, ignore if ignore.any() else None)

    depends = {
        "version": _VERSION, "photos": [sha256(photo) for photo in photos], "focal_px": [round(f, 3) for f in focal_px],
        "known": known, "canvas": canvas, "colmap": DEFAULT.record(),
    }  # fmt: skip
    key = hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()[:32]
    found = estimate_once(key, measure)
    if isinstance(found, str):
        raise CameraEstimationError(
            f"the cameras of {len(photos)} photographs cannot be measured: {found}; a pose file in place of auto helps"
        )
    found = found.scaled_to_depth(subject_distance)
    placed = found.found.tolist()
    cameras = tuple(
        _unlaid(found.camera[i], fit, size) if placed[i] else None
        for i, (fit, size) in enumerate(zip(fits, sizes, strict=True))
    )
    misfit = None if found.misfit_px is None else round(found.misfit_px, 3)
    record = {"method": found.method, "placed": sum(placed), "misfit_px": misfit, "lens_known": known}
    left_out = [photo.name for photo, there in zip(photos, placed, strict=True) if not there]
    notes = [f"cameras of {sum(placed)} of {len(photos)} photographs measured ({found.method})", *found.notes]
    if not known and len({round(max(size) / min(size), 2) for size in sizes}) > 1:
        notes.append(
            "photographs of different aspects and unknown lenses are taken to be of one lens, at one length of their "
            "longer side: EXIF or --cameras FILE says otherwise"
        )
    if left_out:
        notes.append(f"left out, as they could not be placed: {', '.join(left_out)}")
    return PhotoCameras(cameras, found.points, record, tuple(notes))


def subject_distance_of(camera: Camera, points: Float[Tensor, "N 3"] | None) -> tuple[float, str]:
    """How far what the first of cameras (N,) looks at is, in their unit, and by what: the middle depth of known points
    that it sees, the place where optical axes come nearest to each other, or an assumption."""
    if points is not None and len(points):
        xy, z = project(points.double(), camera[0].to(dtype=torch.float64))
        seen = (z > 0) & (xy >= 0).all(-1) & (xy < xy.new_tensor(camera.size[::-1])).all(-1)
        if seen.sum() >= 20:
            return float(z[seen].median()), "the middle depth of the known points"
    centre, axis = camera.c2w[:, :3, 3].double(), camera.c2w[:, :3, 2].double()
    across = torch.eye(3, dtype=torch.float64) - axis[:, :, None] * axis[:, None]
    normal = across.sum(0)
    if len(centre) > 1 and float(torch.linalg.eigvalsh(normal)[0]) > 1e-3 * len(centre):
        meeting = torch.linalg.solve(normal, (across @ centre[:, :, None]).sum(0)[:, 0])
        depth = ((meeting - centre) * axis).sum(-1)
        off = (across @ (meeting - centre)[:, :, None])[..., 0].norm(dim=-1)
        if (depth > 0).all() and (off < _MEETS * depth).all():
            return float(depth[0]), "where the optical axes meet"
    return PIVOT_M, "an assumption: --subject-distance says it in the cameras' unit"


def _canvas(sizes: Sequence[tuple[int, int]]) -> tuple[tuple[int, int], list[Fit]]:
    """One size for all photographs, and how each lies in it."""
    side = min(LONGEST_SIDE, max(map(max, sizes)))
    scaled = [tuple(max(1, round(length * side / max(size))) for length in size) for size in sizes]
    canvas = scaled[0] if len(set(scaled)) == 1 else (side, side)
    return canvas, [fit_to(size, canvas, "pad") for size in sizes]


def _lenses(
    photos: Sequence[Path], sizes: Sequence[tuple[int, int]], fits: Sequence[Fit], fov_deg: float | None
) -> tuple[list[float], bool]:
    """Focal lengths on the canvas, one or one a photograph, and whether they are known. fov_deg: of the first."""
    if fov_deg is not None:
        return [_focal_px(fov_deg, fits[0])], True
    written = [exif_fov_deg(photo, size) for photo, size in zip(photos, sizes, strict=True)]
    focal = [_focal_px(fov or GUESSED_FOV_DEG, fit) for fov, fit in zip(written, fits, strict=True)]
    if None not in written and max(focal) > _ONE_LENS * min(focal):
        return focal, True
    return focal[:1], False


def _focal_px(fov_deg: float, fit: Fit) -> float:
    return float(intrinsics_from_fov(fov_deg, fit.scaled)[0, 0])


def _laid(photo: Path, fit: Fit, canvas: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """A photograph on the canvas, and which pixels are none of it."""
    (top, left), (height, width) = fit.place, fit.content
    frame, outside = np.zeros((*canvas, 3), np.uint8), np.ones(canvas, bool)
    frame[top : top + height, left : left + width] = resized(read_image(photo), fit.scaled)
    outside[top : top + height, left : left + width] = False
    return frame, outside


def _unlaid(camera: Camera, fit: Fit, size: tuple[int, int]) -> Camera:
    top, left = fit.place
    return camera.cropped(left, top, fit.scaled).resized(size)
