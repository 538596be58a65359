"""`python eval/static.py --model FOLDER`: a model that makes views of still scenes, scored on unseen ones."""

import sys
from dataclasses import asdict
from pathlib import Path

import torch
from tqdm import tqdm

from mvtrack.config.checked import Count, config
from mvtrack.config.command_line import Command, option, run
from mvtrack.config.losses import PointMatchConfig
from mvtrack.data.visualize.contact_sheet import contact_sheet
from mvtrack.evaluation.tables import interval_text, markdown_table, mean_interval, model_record, write_results
from mvtrack.inference.sampler import SamplerOptions
from mvtrack.metrics.image import gradient_energy, psnr
from mvtrack.models.reshoot_model import ReshootModel, load_model
from mvtrack.training.static_validation import StillCase, alignment, score_views, still_cases

_FIRST_SEED = 20_000  # validation's scenes have smaller seeds
_ON_A_SHEET = 12


@config(kw_only=True)
class StaticCommand(Command):
    """Views of unseen still scenes, given some of their views (the static case): the generated views beside a copy of
    the first given view and the mean colour, with the true cameras and with wrong ones, and the alignment of the tapped
    layer. Writes static.json, static.md and contact sheets to look at."""

    model: Path = option(..., "folder of a model for still scenes", metavar="FOLDER")
    out: Path = option(Path("outputs/static"), "folder for table and sheets", metavar="FOLDER")
    cases: Count = option(24, "rendered scenes; the numbers of given views take turns", metavar="N")
    steps: Count = option(8, "sampling steps", metavar="N")
    camera_guidance: float = option(1.0, "1: off; CAMEO samples with 2", metavar="G")
    seed: int = option(0, "of scenes and noise")


def main() -> int:
    return run(StaticCommand, _run, None, "static")


def _run(options: StaticCommand) -> None:
    model = load_model(options.model)
    if model.config.views is None:
        raise ValueError(f"{options.model} re-shoots videos: score it with eval/yardstick.py")
    sample = SamplerOptions(options.steps, seed=options.seed, camera_guidance=options.camera_guidance)
    cases = still_cases(model.config.views, model.config.sizes[0], options.cases, _FIRST_SEED)
    rows, sheet = [], {}
    for case in tqdm(cases, desc="still scenes", unit="scene"):
        numbers, made = _score(model, case, sample)
        rows.append(numbers)
        label = f"{case.clip.key}, {case.num_reference} given: {numbers['psnr_db']:.1f} dB"
        sheet[f"{label}, copy {numbers['copy_db']:.1f}"] = {
            "truth": case.images,
            "given, then made": torch.cat([case.images[: case.num_given], made]),
        }
    summary = _summary(rows)
    record = {
        "model": model_record(options.model),
        "sample": asdict(sample),
        "layer": model.config.tap_layer,
        "summary": summary,
        "cases": rows,
    }
    write_results(options.out, "static", record, _table(summary))
    step = 1 if model.config.views.encoding == "images" else 4
    labels = list(sheet)
    for i in range(0, len(labels), _ON_A_SHEET):
        part = {label: sheet[label] for label in labels[i : i + _ON_A_SHEET]}
        frames = list(range(0, len(cases[0].images), step))
        contact_sheet(options.out / f"views_{i // _ON_A_SHEET}.png", part, frames)
    sys.stdout.write(_table(summary) + f"\nWrote {options.out}.\n")


def _score(model: ReshootModel, case: StillCase, sample: SamplerOptions) -> tuple[dict, torch.Tensor]:
    score = score_views(model, case, sample)
    given, truth = case.images[: case.num_given], case.images[case.num_given :]
    aligned = alignment(model, case, model.config.tap_layer, PointMatchConfig(), sample.seed)
    numbers = {
        "given": case.num_reference,
        "psnr_db": score.psnr_db,
        "true_minus_other_db": score.psnr_db - score.other_db,
        "copy_db": psnr(given[:1].expand_as(truth), truth),
        "mean_colour_db": psnr(given.mean((0, 2, 3), keepdim=True).expand_as(truth), truth),
        "gradient_energy": gradient_energy(score.made) / gradient_energy(truth),
        **aligned.over_all_kinds(),
    }
    return numbers, score.made


def _summary(rows: list[dict]) -> dict[str, dict]:
    """Means with intervals by the number of given views, and over all."""
    groups = {"all": rows}
    for given in sorted({row["given"] for row in rows}):
        groups[f"{given} given"] = [row for row in rows if row["given"] == given]
    names = [name for name in rows[0] if name != "given"]
    return {
        group: {name: mean_interval([row[name] for row in members]) for name in names}
        for group, members in groups.items()
    }


def _table(summary: dict[str, dict]) -> str:
    names = list(summary["all"])
    rows = [
        [group, *(interval_text(figures[n]) for n in names), str(figures[names[0]]["count"])]
        for group, figures in summary.items()
    ]
    return markdown_table(["", *names, "scenes"], rows)


if __name__ == "__main__":
    sys.exit(main())
