"""A video and its re-shot view as one thing to look into: about to be made, given as two files, or a result folder."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from mvtrack.config.model import ModelConfig
from mvtrack.files.cache import sha256
from mvtrack.geometry.camera import Camera
from mvtrack.inference.full_resolution.region import plan_region
from mvtrack.inference.pipeline import Shot, model_hash, shot_cameras
from mvtrack.inference.sampler import SamplerOptions
from mvtrack.video.reader import open_video
from mvtrack.video.resize import Fit, plan_fit
from mvtrack.video.video import Video

VIEWS = ("reference", "generated")
_LEVELS_OF_ONE_STEP = 8
_ASPECT_TOLERANCE = 0.02  # odd sizes were encoded with a row or column more


@dataclass(frozen=True)
class Pair:
    """generated: None is made afresh. fits: how each view meets the model's picture.

    cameras: (2, T), for the model's picture. subject_distance: in the cameras' unit. window: see `Shot`. caption,
    negative: see `make_prompts`.
    """

    reference: Video
    generated: Video | None
    fits: tuple[Fit, Fit]
    cameras: Camera
    subject_distance: float
    sample: SamplerOptions
    label: str
    window: int | None = None
    caption: str | None = None
    negative: str | None = None

    @property
    def guidance(self) -> float:
        """A video that exists is seen once, unguided."""
        return self.sample.guidance if self.generated is None else 1.0


def pair_of_shot(video: Path, shot: Shot, config: ModelConfig, generated: Path | None = None) -> Pair:
    """A video with a camera path, and the view that any program made of it where that exists."""
    footage = open_video(video, fps=shot.reading.fps, damaged=shot.reading.damaged)
    fit = plan_fit(footage.size, config, shot.fit, shot.size)
    cameras = shot_cameras(shot, footage, fit)
    made = None if generated is None else open_video(generated)
    pair = _pair(footage, made, fit, cameras, shot.path.pivot_m, shot.sample, shot.path.label)
    return replace(pair, caption=shot.caption, negative=shot.negative)


def is_result(path: Path) -> bool:
    """Whether a folder was written by `mvtrack reshoot`."""
    return path.is_dir() and (path / "run.json").is_file() and (path / "cameras.json").is_file()


def noise_levels(steps: int) -> int:
    """How many attention can be seen at: the sampling's steps, or eight where it takes one, of pure noise."""
    return steps if steps > 1 else _LEVELS_OF_ONE_STEP


def pair_of_result(folder: Path) -> Pair:
    """A result folder's two videos, with the cameras, the fit, the sampling and the caption that made them.

    Raises ValueError when the folder is damaged, or its source video is no longer there or has changed.
    """
    record = _read(folder / "run.json")
    views = _read(folder / "cameras.json")
    try:
        fit = Fit(**{k: tuple(v) if isinstance(v, list) else v for k, v in record["fit"].items()})
        c2w, K = (torch.tensor([view[name] for view in views["views"]]) for name in ("c2w", "K"))
        camera = Camera(c2w, K, (views["size"]["height"], views["size"]["width"]), views["unit"] == "metres")
        shot, path, digest = record["shot"], Path(record["input"]["file"]), record["input"]["sha256"]
        sample = SamplerOptions(noise_levels(shot["sample"]["steps"]), seed=shot["sample"]["seed"])
        distance, label = shot["subject_distance"], shot["path"]["label"]
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{folder} is not a whole result of `mvtrack reshoot` ({error!r}): make it again") from error
    if not path.exists():
        raise ValueError(f"{folder} was made of {path}, which is not there: run this where it was made, or put it back")
    if sha256(path) != digest:
        raise ValueError(f"{path} has changed since {folder} was made of it: re-shoot it again")
    resolution = shot.get("resolution", "model")
    region = plan_region(fit, tuple(resolution) if isinstance(resolution, list) else resolution)
    if region is not None:
        camera = region.model_camera(camera)
    made_fit = region and region.result_fit()
    pair = _pair(open_video(path), open_video(folder / "video.mp4"), fit, camera, distance, sample, label, made_fit)
    return replace(pair, window=shot.get("window"), caption=shot.get("caption"))


def model_of_result(folder: Path) -> Path:
    """The folder of the model that made a result. Raises ValueError when it cannot be told, or has changed."""
    record = _read(folder / "run.json").get("model", {})
    source = Path(record.get("source", "given"))
    digest = model_hash(str(source))
    if digest is None:
        raise ValueError(f"{folder} was made by the model {source}, which is not there: pass --model")
    if digest != record.get("sha256"):
        raise ValueError(f"the model {source} has changed since {folder} was made: pass --model to use it all the same")
    return source


def _read(file: Path) -> dict:
    try:
        return json.loads(file.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{file} is damaged ({error}): re-shoot it again") from error


def _pair(
    reference: Video, generated: Video | None, fit: Fit, cameras: Camera, distance: float, sample: SamplerOptions,
    label: str, made_fit: Fit | None = None,
) -> Pair:  # fmt: skip
    """made_fit: how the generated view meets the model's picture; None: its picture is the model's, of some size."""
    own = fit.content if generated is None else generated.size
    is_whole = made_fit is None
    made_fit = made_fit or Fit("stretch", own, fit.content, (0, 0), fit.content, fit.place, fit.model)
    if generated is not None:
        if len(generated) != len(reference):
            raise ValueError(
                f"{generated.path} has {len(generated)} frames, {reference.path} has {len(reference)}: "
                f"they must show the same moments"
            )
        if max(abs(a - b) for a, b in zip(made_fit.source, own, strict=True)) > 1:  # odd sizes were made even
            raise ValueError(f"{generated.path} is {own[1]}x{own[0]}, its run.json says otherwise: re-shoot it again")
        made_fit = replace(made_fit, source=own)
        aspect = own[1] / own[0] / (fit.content[1] / fit.content[0])
        if is_whole and abs(aspect - 1) > max(_ASPECT_TOLERANCE, 1.5 / min(own)):
            raise ValueError(
                f"{generated.path} is {own[1]}x{own[0]}, the re-shot picture would be {fit.content[1]}x"
                f"{fit.content[0]}: the aspects differ; see --fit and --size"
            )
    return Pair(reference, generated, (fit, made_fit), cameras, distance, sample, label)
