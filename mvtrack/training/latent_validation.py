"""Validation on encoded clips that training never sees: re-shot from their latents, compared as videos."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from mvtrack.config.run import RunConfig
from mvtrack.data.latent_loader import LatentDataset
from mvtrack.data.latents import LatentClip, LatentFolder
from mvtrack.data.visualize.drawing import as_unit_video, draw_cameras
from mvtrack.geometry.camera import Camera
from mvtrack.inference.sampler import sample_latents
from mvtrack.metrics.image import psnr
from mvtrack.models.conditioning import Window, encode_conditioning
from mvtrack.models.prompts import Prompts
from mvtrack.models.reshoot_model import ReshootModel
from mvtrack.training import distributed
from mvtrack.training.validation import ValidationReport, validation_sample
from mvtrack.video.writer import to_bytes

_VIDEOS = 2  # clips shown in TensorBoard
_HEIGHT = 160  # that pictures have at least there


@dataclass(frozen=True)
class _Case:
    clip: LatentClip  # two views
    text: Float[Tensor, "L t"] | None


def held_out_clips(dataset: LatentDataset, count: int) -> list[tuple[LatentFolder, str]]:
    """The first clips that no training sees, at most `count`."""
    names = [(folder, name) for folder in dataset.folders for name in folder.held_out]
    if not names:
        raise ValueError("no clip is held out for validation: set held_out in data.latents, to 4 say")
    return names[:count]


class LatentValidator:
    """Holds this rank's share of the held-out clips. Raises ValueError where there is none to validate on."""

    def __init__(self, config: RunConfig, dataset: LatentDataset) -> None:
        self.config = config
        self._cases = []
        clips = held_out_clips(dataset, config.train.validate_clips)
        for folder, name in distributed.share_of(clips, config.train.sequence_parallel):
            clip = folder.clip(name, [0, 1])
            text = None if dataset.text_length is None else folder.text(clip.caption, dataset.text_length)
            self._cases.append(_Case(clip, text))

    @torch.no_grad()
    def run(self, model: ReshootModel) -> ValidationReport:
        """Score a model on all clips, along the true path and its mirror image. Collective."""
        rows, videos = [], {}
        for i, case in enumerate(self._cases):
            reference, truth = model.decode(case.clip.latents[:, None])[:, 0]
            made = self._made(model, case, case.clip.camera)
            true_db = psnr(made, truth)
            rows.append((true_db, true_db - psnr(self._made(model, case, mirrored(case.clip.camera)), truth)))
            if distributed.rank() == 0 and i < _VIDEOS:
                panels = [_large(reference), draw_cameras(_large(made), case.clip.camera), _large(truth)]
                videos[f"validation/{case.clip.key}"] = as_unit_video(np.concatenate(panels, 2))
        names = ("psnr_db", "true_minus_mirrored_db")
        means = {f"validation/{name}": float(value) for name, value in zip(names, np.mean(rows, 0), strict=True)}
        return ValidationReport(distributed.mean_over_ranks(means), videos)

    def _made(self, model: ReshootModel, case: _Case, camera: Camera) -> Float[Tensor, "T 3 H W"]:
        """The target view by the model, without guidance."""
        clip, prompts = case.clip, Prompts(case.text, image=case.clip.image)
        conditioning = encode_conditioning(model.config, Window(camera, clip.distance, prompts))
        clean = clip.latents[None, :1].to(model.device)
        return model.decode(sample_latents(model, clean, conditioning, validation_sample(self.config)))[0, 0]


def _large(video: Float[Tensor, "T 3 H W"]) -> UInt8[np.ndarray, "T h w 3"]:
    """Frames to look at, small ones magnified."""
    times = max(1, _HEIGHT // video.shape[-2])
    return to_bytes(video).repeat(times, 1).repeat(times, 2)


def mirrored(camera: Camera) -> Camera:
    """Cameras (2, T) whose target moves as in a mirror, seen from the reference's first frame."""
    origin = camera.c2w[0, 0]
    flip = torch.diag(torch.tensor([-1.0, 1.0, 1.0, 1.0]))
    target = origin @ flip @ camera.relative_to(origin).c2w[1] @ flip
    return replace(camera, c2w=torch.stack([camera.c2w[0], target]))
