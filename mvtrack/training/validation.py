"""Validation by generating: a few unseen rendered clips, re-shot along the true and the mirrored path."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from mvtrack.backbone.model import ReshootModel
from mvtrack.config import RunConfig
from mvtrack.data.test_scenes import case_specs, render_case
from mvtrack.generate import SampleConfig, generate
from mvtrack.metrics.image import gradient_energy, psnr

VALIDATION_SEED = 10_000  # the yardstick's pinned cases have smaller seeds


@dataclass(frozen=True)
class ValidationReport:
    scores: dict[str, float]
    sheet: Float[Tensor, "3 H W"]  # rows: clips; columns: last frame of reference, generated, truth; in [0, 1]


class Validator:
    """Holds the rendered clips between validations; they are made at the first one."""

    def __init__(self, config: RunConfig, steps: int = 8) -> None:
        self.config, self.steps = config, steps
        self._cases = None

    def run(self, model: ReshootModel) -> ValidationReport:
        if self._cases is None:
            size, frames = self.config.data.banks[0].size, self.config.data.num_frames
            specs = case_specs(self.config.train.validate_clips, VALIDATION_SEED, size, frames)
            self._cases = [render_case(spec) for spec in specs]
        true_db, gap_db, energy, rows = [], [], [], []
        for case in self._cases:
            reference, truth = case.clip.video
            depth = case.clip.depth[0]
            sample = SampleConfig(self.steps)
            made = generate(model, reference, case.clip.camera, sample, depth)
            opposite = generate(model, reference, case.mirrored_camera, sample, depth)
            true_db.append(psnr(made, truth))
            gap_db.append(true_db[-1] - psnr(opposite, truth))
            energy.append(gradient_energy(made) / gradient_energy(truth))
            rows.append(torch.cat([reference[-1], made[-1], truth[-1]], -1))
        scores = {"psnr_db": true_db, "true_minus_mirrored_db": gap_db, "gradient_energy": energy}
        means = {f"validation/{k}": sum(v) / len(v) for k, v in scores.items()}
        return ValidationReport(means, (torch.cat(rows, -2) + 1) / 2)
