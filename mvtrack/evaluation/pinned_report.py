"""The pinned benchmark's table in Markdown, and its contact sheets."""

from pathlib import Path

from mvtrack.data.visualize.contact_sheet import contact_sheet
from mvtrack.evaluation.pinned_benchmark import Scored
from mvtrack.evaluation.tables import markdown_table, targets_table

CASES_PER_SHEET = 16
_ROWS = {
    "model": "**model, true path**",
    "mirrored": "model, mirrored path",
    "copy": "copy of the reference",
    "best_blur": "best blurred copy",
    "mean_colour": "mean colour",
    "depth_warp": "exact warp by true depth (rotation only: homography)",
    "codec": "the truth through the codec",
}


def table(summary: dict, targets: dict, skipped: str | None) -> str:
    """Markdown: PSNR of model and baselines per set with 95 % intervals, then every target and whether it is met."""
    sets = [name for name in ("rendered", "footage") if name in summary]
    head = ["PSNR, dB (95 % interval)"] + [f"{s}, {part}" for s in sets for part in ("co-visible", "whole picture")]
    suffixes = ("_covisible_db", "_db")
    rows = [
        [label, *(_cell(summary[s][name + end]) for s in sets for end in suffixes)] for name, label in _ROWS.items()
    ]
    parts = [markdown_table(head, rows), targets_table(targets), skipped]
    return "\n\n".join(part for part in parts if part)


def steps_table(by_steps: dict[int, dict]) -> str:
    """Markdown: what more sampling steps change. by_steps: the summary of each number of steps."""
    sets = [name for name in ("rendered", "footage") if name in next(iter(by_steps.values()))]
    columns = {"model_covisible_db": "co-visible dB", "model_db": "whole dB", "gradient_energy": "gradient energy"}
    head = ["sampling steps"] + [f"{s}, {label}" for s in sets for label in columns.values()]
    rows = [
        [str(steps), *(f"{summary[s][name]['mean']:.2f}" for s in sets for name in columns)]
        for steps, summary in by_steps.items()
    ]
    return markdown_table(head, rows)


def _cell(figure: dict) -> str:
    blur = f", sigma {figure['sigma_px']:g} px" if "sigma_px" in figure else ""
    return f"{figure['mean']:.2f} ({figure['low']:.2f} to {figure['high']:.2f}{blur})"


def write_sheets(out: Path, rendered: list[Scored], footage: list[Scored]) -> list[Path]:
    """All cases in manifest order, split into sheets of equal picture size."""
    groups: dict[str, list[Scored]] = {}
    for i, case in enumerate(rendered):
        groups.setdefault(f"rendered_{i // CASES_PER_SHEET}", []).append(case)
    for case in footage:
        height, width = case.made.shape[-2:]
        groups.setdefault(f"footage_{height}x{width}", []).append(case)
    paths = []
    for name, cases in groups.items():
        rows = {_label(case): _videos(case) for case in cases}
        paths.append(out / f"{name}.jpg")
        contact_sheet(paths[-1], rows, frames=[0, -1])
    return paths


def _label(case: Scored) -> str:
    n = case.numbers
    return (
        f"{case.clip.key}: true path {n['model_db']:.1f} dB, mirrored {n['mirrored_db']:.1f}, copy {n['copy_db']:.1f}"
    )


def _videos(case: Scored) -> dict:
    reference, truth = case.clip.video
    return {
        "reference (first, last)": reference,
        "model": case.made,
        "truth": truth,
        "model, mirrored path": case.mirrored,
    }
