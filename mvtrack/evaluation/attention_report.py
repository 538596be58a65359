"""The analysis of attention as numbers (JSON) and pictures: layer x noise level heat maps, and curves."""

from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float, UInt8
from torch import Tensor

from mvtrack.correspondence.probe_scores import KINDS
from mvtrack.data.panels import LABEL_PX, write_text
from mvtrack.evaluation.attention import SCORES, Analysis

_CELL, _MARGIN, _GAP = (34, 46), 42, 18  # pixels: (height, width) of a cell, room for axis labels, between maps
_TITLE_PX = 232  # the longest title
_SHOWN = (*SCORES, "harmonic_mean", "alignment_error")


def as_record(analysis: Analysis) -> dict:
    """Everything measured, for JSON: tables are [layer][step]."""
    tables = {kind: {name: _rounded(analysis.table(kind, name)) for name in _SHOWN} for kind in KINDS}
    rows = {kind: analysis.sums[0][0].means()[kind]["rows"] for kind in KINDS}
    return {
        "sigmas": [round(s, 5) for s in analysis.sigmas],
        "threshold_px": analysis.threshold_px,
        "rows": rows,
        "unmoved_pck": {kind: round(value, 5) for kind, value in analysis.unmoved_pck.items()},
        "tables": tables,
        "cross_view_alignment_error_per_head": _rounded(analysis.alignment_error_per_head()),
        "layer_to_tap": analysis.layer_to_tap(),
    }


def _rounded(table: Tensor) -> list:
    return np.round(table.numpy().astype(float), 5).tolist()


def summary(analysis: Analysis) -> str:
    """A Markdown table: cross-view scores of each layer, averaged over the noise levels."""
    tables = {name: analysis.table("cross_view", name).mean(1) for name in _SHOWN}
    lines = ["| layer | " + " | ".join(_SHOWN) + " |", "|---" * (len(_SHOWN) + 1) + "|"]
    for i in range(len(analysis.sums)):
        lines.append(f"| {i} | " + " | ".join(f"{tables[name][i]:.4f}" for name in _SHOWN) + " |")
    lines.append(f"\nPCK of matching each point with its own place: {analysis.unmoved_pck['cross_view']:.4f}.")
    lines.append(f"Layer to tap (best harmonic mean, cross-view): {analysis.layer_to_tap()}.")
    return "\n".join(lines)


def write_heat_maps(path: Path, analysis: Analysis) -> None:
    """A PNG: rows are kinds, columns are scores; in each map layers run down and denoising runs to the right."""
    rows = []
    for kind in KINDS:
        tables = [(name, analysis.table(kind, name)) for name in _SHOWN]
        maps = [_heat_map(f"{kind}: {name}", table, analysis.sigmas) for name, table in tables]
        rows.append(np.concatenate(maps, 1))
    cv2.imwrite(str(path), np.concatenate(rows)[..., ::-1])


def _heat_map(title: str, table: Float[Tensor, "layers steps"], sigmas: list[float]) -> UInt8[np.ndarray, "h w 3"]:
    values = table.numpy()
    height, width = values.shape[0] * _CELL[0], values.shape[1] * _CELL[1]
    image = np.full((height + LABEL_PX + _MARGIN, _MARGIN + max(width, _TITLE_PX) + _GAP, 3), 255, np.uint8)
    write_text(image[:LABEL_PX], title, _MARGIN)
    low, high = float(values.min()), float(values.max())
    shade = np.uint8(255 * (values - low) / (high - low if high > low else 1))
    colours = cv2.cvtColor(cv2.applyColorMap(shade, cv2.COLORMAP_VIRIDIS), cv2.COLOR_BGR2RGB)
    block = np.repeat(np.repeat(colours, _CELL[0], 0), _CELL[1], 1)
    image[LABEL_PX : LABEL_PX + height, _MARGIN : _MARGIN + width] = block
    for i, j in np.ndindex(*values.shape):
        ink = (20, 20, 20) if shade[i, j] > 140 else (245, 245, 245)
        place = (_MARGIN + j * _CELL[1] + 4, LABEL_PX + (i + 1) * _CELL[0] - 12)
        _write(image, _short(values[i, j]), place, ink)
    for i in range(values.shape[0]):
        _write(image, f"l {i}", (8, LABEL_PX + (i + 1) * _CELL[0] - 12))
    for j, sigma in enumerate(sigmas):
        _write(image, f"{sigma:.2f}", (_MARGIN + j * _CELL[1] + 8, LABEL_PX + height + 16))
    _write(image, "sigma", (2, LABEL_PX + height + 16))
    return image


def write_curves(path: Path, analysis: Analysis) -> None:
    """A PNG: per kind the PCK of every layer along denoising; dashed, matching each point with its own place."""
    panels = [
        _curves(f"{kind}: PCK by layer", analysis.table(kind, "pck"), analysis.sigmas, analysis.unmoved_pck[kind])
        for kind in KINDS
    ]
    cv2.imwrite(str(path), np.concatenate(panels, 1)[..., ::-1])


def _curves(
    title: str,
    table: Float[Tensor, "layers steps"],
    sigmas: list[float],
    level: float,
    size: tuple[int, int] = (300, 420),
) -> UInt8[np.ndarray, "h w 3"]:
    height, width = size
    image = np.full((height + LABEL_PX + _MARGIN, width + 2 * _MARGIN + _GAP, 3), 255, np.uint8)
    write_text(image[:LABEL_PX], title, _MARGIN)
    top = max(float(table.max()), level, 1e-6) * 1.05
    columns = np.linspace(0, width, max(2, len(sigmas)))[: len(sigmas)]

    def at(x: float, y: float) -> tuple[int, int]:
        return int(_MARGIN + x), int(LABEL_PX + height * (1 - y / top))

    for k in range(5):
        y = top * k / 4
        cv2.line(image, at(0, y), at(width, y), (225, 225, 225), 1)
        _write(image, _short(y), (4, at(0, y)[1] + 4))
    for x, sigma in zip(columns, sigmas, strict=True):
        _write(image, f"{sigma:.2f}", (at(x, 0)[0] - 12, LABEL_PX + height + 16))
    _write(image, "sigma", (2, LABEL_PX + height + 32))
    for start in range(0, width, 12):
        cv2.line(image, at(start, level), at(min(start + 6, width), level), (120, 120, 120), 1, cv2.LINE_AA)
    taken: list[int] = []
    for i in np.argsort(-table[:, -1].numpy()):
        hue = np.uint8([[[150 * i / max(1, len(table) - 1), 230, 200]]])
        colour = cv2.cvtColor(hue, cv2.COLOR_HSV2RGB)[0, 0].tolist()
        line = np.array([at(x, float(y)) for x, y in zip(columns, table[i], strict=True)])
        cv2.polylines(image, [line[:, None].astype(np.int32)], False, colour, 2, cv2.LINE_AA)
        row = max([int(line[-1, 1]) + 4, *(t + 14 for t in taken)])
        taken.append(row)
        _write(image, f"l {i}", (int(line[-1, 0]) + 6, row), tuple(colour))
    return image


def _short(value: float) -> str:
    return f"{value:.2f}" if abs(value) >= 0.01 or value == 0 else f"{value:.0e}"


def _write(image: np.ndarray, text: str, place: tuple[int, int], colour: tuple[int, ...] = (20, 20, 20)) -> None:
    cv2.putText(image, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.38, colour, 1, cv2.LINE_AA)
