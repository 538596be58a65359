"""`python eval/navi.py --data NAVI --model FOLDER`: Precision@2cm of every layer's features. docs/evaluation.md"""

import json
import sys
from pathlib import Path

import torch
from tqdm import tqdm

from mvtrack.config.checked import Count, config
from mvtrack.config.command_line import Command, option, run
from mvtrack.config.placement import Placement
from mvtrack.evaluation.navi import ANGLES_DEG, THRESHOLDS_M, Split, by_angle, draw_pairs, score_pair, square_side
from mvtrack.evaluation.tables import markdown_table, model_record, write_results
from mvtrack.inference.device import place
from mvtrack.models.reshoot_model import load_model

_SHOWN_M = 0.02  # CAMEO's Precision@2cm


@config(kw_only=True)
class NaviCommand(Command):
    """Precision@2cm on NAVI by relative angle, by Probe3D's protocol: do a model's features find the same surface point
    in another photograph of an object? Scores the best 1,000 matches of a pair, not all of its pixels. Every layer, at
    every noise level. Writes navi.json and navi.md."""

    data: Path = option(..., "NAVI's folder", metavar="ROOT")
    model: Path = option(..., "any model of this project", metavar="FOLDER")
    out: Path = option(Path("outputs/navi"), "folder for the tables", metavar="FOLDER")
    split: Split = option("wild_set", "folders of photographs; Probe3D tests on wild_set")
    steps: Count = option(4, "noise levels, those of a sampling run", metavar="N")
    pairs: Count | None = option(None, "only the first so many; default: all", metavar="N")
    matches: Count = option(1000, "of a pair that are scored, the surest ones", metavar="N")
    device: str = option("cpu", "where the model works and features are matched: cpu, cuda, cuda:1", metavar="D")
    side: Count | None = option(None, "pixels of a picture; default: the model's own area (Probe3D: 512)", metavar="PX")


def main() -> int:
    return run(NaviCommand, _run, None, "navi")


def _run(options: NaviCommand) -> None:
    model = place(load_model(options.model), Placement(device=options.device))
    side, unit = options.side or square_side(model.config), model.config.size_unit_px
    if side % unit or side % 4:
        raise ValueError(f"--side must be a multiple of 4 and of the model's token of {unit} pixels, got {side}")
    drawn = draw_pairs(options.data, options.split)[: options.pairs]
    sigmas = model.process.sampling_levels(options.steps).tolist()
    pairs, found, skipped = [], [], []
    for number, pair in enumerate(tqdm(drawn, "matching", unit="pair")):
        try:
            found.append(score_pair(model, pair, sigmas, side, options.matches, number))
        except ValueError as error:
            skipped.append(str(error))
            sys.stderr.write(f"navi: left out: {error}\n")
        else:
            pairs.append(pair)
    if not found:
        raise ValueError(f"none of {len(drawn)} pairs can be scored: {skipped[0]}")
    scores = torch.stack(found)
    angles = torch.tensor([pair.angle_deg for pair in pairs])
    bins = by_angle(scores, angles)
    protocol = (
        f"Scores the best {options.matches} matches of a pair by the ratio test, not all pixels of the object; "
        f"{len(pairs)} pairs of {options.split}, pictures of {side}x{side}; hidden states of each block."
    )
    if skipped:
        protocol += f" {len(skipped)} further pairs could not be read."
    record = {
        "model": model_record(options.model),
        "protocol": protocol,
        "angle_edges_deg": ANGLES_DEG,
        "sigmas": sigmas,
        "skipped": skipped,
        "pairs": [
            {"scene": p.scene, "first": p.first.name, "second": p.second.name, "angle_deg": round(p.angle_deg, 3)}
            for p in pairs
        ],
        # [angle bin][layer][noise level]
        "precision": {
            f"{100 * metres:g}cm": [None if of_bin is None else of_bin[..., i].tolist() for of_bin in bins]
            for i, metres in enumerate(THRESHOLDS_M)
        },
    }
    table = _table(scores, bins, sigmas)
    write_results(options.out, "navi", record, f"{table}\n\n{protocol}")
    shown = scores.mean(0)[..., THRESHOLDS_M.index(_SHOWN_M)]
    layer, step = divmod(int(shown.argmax()), len(sigmas))
    best = [None if b is None else round(float(b[layer, step, 1]), 5) for b in bins]
    last = {
        "layer": layer, "sigma": round(sigmas[step], 5), "precision_2cm_by_angle": best, "pairs": len(pairs),
        "skipped": len(skipped),
    }  # fmt: skip
    sys.stdout.write(f"{table}\n{protocol}\nWrote {options.out}.\n{json.dumps(last)}\n")


def _table(scores: torch.Tensor, bins: list[torch.Tensor | None], sigmas: list[float]) -> str:
    """Precision at 2 cm of each layer at its best noise level, by angle."""
    at = THRESHOLDS_M.index(_SHOWN_M)
    rows = []
    for layer, by_level in enumerate(scores.mean(0)[..., at]):
        step = int(by_level.argmax())
        cells = ["-" if of_bin is None else f"{of_bin[layer, step, at]:.4f}" for of_bin in bins]
        rows.append([str(layer), f"{sigmas[step]:.2f}", *cells, f"{by_level[step]:.4f}"])
    edges = [f"{low}-{high}°" for low, high in zip(ANGLES_DEG, ANGLES_DEG[1:], strict=False)]
    return markdown_table(["layer", "best noise level", *edges, "all, at 2 cm"], rows)


if __name__ == "__main__":
    sys.exit(main())
