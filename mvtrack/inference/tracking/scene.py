"""Where the features of a scene's windows come from: video files, or the latents that generating leaves behind."""

import tempfile
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor

from mvtrack.data.clip import padded_length
from mvtrack.geometry.camera import Camera
from mvtrack.inference.tracking.features import latent_features, view_features
from mvtrack.inference.tracking.windowed_tracker import FeatureSource
from mvtrack.inference.tracking.windows import Windows
from mvtrack.models.conditioning import Window, head_cameras
from mvtrack.models.prompts import Captions, Prompts, make_prompts
from mvtrack.models.reshoot_model import ReshootModel
from mvtrack.video.resize import Fit
from mvtrack.video.video import Video
from tracking_head import Tracker


def require_head(model: ReshootModel) -> Tracker:
    """The model's tracking head. Raises ValueError where it has none."""
    if model.dit.tracking_head is None:
        raise ValueError(
            "this model has no tracking head: train one (model.tracking and loss.tracking in the config), or give "
            "--model a folder of one that has"
        )
    return Tracker(model.dit.tracking_head)


def footage_source(
    model: ReshootModel, footage: list[Video], fits: list[Fit], camera: Camera, windows: Windows, scene_depth: float,
    caption: str | None = None,
) -> FeatureSource:  # fmt: skip
    """Synchronised videos of one scene, the first one the reference. camera: (V, T) for the model's picture.

    caption: see `make_prompts`.
    """

    def read(window: int) -> tuple:
        start, stop = windows.spans[window]
        views = [fit.apply(film.read(start, stop, fit.scaled)) for film, fit in zip(footage, fits, strict=True)]
        video = torch.stack(views)
        missing = padded_length(stop - start) - (stop - start)
        video = torch.cat([video, video[:, -1:].expand(-1, missing, -1, -1, -1)], 1)
        part = _window_camera(camera, start, stop)
        prompts = make_prompts(model.config, video[0, 0], Captions(caption), model.device)
        features = view_features(model, video, Window(part, scene_depth, prompts, camera.c2w[:, 0]))
        return features, head_cameras(camera[:, windows.anchors(window)], model.config.tracking)

    return FeatureSource(windows, len(footage), camera.size, read)


def anchor_pictures(
    footage: Sequence[Video], fits: Sequence[Fit], windows: Windows
) -> Callable[[int], Float[Tensor, "V f 3 H W"]]:
    """What the views show at a window's latent frames, as the model's picture; the last window asked for is kept."""

    @lru_cache(maxsize=1)
    def pictures(window: int) -> Tensor:
        frames = windows.anchors(window).tolist()
        views = [
            torch.cat([fit.apply(film.read(frame, frame + 1, fit.scaled)) for frame in frames])
            for film, fit in zip(footage, fits, strict=True)
        ]
        return torch.stack(views)

    return pictures


class LatentCache:
    """Latents of every generated window, in files of a temporary folder: a long video has many. A context manager."""

    def keep(self, window: int, latents: Float[Tensor, "V f c h w"]) -> None:
        """Store a window's clean reference latents and final generated ones."""
        save_file({"latents": latents.contiguous()}, self._path(window))

    def read(self, window: int) -> Float[Tensor, "V f c h w"]:
        """What was kept of a window."""
        return load_file(self._path(window))["latents"]

    def _path(self, window: int) -> Path:
        return Path(self._folder.name) / f"{window:06d}.safetensors"

    def __enter__(self) -> "LatentCache":
        self._folder = tempfile.TemporaryDirectory(prefix="mvtrack-latents-")
        return self

    def __exit__(self, *_) -> None:
        self._folder.cleanup()


def latent_source(
    model: ReshootModel, latents: Callable[[int], Float[Tensor, "V f c h w"]], camera: Camera, windows: Windows,
    scene_depth: float, prompts: Sequence[Prompts] | None = None,
) -> FeatureSource:  # fmt: skip
    """Windows as they were generated. camera: (V, T) for the model's picture. prompts: of every window."""

    def read(window: int) -> tuple:
        part = _window_camera(camera, *windows.spans[window])
        own_prompts = prompts[window] if prompts else None
        features = latent_features(model, latents(window), Window(part, scene_depth, own_prompts, camera.c2w[:, 0]))
        return features, head_cameras(camera[:, windows.anchors(window)], model.config.tracking)

    return FeatureSource(windows, camera.shape[0], camera.size, read)


def _window_camera(camera: Camera, start: int, stop: int) -> Camera:
    return camera[:, torch.arange(start, start + padded_length(stop - start)).clamp_max(stop - 1)]
