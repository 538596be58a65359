"""From probed rows to the published scores, as sums that add up over clips: nothing else has to be kept."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mvtrack.correspondence.loss import in_reference
from mvtrack.correspondence.probe import ProbedRows
from mvtrack.correspondence.targets import CorrespondenceTargets

KINDS = ("reference_temporal", "target_temporal", "cross_view")


@dataclass(frozen=True)
class ProbeSums:
    """Sums over the rows of each kind (in the order of KINDS); two of them add up to that of both sets of clips."""

    rows: Float[Tensor, "3"]
    correct: Float[Tensor, "3"]
    attention: Float[Tensor, "3"]
    confidence: Float[Tensor, "3"]
    nll: Float[Tensor, "heads 3"]

    def __add__(self, other: "ProbeSums") -> "ProbeSums":
        return ProbeSums(*(getattr(self, n) + getattr(other, n) for n in self.__dataclass_fields__))

    def means(self) -> dict[str, dict[str, float]]:
        """Per kind: rows, pck, attention_score, confidence_score (all in [0, 1]) and alignment_error (nats).

        Kinds without a row are left out.
        """
        out = {}
        for i, kind in enumerate(KINDS):
            if self.rows[i] > 0:
                values = {
                    "pck": self.correct[i],
                    "attention_score": self.attention[i],
                    "confidence_score": self.confidence[i],
                    "alignment_error": self.nll[:, i].mean(),
                }
                out[kind] = {"rows": int(self.rows[i])} | {n: float(x / self.rows[i]) for n, x in values.items()}
        return out

    def over_all_kinds(self) -> dict[str, float]:
        """PCK and alignment error (nats) of all rows together, whatever their kind. NaN without a row."""
        rows = self.rows.sum()
        return {"pck": float(self.correct.sum() / rows), "alignment_error": float(self.nll.mean(0).sum() / rows)}

    def alignment_error_per_head(self, kind: str = "cross_view") -> list[float]:
        """Mean -log p(true cell) of each head, nats; CAMEO's alignment error. NaN without a row."""
        i = KINDS.index(kind)
        return (self.nll[:, i] / self.rows[i]).tolist()


def kinds_of_rows(
    targets: CorrespondenceTargets, reference: int | Bool[Tensor, "B V f"] = 1
) -> Bool[Tensor, "3 B Q V f"]:
    """Which rows stay in a reference view, which in a target view, and which cross views, in the order of KINDS."""
    views, frames = targets.label.shape[2:]
    query_view = (targets.own_frame // frames)[..., None, None]
    key_view = torch.arange(views, device=query_view.device)[:, None]
    inside = (key_view == query_view).expand(targets.label.shape)
    of_reference = in_reference(targets, reference)[..., None, None].expand(targets.label.shape)
    return torch.stack([inside & of_reference, inside & ~of_reference, ~inside])


def sum_scores(
    rows: ProbedRows, targets: CorrespondenceTargets, threshold_px: float, reference: int | Bool[Tensor, "B V f"] = 1
) -> ProbeSums:
    """PCK with cycle check, attention and confidence score (MVTrack4Gen A.2), alignment error (CAMEO §3.2), summed.

    threshold_px: how far a match may lie from the truth, and matching back from the query (inclusive); the paper's 16
    pixels are one token. reference: so many first views, or a mask of the frames that are references.
    """
    kinds = (kinds_of_rows(targets, reference) & rows.asked).flatten(1).double()
    correct = (rows.error_px <= threshold_px) & (rows.cycle_px <= threshold_px)
    hits, attention, confidence = (kinds @ x.double().flatten() for x in (correct, rows.attention, rows.confidence))
    return ProbeSums(kinds.sum(1), hits, attention, confidence, rows.nll.double().flatten(1) @ kinds.mT)


def precision_3d(
    rows: ProbedRows, targets: CorrespondenceTargets, points: Float[Tensor, "B V f C 3"], threshold: float = 0.02
) -> tuple[Bool[Tensor, "B Q V f"], Float[Tensor, "B Q V f"]]:
    """Whether each match lies within `threshold` of the query's 3D point, and the distance; CAMEO's Precision@2 cm.

    points: one world point a token, in metres for the paper's threshold. False and NaN where nothing is asked.
    """
    batch = torch.arange(len(points), device=points.device)
    start = points.flatten(1, 3)[batch[:, None], targets.query]
    views, frames = targets.label.shape[2:]
    v, f = torch.arange(views, device=points.device)[:, None], torch.arange(frames, device=points.device)
    gap = (points[batch[:, None, None, None], v, f, rows.match] - start[:, :, None, None]).norm(dim=-1)
    gap = torch.where(rows.asked, gap, torch.nan)
    return gap <= threshold, gap
