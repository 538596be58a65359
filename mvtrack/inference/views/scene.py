"""Photographs and new views of one still scene, each with its camera and with how it meets the model's picture."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from mvtrack.config.model import ModelConfig
from mvtrack.geometry.camera import Camera, relative_pose
from mvtrack.geometry.inverse_depth import filled_from_behind
from mvtrack.geometry.path_language import parse_path
from mvtrack.geometry.pose_files.files import shared_options
from mvtrack.geometry.presets import PIVOT_M
from mvtrack.inference.views.photo_cameras import (
    PhotoCameras,
    assumed_camera,
    cameras_from_file,
    measured_photo_cameras,
    subject_distance_of,
)
from mvtrack.inference.views.photos import PhotoSequence
from mvtrack.inference.views.request import AUTO, ViewsRequest
from mvtrack.inference.views.targets import is_pose_file, targets_along, targets_from_file
from mvtrack.video.depth_file import DepthFile, is_depth_file
from mvtrack.video.images import read_image, resized
from mvtrack.video.resize import Fit, fit_to, plan_fit


@dataclass(frozen=True)
class StillPhotos:
    """Photographs that have a camera. camera: () each, of its own size, float64, in the first one's frame. world: that
    frame, in the world that the user knows. record, notes: see `PhotoCameras`."""

    files: tuple[Path, ...]
    sizes: tuple[tuple[int, int], ...]
    camera: tuple[Camera, ...]
    fits: tuple[Fit, ...]
    subject_distance: float
    world: Float[Tensor, "4 4"]
    record: dict
    notes: tuple[str, ...]

    @property
    def fitted(self) -> Camera:
        """(N,), of the model's picture."""
        return Camera.stack([fit.camera(camera) for fit, camera in zip(self.fits, self.camera, strict=True)])

    def depth_maps(self, depth: Path | str | None) -> Float[Tensor, "N H W"]:
        """z-depth of a file as the model takes the photographs; unknown and padded pixels take the farthest around.

        Raises ValueError without a file.
        """
        if not is_depth_file(depth):
            raise ValueError("MVGenMaster's network needs the photographs' depth: give --depth FILE, one map each")
        file = DepthFile(Path(depth), PhotoSequence.showing(self.files, self.sizes, range(len(self.files))))
        maps = []
        for i, fit in enumerate(self.fits):
            z = file.read(i, fit)
            known = z.isfinite() & (z > 0)
            if not known.any():
                raise ValueError(f"{depth} holds no depth of {self.files[i].name}")
            maps.append(1 / filled_from_behind(torch.where(known, 1 / z, 0.0), known))
        return torch.stack(maps)

    def pictures(self) -> Float[Tensor, "N 3 H W"]:
        """As the model takes them, in [-1, 1]."""
        pictures = []
        for file, fit in zip(self.files, self.fits, strict=True):
            scaled = torch.from_numpy(resized(read_image(file), fit.scaled))
            pictures.append(fit.apply(scaled.permute(2, 0, 1)[None]))
        return torch.cat(pictures)


@dataclass(frozen=True)
class NewViews:
    """camera: (M,), of the model's picture, float64, in the first photograph's frame. names: of their files."""

    camera: Camera
    names: tuple[str, ...]
    notes: tuple[str, ...]


def read_photos(
    files: Sequence[Path], sizes: Sequence[tuple[int, int]], config: ModelConfig, request: ViewsRequest
) -> StillPhotos:
    """Find the cameras of photographs and fit them to the model's picture, whose size the first one chooses.

    Raises ValueError for several photographs without cameras, and as the sources of cameras do.
    """
    found = _cameras(files, sizes, request)
    kept = [i for i, camera in enumerate(found.camera) if camera is not None]
    files, sizes = tuple(files[i] for i in kept), tuple(sizes[i] for i in kept)
    cameras = [found.camera[i] for i in kept]
    first, notes = cameras[0], list(found.notes)
    distance = request.subject_distance
    if distance is None and request.cameras in (None, AUTO):
        distance = PIVOT_M
    elif distance is None and is_depth_file(request.depth):
        distance = _median_depth(Path(request.depth), files, sizes)
        notes.append(f"the subject is {distance:.4g} of the cameras' units away: the middle of {request.depth}")
    elif distance is None:
        centres = Camera.stack([camera.resized(first.size) for camera in cameras])
        distance, how = subject_distance_of(centres, found.points)
        notes.append(f"the subject is taken to be {distance:.4g} of the cameras' units away: {how}")
    chosen = plan_fit(sizes[0], config, request.fit, request.size)
    fits = tuple(plan_fit(size, config, request.fit, chosen.model) for size in sizes)
    said = {}
    for file, fit in zip(files, fits, strict=True):
        for note in fit.notes:
            said.setdefault(note, []).append(file.name)
    notes += [f"{names[0]}{f' and {len(names) - 1} more' * (len(names) > 1)}: {note}" for note, names in said.items()]
    moved = tuple(replace(camera, c2w=relative_pose(first.c2w, camera.c2w)) for camera in cameras)
    return StillPhotos(files, sizes, moved, fits, distance, first.c2w, found.record, tuple(notes))


def _median_depth(depth: Path, files: Sequence[Path], sizes: Sequence[tuple[int, int]]) -> float:
    """Of the first photograph, by a file of depth."""
    sequence = PhotoSequence.showing(files, sizes, range(len(files)))
    values = DepthFile(depth, sequence).read(0, fit_to(sizes[0], sizes[0]))
    known = values[values.isfinite() & (values > 0)]
    if not len(known):
        raise ValueError(f"{depth} holds no depth of {files[0].name}")
    return float(known.median())


def _cameras(files: Sequence[Path], sizes: Sequence[tuple[int, int]], request: ViewsRequest) -> PhotoCameras:
    if request.cameras == AUTO and len(files) > 1:
        return measured_photo_cameras(files, sizes, request.fov_deg, request.subject_distance or PIVOT_M)
    if request.cameras in (None, AUTO):
        if len(files) > 1:
            raise ValueError(
                f"{len(files)} photographs need cameras: give --cameras FILE, a pose file that names them, or "
                "--cameras auto, which measures them"
            )
        return assumed_camera(files[0], sizes[0], request.fov_deg)
    if request.fov_deg is not None:
        raise ValueError("--fov is for photographs whose cameras no file says: leave it out with --cameras FILE")
    return cameras_from_file(Path(request.cameras), files, sizes, _pose_options(request.cameras, request)[0])


def read_targets(text: str, photos: StillPhotos, config: ModelConfig, request: ViewsRequest) -> NewViews:
    """The cameras that a path of moves or a pose file asks for.

    A file that is that of the photographs too asks for its other pictures. Raises ValueError for one that asks for
    nothing, and for options that pose files would need where there is none.
    """
    first = photos.camera[0]
    if not is_pose_file(text):
        if request.pose_options and request.cameras in (None, AUTO):
            raise ValueError("options of pose files are given, and no pose file: leave them out")
        camera, notes = targets_along(parse_path(text, photos.subject_distance), first, request.frames)
        names = tuple(f"{i:04d}" for i in range(request.frames))
        return NewViews(photos.fits[0].camera(camera), names, notes)
    from_file = request.cameras not in (None, AUTO)
    camera, names, notes = targets_from_file(Path(text), _pose_options(text, request)[-1], first, from_file)
    if from_file:
        camera = replace(camera, c2w=relative_pose(photos.world, camera.c2w))
    if from_file and Path(text).resolve() == Path(request.cameras).resolve():
        shown = {file.stem for file in photos.files}
        left = [i for i, name in enumerate(names) if Path(name).stem not in shown]
        if not left or len(left) == len(names):
            raise ValueError(f"{text} holds the cameras of the photographs alone: --targets needs others")
        camera, names = camera[left], tuple(names[i] for i in left)
    fit = plan_fit(camera.size, config, request.fit, photos.fits[0].model)
    return NewViews(fit.camera(camera), _file_names(names), notes)


def _pose_options(text: str, request: ViewsRequest) -> list[dict]:
    """Options for the photographs' pose file, where there is one, and for the targets' one, `text`."""
    files = [Path(request.cameras)] if request.cameras not in (None, AUTO) else []
    return shared_options([*files, Path(text)], request.pose_options)


def _file_names(names: tuple[str, ...]) -> tuple[str, ...]:
    """As names of files, where that keeps them apart; else numbers."""
    plain = tuple(re.sub(r"[^\w.-]", "_", Path(name).stem) for name in names)
    fit = len(set(plain)) == len(plain) and all(name.strip("._") for name in plain)
    return plain if fit else tuple(f"{i:04d}" for i in range(len(names)))
