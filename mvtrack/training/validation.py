"""Validation by generating: a few unseen rendered clips, re-shot along the true and the mirrored path."""

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float
from torch import Tensor

from mvtrack.config.run import RunConfig
from mvtrack.data.synthetic.test_scenes import RenderedCase, case_specs, render_case
from mvtrack.data.visualize.drawing import as_unit_video, draw_cameras, draw_tracks, rainbow
from mvtrack.inference.sampler import SamplerOptions, generate
from mvtrack.metrics.image import gradient_energy, psnr
from mvtrack.models.conditioning import Window
from mvtrack.models.reshoot_model import ReshootModel
from mvtrack.training import distributed

VALIDATION_SEED = 10_000  # the yardstick's pinned cases have smaller seeds
STEPS = 8  # of sampling; a student is validated in its own
_POINTS = 24
_VIDEOS = 2  # clips shown in TensorBoard


@dataclass(frozen=True)
class ValidationReport:
    scores: dict[str, float]  # means over all ranks
    videos: dict[str, Float[Tensor, "T 3 h w"]] = field(default_factory=dict)  # reference, generated, truth, in [0, 1]
    pictures: dict[str, Float[Tensor, "3 h w"]] = field(default_factory=dict)  # the same of still scenes


def validation_sample(config: RunConfig) -> SamplerOptions:
    """How a model that re-shoots is sampled for validation: without guidance."""
    return SamplerOptions(config.model.sampling.steps if config.loss.distillation > 0 else STEPS)


class Validator:
    """Holds this rank's share of the rendered clips between validations; they are made at the first one."""

    def __init__(self, config: RunConfig) -> None:
        self.config, self._sample = config, validation_sample(config)
        self._cases: list[RenderedCase] | None = None

    def run(self, model: ReshootModel) -> ValidationReport:
        """Score a model on all clips. Collective."""
        rows, videos = [], {}
        for i, case in enumerate(self._share()):
            reference, truth = case.clip.video
            made, opposite = (
                generate(model, reference, Window(camera, case.clip.scene_depth), self._sample)
                for camera in (case.clip.camera, case.mirrored_camera)
            )
            true_db = psnr(made, truth)
            rows.append((true_db, true_db - psnr(opposite, truth), gradient_energy(made) / gradient_energy(truth)))
            if distributed.rank() == 0 and i < _VIDEOS:
                videos[f"validation/{case.clip.key}"] = _picture(case, made)
        names = ("psnr_db", "true_minus_mirrored_db", "gradient_energy")
        means = {f"validation/{name}": float(v) for name, v in zip(names, np.mean(rows, 0), strict=True)}
        return ValidationReport(distributed.mean_over_ranks(means), videos)

    def _share(self) -> list[RenderedCase]:
        if self._cases is None:
            size, frames = self.config.data.sizes[0], self.config.data.num_frames
            specs = case_specs(self.config.train.validate_clips, VALIDATION_SEED, size, frames)
            mine = distributed.share_of(specs, self.config.train.sequence_parallel)
            self._cases = [render_case(spec, num_points=_POINTS) for spec in mine]
        return self._cases


def _picture(case: RenderedCase, made: Tensor) -> Float[Tensor, "T 3 h w"]:
    """Reference, generated and truth with true tracks on all three, and the cameras in a corner."""
    tracks = case.clip.tracks
    colours = rainbow(tracks.xy[0, 0, :, 1])
    panels = [(case.clip.video[0], 0), (made, 1), (case.clip.video[1], 1)]
    drawn = [draw_tracks(video, tracks.xy[v], tracks.visible[v], colours) for video, v in panels]
    drawn[1] = draw_cameras(drawn[1], case.clip.camera)
    return as_unit_video(np.concatenate(drawn, 2))
