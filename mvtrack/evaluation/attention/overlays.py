"""Attention of example queries over ground-truth clips, with the truth marked: what the scores mean, to the eye."""

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from mvtrack.correspondence.attention_row import AttentionRow, attention_row
from mvtrack.correspondence.features import features_from_tokens
from mvtrack.correspondence.targets import CorrespondenceTargets
from mvtrack.data.clip import anchor_frames
from mvtrack.data.visualize.attention_overlay import (
    Looks,
    attention_sheet,
    frame_titles,
    shown_frames,
    token_centres,
    token_heat,
)
from mvtrack.evaluation.attention.scenes import Subject, scene_of
from mvtrack.models.hooks import visiting_layers
from mvtrack.models.reshoot_model import ReshootModel

_CANDIDATES = 256


@torch.no_grad()
def example_sheet(
    model: ReshootModel, subject: Subject, layer: int, sigma: float, seed: int = 0
) -> UInt8[np.ndarray, "h w 3"]:
    """RGB sheet of one target-view point of a clip with tracks or of a still scene, at one layer and noise level.

    The point is the one that the views show in most frames; of equals, the one that moves most in the target view.
    """
    token_px = model.config.token_px(layer)
    scene = scene_of(subject, token_px, _CANDIDATES, seed)
    targets, (views, _) = scene.targets, scene.frames.shape[:2]
    given = int(scene.reference[0, :, 0].sum())
    index = best_shown(targets, given)
    anchors = anchor_frames(targets.label.shape[3])
    cells = targets.grid[0] * targets.grid[1]
    own, cell = int(targets.own_frame[0, index]), int(targets.query[0, index]) % cells
    view, frame = divmod(own, len(anchors))
    token = (view, frame, cell // targets.grid[1], cell % targets.grid[1])
    rows: list[AttentionRow] = []

    def visit(_layer: int, q: Tensor, k: Tensor) -> None:
        split = (views, len(anchors), targets.grid, q.shape[2])
        q, k = (features_from_tokens(x.flatten(2).cpu(), *split)[0] for x in (q, k))
        rows.append(attention_row(q, k, token))

    with visiting_layers(model.dit, visit, (layer,)):
        scene.noised(model, seed).forward(model, sigma)
    frames = shown_frames(len(anchors), frame)
    known = (targets.weight[0, index] > 0)[..., None]
    looks = Looks(
        frames=scene.frames[:, frames],
        heat=token_heat(rows[0].per_frame[:, frames], scene.camera.size),
        peak=token_centres(rows[0].peak, token_px)[:, frames],
        share=rows[0].share[:, frames],
        query=(view, frames.index(frame), *targets.query_xy[0, index].tolist()),
        truth=torch.where(known, targets.label_xy[0, index], torch.nan)[:, frames],
    )
    title = f"{scene.clip.key}: layer {layer}, all heads, noise level {sigma:.2f}"
    if len(anchors) > 1:
        return attention_sheet(title, looks, frame_titles(["reference", "target"], anchors[frames].tolist()))
    names = [f"view {v}, {'given' if v < given else 'noised'}" for v in range(views)]
    return attention_sheet(title, _side_by_side(looks), [names])


def _side_by_side(looks: Looks) -> Looks:
    """Views of one frame as if they were frames of one view: a row instead of a column."""
    swapped = (x.transpose(0, 1) for x in (looks.frames, looks.heat, looks.peak, looks.share, looks.truth))
    frames, heat, peak, share, truth = swapped
    return Looks(frames, heat, peak, share, (0, looks.query[0], *looks.query[2:]), truth)


def best_shown(targets: CorrespondenceTargets, given: int = 1) -> int:
    """Index of the target-view query whose point is seen in most frames; of equals, the one that moves most.

    Queries at the picture's border are left out, unless there are no others. given: how many views are references.
    """
    seen, frames = targets.weight[0] > 0, targets.label.shape[3]
    views = targets.own_frame[0] // frames
    index, margin = targets.query[0] % (targets.grid[0] * targets.grid[1]), [side // 6 for side in targets.grid]
    xy = targets.label_xy[0][torch.arange(len(views)), views]  # (Q, f, 2), in the query's own view
    there = seen[torch.arange(len(views)), views][..., None]
    reach = torch.where(there, xy, -torch.inf).amax(1) - torch.where(there, xy, torch.inf).amin(1)
    row, column = (index // targets.grid[1], index % targets.grid[1])
    inside = (row >= margin[0]) & (row < targets.grid[0] - margin[0])
    inside &= (column >= margin[1]) & (column < targets.grid[1] - margin[1])
    preference = (views >= given).long() + ((views >= given) & inside).long()
    count = torch.where(preference == preference.max(), seen.flatten(1).sum(1), -1)
    moved = torch.where(count == count.max(), reach.norm(dim=-1), -torch.inf)
    return int(moved.argmax())
