"""What the page asks for becomes cameras to look through, and the command line that renders with the very same ones."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Annotated, Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mvtrack.config.checked import Count, NonNegativeInt, Range, config
from mvtrack.config.model import ModelConfig
from mvtrack.config.placement import Placement
from mvtrack.config.sizes import picture_size
from mvtrack.geometry.camera import Camera, relative_pose
from mvtrack.geometry.keyframe_path import PosePath, warn_of_jumps
from mvtrack.geometry.keyframes import MAX_KEYS, MIN_KEYS, PathKeys
from mvtrack.geometry.path_language import parse_path
from mvtrack.geometry.presets import PIVOT_M, Speed
from mvtrack.geometry.trajectory import CameraMotion
from mvtrack.inference.camera_estimation.source_cameras import MeasuredSource, measure_source
from mvtrack.inference.full_resolution.plan import refuse_too_large
from mvtrack.inference.full_resolution.region import Region, Resolution, plan_region
from mvtrack.inference.memory.check_memory import refuse_inference
from mvtrack.inference.memory.encoders import encoders_of
from mvtrack.inference.memory.forecast import Expected, VideoJob, expected
from mvtrack.inference.memory.inference import Work
from mvtrack.inference.pipeline import DEFAULT_FOV_DEG, Shot, path_notes, shipped_decoder, shipped_model, shot_cameras
from mvtrack.inference.sampler import SamplerOptions
from mvtrack.models.decoder.files import load_aligner
from mvtrack.models.prompts import Captions
from mvtrack.models.reshoot_model import read_config
from mvtrack.video.resize import Fit, plan_fit, still_camera
from mvtrack.video.video import Video

TINY = "tiny"  # the model that ships; with tracks, the one that follows points
POSE_FILE = "path.json"
_KEYS = 5  # handles of a path in words
_LONGEST_TEXT = 2000
_FARTHEST = 1000.0  # of a keyframe, in subject distances
_WHEN: dict[str, Callable[[Tensor], Tensor]] = {  # the time at which a share of the path is done: SPEEDS' inverses
    "linear": lambda u: u,
    "ease": lambda u: 0.5 - (torch.asin(1 - 2 * u) / 3).sin(),
    "ease_in": lambda u: u.sqrt(),
    "ease_out": lambda u: 1 - (1 - u).sqrt(),
}


@config
class Keyframe:
    """c2w: camera-to-world, row by row. zoom: focal length over the source's first."""

    c2w: tuple[float, ...]
    zoom: Annotated[float, Range(0.05, 20)] = 1.0

    def __post_init__(self) -> None:
        if len(self.c2w) != 16 or not all(map(math.isfinite, self.c2w)):
            raise ValueError("c2w must be 16 finite numbers")


@config
class PathWish:
    """A path in words, or through keyframes in the world of the preview. fov: of the source; None: the usual one, or
    the measured one. measured: the source's own motion is taken as it was measured."""

    text: str | None = None
    keys: tuple[Keyframe, ...] = ()
    speed: Speed = "linear"
    fov: Annotated[float, Range(1, 170)] | None = None
    distance: Annotated[float, Range(1e-3, 1e6)] = PIVOT_M
    measured: bool = False

    def __post_init__(self) -> None:
        if (self.text is None) == (not self.keys):
            raise ValueError("a path is either text or keys")
        if self.keys and not MIN_KEYS <= len(self.keys) <= MAX_KEYS:
            raise ValueError(f"a path has {MIN_KEYS} to {MAX_KEYS} keyframes, got {len(self.keys)}")
        if self.text is not None and len(self.text) > _LONGEST_TEXT:
            raise ValueError(f"a path has up to {_LONGEST_TEXT} letters")


@config
class RenderWish:
    """tracks: points along each side of a grid, 0: none."""

    model: str = TINY
    decoder: Literal["none", "tiny"] = "none"
    resolution: str = "source"
    tracks: Annotated[int, Range(0, 64)] = 0
    seed: NonNegativeInt = 0
    steps: Count | None = None
    caption: str = ""

    def __post_init__(self) -> None:
        if len(self.caption) > _LONGEST_TEXT or "\0" in self.caption:
            raise ValueError(f"a caption has up to {_LONGEST_TEXT} letters")
        self.size  # noqa: B018  checks it

    @property
    def size(self) -> Resolution:
        return self.resolution if self.resolution in ("source", "model") else picture_size(self.resolution)


@dataclass
class ProbedVideo(Video):
    """A video of which only what a probe said is known."""

    @staticmethod
    def of(path: Path, probe: Mapping[str, Any]) -> "ProbedVideo":
        frames = probe["frames"]
        return ProbedVideo(path, probe["fps"], tuple(probe["size"]), np.arange(frames), frames)

    def _read_own(self, index, size):
        raise ValueError(f"{self.path} is only known by its size")


@dataclass(frozen=True)
class Studio:
    """models: folders by the names that the page offers; TINY is always there."""

    models: Mapping[str, str] = field(default_factory=dict)
    placement: Placement = field(default_factory=Placement)

    def config(self, wish: RenderWish) -> ModelConfig:
        """Of the model that will render."""
        return _model_config(self._folder(wish) or str(shipped_model(bool(wish.tracks))))

    def offered(self) -> list[dict[str, Any]]:
        """Models by name, and whether they take captions."""
        wishes = [RenderWish(model=name) for name in (TINY, *self.models)]
        return [{"name": wish.model, "captions": bool(self.config(wish).text_dim)} for wish in wishes]

    def _folder(self, wish: RenderWish) -> str | None:
        if wish.model != TINY and wish.model not in self.models:
            raise ValueError(f"model must be one of {', '.join([TINY, *self.models])}, got {wish.model!r}")
        return self.models.get(wish.model)

    def region(self, footage: Video, wish: RenderWish) -> tuple[Fit, Region]:
        """How the source meets the model, and which part of it the result shows."""
        fit = plan_fit(footage.size, self.config(wish))
        return fit, plan_region(fit, wish.size) or plan_region(fit, fit.content)

    def preview(
        self, footage: Video, shown: list[int], path: PathWish, wish: RenderWish, count: int | None = None
    ) -> dict[str, Any]:
        """Cameras of the shown frames as the renderer will have them, keyframes, notes and warnings. count: of
        keyframes; None: those that were given, or a few."""
        shot = shot_of(path, footage)
        fit, region = self.region(footage, wish)
        cameras = region.camera(shot_cameras(shot, footage, fit).to(dtype=torch.float64))
        source = shot.source or still_camera(shot.fov_deg, footage.size, len(footage))
        if path.keys and count is None:  # as they were given, not where the speed curve puts even times
            keys = [{"c2w": list(key.c2w), "zoom": key.zoom} for key in path.keys]
        else:
            even = PathKeys.of(shot.path, _KEYS if count is None else count)
            world = (source.c2w[0].double() @ even.poses).flatten(1).tolist()
            keys = [{"c2w": c2w, "zoom": zoom} for c2w, zoom in zip(world, even.lens.tolist(), strict=True)]
        return {
            "frames": shown,
            "source": _plain(source[shown]), "target": _plain(cameras[1, shown]),
            "keys": keys, "distance": path.distance,
            "notes": [*fit.notes, *path_notes(shot.path, len(footage)), *shot.notes],
            "warnings": warn_of_jumps(cameras.c2w[1], path.distance),
        }  # fmt: skip

    def arguments(
        self, footage: Video, path: PathWish, wish: RenderWish, folder: Path, out: Path | None = None
    ) -> list[str]:
        """Of `mvtrack reshoot`. Keyframes are written to a pose file in `folder`."""
        camera = [path.text.strip()] if path.text is not None else []
        if path.keys:
            write_poses(folder / POSE_FILE, shot_of(path, footage), footage)
            camera = [str(folder / POSE_FILE), "--poses-relative-to", "source"]
        options: list[tuple[str, object]] = []
        if path.measured:
            options.append(("--source-cameras", "auto"))
        elif path.fov is not None:
            options.append(("--fov", f"{path.fov:.12g}"))
        if path.distance != PIVOT_M:
            options.append(("--subject-distance", f"{path.distance:.12g}"))
        if model := self._folder(wish):
            options.append(("--model", model))
        if wish.decoder != "none":
            options.append(("--decoder", wish.decoder))
        if wish.resolution != "source":
            options.append(("--resolution", wish.resolution))
        if wish.tracks:
            options.append(("--tracks", f"grid:{wish.tracks}"))
        options += [(flag, value) for flag, value in (("--steps", wish.steps), ("--seed", wish.seed or None)) if value]
        words = [f"--caption={wish.caption}"] if wish.caption else []
        typed = [text for flag, value in options for text in (flag, str(value))]
        words += [] if out is None else ["--out", str(out)]
        return ["reshoot", str(footage.path), "--camera", *camera, *typed, *words]

    def prepare(self) -> None:
        """Load what the first estimate would make a page wait for."""
        self.expect(ProbedVideo.of(Path("video"), {"frames": 17, "fps": 24.0, "size": (90, 160)}), RenderWish())

    def expect(self, footage: Video, wish: RenderWish, max_hours: float = math.inf) -> Expected:
        """Time and memory. Raises ValueError where memory will not do or it would take longer than `max_hours`, and for
        what the model does not take."""
        config, (fit, region) = self.config(wish), self.region(footage, wish)
        if wish.caption and not config.text_dim:
            raise ValueError(f"{wish.model} takes no captions: leave it empty")
        if wish.decoder == "tiny":
            load_aligner(shipped_decoder(), config.codec)
        sample = SamplerOptions.of(config, wish.steps, None, wish.seed)
        work = Work(encoders_of(config, Captions(wish.caption or None, None, sample.guidance).texts))
        refuse_inference(config, fit.model, len(footage), sample, self.placement, work)
        if wish.resolution != "model":
            refuse_too_large(region)
        size = None if wish.resolution == "model" else region.size
        job = VideoJob(fit.model, len(footage), footage.size, size, sample, work)
        ahead = _expected(config, job, self.placement)
        if ahead.seconds is not None and ahead.seconds > 3600 * max_hours:
            raise ValueError(f"it would take {ahead.seconds / 3600:.0f} hours, up to {max_hours:g} are given to one")
        return ahead


_model_config = lru_cache(maxsize=16)(read_config)


_estimating = Lock()  # many who ask at once wait for one estimate


def _expected(config: ModelConfig, job: VideoJob, placement: Placement) -> Expected:
    with _estimating:
        return _estimated(config, job, placement)


@lru_cache(maxsize=256)
def _estimated(config: ModelConfig, job: VideoJob, placement: Placement) -> Expected:
    return expected(config, [job], placement)


@lru_cache(maxsize=64)
def _measured_source(video: Path, distance: float) -> MeasuredSource:
    return measure_source(video, None, DEFAULT_FOV_DEG, distance)


def shot_of(wish: PathWish, footage: Video) -> Shot:
    """The shot that the command makes of the same wish. Raises ValueError for a path that cannot be read. What `auto`
    stands for is taken from the cache, where the measurement left it."""
    fov = DEFAULT_FOV_DEG if wish.fov is None else wish.fov
    path = None if wish.text is None else parse_path(wish.text.strip(), wish.distance)
    measured = _measured_source(footage.path, wish.distance) if wish.measured else None
    source = measured.camera if measured else None
    if path is None:
        path = _through_keys(wish, len(footage), source)
    return Shot(path, fov, source, measured=measured)


def _through_keys(wish: PathWish, num_frames: int, source: Camera | None) -> CameraMotion:
    """One pose a frame, so that a pose file of them says it all."""
    given = torch.tensor([key.c2w for key in wish.keys], dtype=torch.float64).unflatten(-1, (4, 4))
    first = torch.eye(4, dtype=torch.float64) if source is None else source.c2w[0].double()
    poses = relative_pose(first, _rigid(given, _FARTHEST * wish.distance))
    zoom = torch.tensor([key.zoom for key in wish.keys], dtype=torch.float64)
    times = _WHEN[wish.speed](torch.linspace(0, 1, len(poses), dtype=torch.float64))
    path = PosePath(poses, zoom, wish.distance, "path", times)
    return PosePath(path.poses(num_frames), path.lens(num_frames), wish.distance, "path")


def _rigid(poses: Float[Tensor, "K 4 4"], farthest: float) -> Float[Tensor, "K 4 4"]:
    """With exact rotations. Raises ValueError for what is none nearly, and for what lies too far away."""
    rotation = poses[:, :3, :3]
    off = (rotation @ rotation.mT - torch.eye(3).double()).abs().amax()
    if off > 1e-2 or (torch.linalg.det(rotation) < 0).any() or poses[:, :3, 3].abs().amax() > farthest:
        raise ValueError("keyframes must be rotations and places within 1000 subject distances")
    u, _, v = torch.linalg.svd(rotation)
    out = torch.eye(4, dtype=torch.float64).repeat(len(poses), 1, 1)
    out[:, :3, :3], out[:, :3, 3] = u @ v, poses[:, :3, 3]
    return out


def write_poses(file: Path, shot: Shot, footage: Video) -> None:
    """A path as `--camera FILE --poses-relative-to source` reads it."""
    from mvtrack.geometry.pose_files import CameraSequence, write_cameras

    frames = len(footage)
    source = shot.source or still_camera(shot.fov_deg, footage.size, 1)
    K = source.K[:1].double().repeat(frames, 1, 1)
    K[:, :2, :2] *= shot.path.lens(frames)[:, None, None]
    camera = Camera(shot.path.poses(frames), K, footage.size, source.scale_known)
    write_cameras(file, CameraSequence(camera, tuple(map(str, range(frames)))), "json", overwrite=True)


def _plain(camera: Camera) -> list[dict[str, list[float]]]:
    """Camera-to-world row by row, and where the picture ends at depth 1: left, right, up, down."""
    (height, width), K = camera.size, camera.K.double()
    focal, centre = K[:, [0, 1], [0, 1]], K[:, :2, 2]
    low, high = -centre / focal, (torch.tensor([width, height]) - centre) / focal
    edges = torch.stack([low[:, 0], high[:, 0], low[:, 1], high[:, 1]], -1)
    rows = zip(camera.c2w.double().flatten(1).tolist(), edges.tolist(), strict=True)
    return [{"c2w": c2w, "edges": edge} for c2w, edge in rows]


def error_span(message: str, text: str) -> tuple[int, int] | None:
    """Where in a path the part stands that a message quotes: the shortest that does."""
    quoted = [part for part in message.split("'")[1::2] if part and part in text]
    part = min(quoted, key=len, default=None)
    return None if part is None else (text.index(part), text.index(part) + len(part))
