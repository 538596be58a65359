"""A folder that `mvtrack reshoot` wrote, opened again: both videos, both cameras, and the geometry between them."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mvtrack.files.cache import sha256
from mvtrack.geometry.camera import Camera
from mvtrack.geometry.pose_files.files import read_cameras
from mvtrack.inference.full_resolution.plan import choose_geometry, shipped_refiner
from mvtrack.inference.full_resolution.region import Region, plan_region
from mvtrack.inference.full_resolution.stream import FullResolution, Surfaces
from mvtrack.inference.tracking.generated_tracks import generated_fit
from mvtrack.models.refiner.files import load_refiner
from mvtrack.video.reader import open_video
from mvtrack.video.resize import Fit
from mvtrack.video.video import Video

FILES = ("run.json", "cameras.json", "video.mp4")
_PIECE = 8  # frames of the result that are read at once


@dataclass(frozen=True)
class Tracks2D:
    """xy: in source and result, raster pixels of pictures of `size`. visible: and followed there."""

    names: tuple[str, ...]
    xy: Float[Tensor, "2 T N 2"]
    visible: Bool[Tensor, "2 T N"]
    size: tuple[int, int]


@dataclass(frozen=True)
class Result:
    """camera: (2, T), source and result, of the result's size, in one world. video: the result. region: the
    part of the source that the result shows. subject_distance: in the cameras' unit. depth: what `--depth` named.
    motion_known: whether the source's cameras were given or measured."""

    folder: Path
    camera: Camera
    open_source: Callable[[], Video]
    video: Video
    region: Region
    model_fit: Fit
    subject_distance: float
    depth: str | None
    motion_known: bool

    @property
    def fps(self) -> float:
        return self.video.fps

    def surfaces(self) -> Iterator[Surfaces]:
        """Of every moment, in order. Raises ValueError for depth that cannot be used any more."""
        refiner, source = load_refiner(shipped_refiner()), self.open_source()
        geometry = choose_geometry(self.depth, refiner, self.region, source, self.subject_distance, self.motion_known)
        cameras = self.region.model_camera(self.camera).to(dtype=torch.float32)
        full = FullResolution(
            refiner.blend, geometry, self.region, cameras, self.subject_distance,
            lambda number: source.read(number, number + 1)[0],
        )  # fmt: skip
        return full.surfaces(self._made())

    def _made(self) -> Iterator[Float[Tensor, "n 3 h w"]]:
        """The result as the model's picture."""
        reader = open_video(self.video.path)
        for start in range(0, len(reader), _PIECE):
            frames = reader.read(start, min(start + _PIECE, len(reader)))
            frames = frames[..., : self.region.size[0], : self.region.size[1]]  # files have even sides
            small = torch.nn.functional.interpolate(
                frames, self.model_fit.scaled, mode="bilinear", antialias=True, align_corners=False
            )
            yield self.model_fit.apply(small)

    def tracks(self) -> Tracks2D | None:
        """What `--tracks` left in the folder."""
        path = self.folder / "tracks.npz"
        if not path.exists():
            return None
        with np.load(path, allow_pickle=False) as file:
            xy, visible = torch.from_numpy(file["xy"]).float(), torch.from_numpy(file["visible"] & file["followed"])
            names, sizes = tuple(str(name) for name in file["id"]), file["size"]
        if xy.shape[:2] != (2, self.camera.shape[1]) or tuple(sizes[0]) != self.region.fit.source:
            raise ValueError(f"{path} is of other videos than {self.folder / 'run.json'}")
        top, left, height, width = self.region.box
        size = torch.tensor(self.region.size[::-1])
        own = (xy[0] - torch.tensor([left, top])) * (size / torch.tensor([width, height]))
        made = xy[1] * (size / torch.from_numpy(sizes[1][::-1].copy()))
        return Tracks2D(names, torch.stack([own, made]), visible, self.region.size)


def open_result(folder: Path, source: Path | None = None) -> Result:
    """source: where the video that was re-shot lies now; None: where it lay.

    Raises ValueError for a folder that `mvtrack reshoot` did not write, and for a source that is not there or not the
    same any more.
    """
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        raise ValueError(f"{folder} is no result of mvtrack reshoot: it has no {missing[0]}")
    record = json.loads((folder / "run.json").read_text())
    if record.get("command") != "reshoot":
        raise ValueError(f"{folder}/run.json is of mvtrack {record.get('command')}: only re-shot videos have a source")
    path = source or Path(record["input"]["file"])
    if not path.exists():
        raise ValueError(f"{path}, which {folder} was made of, is not there: --source FILE says where it lies now")
    if record["input"]["sha256"] not in (None, sha256(path)):
        raise ValueError(f"{path} is not the video that {folder} was made of (its content differs)")
    fit = Fit(**{name: tuple(v) if isinstance(v, list) else v for name, v in record["fit"].items()})
    views = [read_cameras(folder / "cameras.json", view=view).camera for view in ("reference", "target")]
    camera, full = Camera.stack(views), record.get("full_resolution")
    if full is None:
        region, model_fit = plan_region(fit, fit.content), generated_fit(fit)
        camera = region.camera(camera)
    else:
        region = Region(fit, tuple(full["box"]), tuple(full["size"]))
        model_fit = region.result_fit()
    broken = any(note.startswith("damaged:") for note in record["input"]["notes"])

    def open_source() -> Video:
        return open_video(path, damaged="use-good-part" if broken else "refuse")

    footage, video = open_source(), open_video(folder / "video.mp4")
    if not len(footage) == len(video) == camera.shape[1]:
        raise ValueError(
            f"{path} has {len(footage)} frames, {video.path} {len(video)}, cameras.json {camera.shape[1]}: one of them "
            "was changed, or read with options that this command does not know"
        )
    shot = record["shot"]
    return Result(
        folder, camera, open_source, video, region, model_fit, shot["subject_distance"], shot.get("depth"),
        not shot["source"].startswith("still"),
    )  # fmt: skip
