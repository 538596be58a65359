"""Validation of models for still scenes: unseen views generated, and the alignment of the supervised layer."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mvtrack.config.run import RunConfig
from mvtrack.data.clip import Clip
from mvtrack.data.latent_loader import LatentDataset
from mvtrack.data.latents import LatentFolder
from mvtrack.inference.sampler import SamplerOptions
from mvtrack.models.reshoot_model import ReshootModel
from mvtrack.training import distributed
from mvtrack.training.latent_validation import held_out_clips
from mvtrack.training.static_validation import StillCase, alignment, score_views, still_cases
from mvtrack.training.validation import STEPS, VALIDATION_SEED, ValidationReport


class ViewValidator:
    """Holds this rank's share of the scenes between validations; they are rendered, or decoded from the still sets that
    a folder holds out, at the first one. Raises ValueError where there is none to validate on."""

    def __init__(self, config: RunConfig, dataset: LatentDataset | None = None) -> None:
        self.config = config
        self._held_out = None if dataset is None else held_out_clips(dataset, config.train.validate_clips)
        self._has_depth = dataset is None or config.loss.correspondence > 0
        self.layer = (config.loss.correspondence_layers or (config.model.tap_layer,))[0]
        self._cases: list[StillCase] | None = None

    def run(self, model: ReshootModel) -> ValidationReport:
        """Score a model on all scenes. Collective."""
        rows, pictures, sums = [], [], None
        for case in self._share(model):
            score = score_views(model, case, SamplerOptions.of(model.config, STEPS))
            rows.append((score.psnr_db, score.psnr_db - score.other_db))
            pictures.append(_strip(case, score.made))
            if self._has_depth:
                found = alignment(model, case, self.layer, self.config.loss.correspondence_matches)
                sums = found if sums is None else sums + found
        means = dict(zip(("psnr_db", "true_minus_other_db"), np.mean(rows, 0).tolist(), strict=True))
        means |= {} if sums is None else sums.over_all_kinds()
        scores = {f"validation/{name}": value for name, value in means.items()}
        picture = {"validation/views": torch.cat(pictures, 1)} if distributed.rank() == 0 else {}
        return ValidationReport(distributed.mean_over_ranks(scores), pictures=picture)

    def _share(self, model: ReshootModel) -> list[StillCase]:
        together = self.config.train.sequence_parallel
        if self._cases is None and self._held_out is not None:
            numbered = distributed.share_of(list(enumerate(self._held_out)), together)
            self._cases = [self._decoded(model, *each) for each in numbered]
        if self._cases is None:
            size, count = self.config.data.sizes[0], self.config.train.validate_clips
            cases = still_cases(self.config.model.views, size, count, VALIDATION_SEED)
            self._cases = distributed.share_of(cases, together)
        return self._cases

    def _decoded(self, model: ReshootModel, number: int, held_out: tuple[LatentFolder, str]) -> StillCase:
        """A held-out set's first views (of its window), or its first path; the numbers of given views take turns."""
        (folder, name), views = held_out, self.config.model.views
        chosen = list(range(views.count)) if views.encoding == "images" else [0]
        clip = folder.clip(name, chosen)
        video = model.decode(clip.latents[:, None].to(model.device))[:, 0].cpu()
        given = views.references[number % len(views.references)]
        whole = Clip(video, clip.camera, key=clip.key, depth=clip.depth, point_map=clip.points)
        return StillCase(whole, given if views.encoding == "images" else 4 * (given - 1) + 1, given)


def _strip(case: StillCase, made: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "3 h w"]:
    """The true views in a row, below them the given and the generated ones, three times as large; values in [0, 1]."""
    lower = torch.cat([case.images[: case.num_given], made])
    rows = [torch.cat(list(row), 2) for row in (case.images, lower)]
    picture = (torch.cat(rows, 1).clamp(-1, 1) + 1) / 2
    return picture.repeat_interleave(3, 1).repeat_interleave(3, 2)
