"""The analysis of attention as numbers (JSON), a table, and charts."""

import math
from pathlib import Path

import numpy as np
from torch import Tensor

from mvtrack.correspondence.space_scores import ANGLE_EDGES_DEG
from mvtrack.evaluation.attention.analysis import SCORES, Analysis
from mvtrack.evaluation.attention.quality import Correlation, Harm
from mvtrack.evaluation.plots import ByLayer, Curves, HeatMap, draw_by_layer, draw_curves, draw_heat_maps
from mvtrack.evaluation.tables import markdown_table, mean_interval

SHOWN = (*SCORES, "harmonic_mean", "alignment_error")
_KIND_TITLES = {
    "reference_temporal": "within the reference",
    "target_temporal": "within the target",
    "cross_view": "across views",
}
_SCORE_TITLES = {
    "pck": "PCK",
    "attention_score": "attention score",
    "confidence_score": "confidence",
    "harmonic_mean": "harmonic mean",
    "alignment_error": "alignment error, nats",
}
_QUALITY_TITLES = {"psnr_db": "PSNR", "ssim": "SSIM", "lpips": "LPIPS"}
_HARM_TITLES = {"identity": "attention replaced by identity", "own_view": "cross-view part removed"}


def as_record(analysis: Analysis) -> dict:
    """Everything probed, for JSON: tables are [layer][step]."""
    tables = {kind: {name: _rounded(analysis.table(kind, name)) for name in SHOWN} for kind in analysis.kinds}
    rows = {kind: analysis.sums[0][0].means()[kind]["rows"] for kind in analysis.kinds}
    return {
        "sigmas": [round(s, 5) for s in analysis.sigmas],
        "threshold_px": analysis.threshold_px,
        "rows": rows,
        "unmoved_pck": {kind: round(value, 5) for kind, value in analysis.unmoved_pck.items()},
        "tables": tables,
        "alignment_error_per_head": {
            kind: _rounded(analysis.alignment_error_per_head(kind)) for kind in analysis.kinds
        },
        "alignment_error_per_clip": _rounded(analysis.alignment_error_per_clip()),
        "precision_in_space": _space_record(analysis),
        "layer_to_tap": analysis.layer_to_tap(),
    }


def _space_record(analysis: Analysis) -> dict | None:
    """By angle bin, over noise levels: rows, the share of them that a perfect matcher gets near, and each layer's."""
    if analysis.space is None:
        return None
    by_layer = [
        [sum(getattr(s, name) for s in steps) for name in ("rows", "near", "reachable")] for steps in analysis.space
    ]
    rows, _, reachable = by_layer[0]
    return {
        "angle_edges_deg": list(ANGLE_EDGES_DEG),
        "rows": [int(n) for n in rows / len(analysis.sigmas)],
        "reachable": _rounded(reachable / rows),
        "precision": [_rounded(near / rows) for _, near, _ in by_layer],
    }


def correlation_record(found: dict[str, list[Correlation]]) -> dict:
    """r, p and count by quality and layer; None where one of both did not vary."""
    return {
        name: [{"r": _known(c.r), "p": _known(c.p), "count": c.count} for c in layers] for name, layers in found.items()
    }


def _known(value: float) -> float | None:
    return None if math.isnan(value) else float(f"{value:.5g}")


def harm_record(harm: Harm) -> dict:
    """Mean PSNR undisturbed and by how much it falls, by kind and layer, with 95 % intervals over clips."""
    drops = {kind: [mean_interval(row) for row in harm.drop_db(kind)] for kind in harm.perturbed_db}
    return {"undisturbed_psnr_db": mean_interval(harm.undisturbed_db), "drop_db": drops}


def _rounded(table: Tensor) -> list:
    """Numbers for JSON, which has no NaN."""
    values = np.round(table.double().numpy(), 5)
    return np.where(np.isfinite(values), values, None).tolist()


def summary(
    analysis: Analysis, correlations: dict[str, list[Correlation]] | None = None, harm: Harm | None = None
) -> str:
    """A Markdown table: cross-view scores of each layer, averaged over the noise levels, and what else was measured."""
    columns = {name: [f"{x:.4f}" for x in analysis.table("cross_view", name).mean(1)] for name in SHOWN}
    for name, found in (correlations or {}).items():
        columns[f"r with {_QUALITY_TITLES[name]} (p)"] = [f"{c.r:+.2f} ({c.p:.2g})" for c in found]
    if harm is not None:
        for kind in harm.perturbed_db:
            columns[f"dB lost, {_HARM_TITLES[kind]}"] = [f"{np.mean(row):+.2f}" for row in harm.drop_db(kind)]
    rows = [[str(i), *(values[i] for values in columns.values())] for i in range(len(analysis.sums))]
    lines = [markdown_table(["layer", *columns], rows)]
    lines.append(f"\nPCK of matching each point with its own place: {analysis.unmoved_pck['cross_view']:.4f}.")
    lines.append(f"Layer to tap (best harmonic mean, cross-view): {analysis.layer_to_tap()}.")
    return "\n".join(lines)


def write_heat_maps(path: Path, analysis: Analysis) -> None:
    """A PNG: rows are kinds, columns are scores; in each map layers run down and denoising runs to the right."""
    labels = [f"{sigma:.2f}" for sigma in analysis.sigmas]
    rows = [
        [
            HeatMap(
                f"{_SCORE_TITLES[name]}, {_KIND_TITLES[kind]}", analysis.table(kind, name).numpy(), "layer",
                "noise level", labels, low_is_good=name == "alignment_error",
            )
            for name in SHOWN
        ]
        for kind in analysis.kinds
    ]  # fmt: skip
    draw_heat_maps(path, rows)


def write_heads(path: Path, analysis: Analysis) -> None:
    """A PNG: the alignment error of every layer and head, averaged over noise levels, by kind."""
    maps = []
    for kind in analysis.kinds:
        errors = analysis.alignment_error_per_head(kind).mean(1).numpy()
        heads = [str(head) for head in range(errors.shape[1])]
        title = f"alignment error, nats,\n{_KIND_TITLES[kind]}"
        maps.append(HeatMap(title, errors, "layer", "head", heads, low_is_good=True))
    draw_heat_maps(path, [maps])


def write_curves(path: Path, analysis: Analysis) -> None:
    """A PNG: per kind the PCK of every layer along denoising; dashed, matching each point with its own place."""
    panels = []
    for kind in analysis.kinds:
        level = ("matching each point with its own place", [analysis.unmoved_pck[kind]] * len(analysis.sigmas))
        values = analysis.table(kind, "pck").numpy()
        panels.append(Curves(_KIND_TITLES[kind], analysis.sigmas, values, "noise level", "PCK with cycle check", level))
    draw_curves(path, panels)


def write_space(path: Path, analysis: Analysis, near: str) -> None:
    """A PNG: the share of matches that come near in space, by viewpoint angle; dashed, the best the grid allows.

    near: what counts as near, in words.
    """
    record = _space_record(analysis)
    values = np.array(record["precision"], dtype=float)  # None becomes NaN
    known = [i for i, rows in enumerate(record["rows"]) if rows > 0]
    edges = ANGLE_EDGES_DEG
    middles = [(edges[i] + min(edges[i + 1], edges[i] + 10)) / 2 for i in known]
    title = f"matches near in space: within {near}"
    dashed = ("the best that the token grid allows", [record["reachable"][i] for i in known])
    draw_curves(
        path,
        [Curves(title, middles, values[:, known], "angle between the lines of sight, degrees", "precision", dashed)],
    )


def write_correlations(path: Path, found: dict[str, list[Correlation]]) -> None:
    """A PNG: Pearson's r by layer; stars for p < 0.05 and p < 0.01."""
    count = next(iter(found.values()))[0].count
    values = {_QUALITY_TITLES[name]: [c.r for c in layers] for name, layers in found.items()}
    stars = {_QUALITY_TITLES[name]: [_stars(c.p) for c in layers] for name, layers in found.items()}
    title = f"low alignment error with good pictures? {count} samples"
    draw_by_layer(path, [ByLayer(title, "Pearson's r", values, notes=stars, x_name="layer (* p < 0.05, ** p < 0.01)")])


def _stars(p: float) -> str:
    return "**" if p < 0.01 else "*" if p < 0.05 else ""


def write_harm(path: Path, harm: Harm) -> None:
    """A PNG: how much PSNR falls when one layer's attention is perturbed, with 95 % intervals over clips."""
    record = harm_record(harm)
    values = {_HARM_TITLES[kind]: [row["mean"] for row in rows] for kind, rows in record["drop_db"].items()}
    ends = {_HARM_TITLES[kind]: [(r["low"], r["high"]) for r in rows] for kind, rows in record["drop_db"].items()}
    whole = record["undisturbed_psnr_db"]
    title = f"PSNR lost without one layer's attention ({whole['mean']:.2f} dB undisturbed, {whole['count']} clips)"
    draw_by_layer(path, [ByLayer(title, "dB lost", values, ends)])
