"""`python eval/static.py --model FOLDER [--data ROOT]`: a model that makes views of still scenes, scored."""

import json
import sys
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path

import torch
from tqdm import tqdm

from mvtrack.config.checked import Count, config
from mvtrack.config.command_line import Command, option, refuse_unused, run, section
from mvtrack.config.datasets import DatasetOptions
from mvtrack.config.losses import PointMatchConfig
from mvtrack.data.visualize.contact_sheet import contact_sheet
from mvtrack.evaluation.measures.fidelity import lpips_network, perceptual_distance
from mvtrack.evaluation.still_sets import open_still_set
from mvtrack.evaluation.tables import interval_text, markdown_table, mean_interval, model_record, write_results
from mvtrack.files.cache import sha256
from mvtrack.inference.sampler import SamplerOptions
from mvtrack.metrics.image import gradient_energy, psnr, ssim
from mvtrack.metrics.perceptual import Lpips
from mvtrack.models.reshoot_model import ReshootModel, load_model
from mvtrack.training.static_validation import StillCase, alignment, score_views, still_cases

_FIRST_SEED = 20_000  # validation's scenes have smaller seeds
_ON_A_SHEET, _DRAWN = 12, 24
_RENDERED, _INDEXED = 24, 280  # scenes; CAMEO's of RealEstate10K


@config(kw_only=True)
class StaticCommand(Command):
    """Views of unseen still scenes, given some of their views (the static case): the generated views beside a copy of
    the first given view and the mean colour, with the true cameras and with wrong ones, and the alignment of the tapped
    layer where there is depth. Scenes are rendered, or read from a dataset by an evaluation index (CAMEO: RealEstate10K
    1 to 3 and 2 to 2, DTU 2 to 2). Writes static.json, static.md and contact sheets to look at."""

    model: Path = option(..., "folder of a model for still scenes", metavar="FOLDER")
    out: Path = option(Path("outputs/static"), "folder for table and sheets", metavar="FOLDER")
    cases: Count | None = option(
        None, "rendered scenes; the numbers of given views take turns (24); or of the index, for each number (280)",
        metavar="N",
    )  # fmt: skip
    steps: Count | None = option(None, "sampling steps; default: what the model is meant for", metavar="N")
    camera_guidance: float | None = option(
        None, "1: off; CAMEO samples with 2; default: what the model is meant for", metavar="G"
    )
    seed: int = option(0, "of scenes and noise")
    data: Path | None = option(None, "a dataset's folder of still scenes", metavar="ROOT")
    index: Path | None = option(None, "which pictures: {scene: {context: [i, j], target: [k, ...]}}", metavar="JSON")
    given: tuple[Count, ...] = option((), "how many views are given; default: each number that the model knows")
    weights_dir: Path | None = option(None, "folder of LPIPS's AlexNet; default: $MVTRACK_WEIGHTS")
    dataset: DatasetOptions = section(DatasetOptions, "what a dataset does not say of itself", without=("captions",))


def main() -> int:
    return run(StaticCommand, _run, None, "static")


def _run(options: StaticCommand) -> None:
    model = load_model(options.model)
    if model.config.views is None:
        raise ValueError(f"{options.model} re-shoots videos: score it with eval/yardstick.py")
    sample = SamplerOptions.of(model.config, options.steps, seed=options.seed)
    if options.camera_guidance is not None:
        sample = replace(sample, camera_guidance=options.camera_guidance)
    lpips, lacking = lpips_network(options.weights_dir, model.config.sizes[0])
    if lacking is not None:
        sys.stderr.write(f"static: LPIPS is left out: {lacking}\n")
    rows, sheet = [], {}
    for case in tqdm(_cases(options, model), desc="still scenes", unit="scene"):
        numbers, made = _score(model, case, sample, lpips)
        rows.append({"scene": case.clip.key} | numbers)
        if len(sheet) == _DRAWN:
            continue
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
        "data": options.data
        and {"folder": str(options.data), "index": str(options.index), "sha256": sha256(options.index)},
        "summary": summary,
        "cases": rows,
    }
    write_results(options.out, "static", record, _table(summary))
    step = 1 if model.config.views.encoding == "images" else 4
    labels = list(sheet)
    for i in range(0, len(labels), _ON_A_SHEET):
        part = {label: sheet[label] for label in labels[i : i + _ON_A_SHEET]}
        frames = list(range(0, len(part[labels[i]]["truth"]), step))
        contact_sheet(options.out / f"views_{i // _ON_A_SHEET}.png", part, frames)
    sys.stdout.write(_table(summary) + f"\nWrote {options.out}.\n")
    last = {group: {name: round(row["mean"], 5) for name, row in figures.items()} for group, figures in summary.items()}
    sys.stdout.write(json.dumps({"figures": last}) + "\n")


def _cases(options: StaticCommand, model: ReshootModel) -> Iterable[StillCase]:
    """Rendered scenes, or those of an index, once for each number of given views."""
    views = model.config.views
    if options.data is None:
        refuse_unused(options, "index", "given", "dataset", why="it is for --data: leave it out")
        return still_cases(views, model.config.sizes[0], options.cases or _RENDERED, _FIRST_SEED)
    if options.index is None:
        raise ValueError("--data needs --index: the JSON that says which pictures are given and which are made")
    chosen = (options.data, options.index, options.dataset, model.config)
    sets = [open_still_set(*chosen, given, options.cases or _INDEXED) for given in options.given or views.references]
    sys.stderr.write("".join(f"static: {len(one)} scenes, {one.given} given\n" for one in sets))
    return (case for one in sets for case in one)


def _score(
    model: ReshootModel, case: StillCase, sample: SamplerOptions, lpips: Lpips | None
) -> tuple[dict, torch.Tensor]:
    score = score_views(model, case, sample)
    given, truth = case.images[: case.num_given], case.images[case.num_given :]
    has_depth = case.clip.depth is not None
    aligned = has_depth and alignment(model, case, model.config.tap_layer, PointMatchConfig(), sample.seed)
    numbers = {
        "given": case.num_reference,
        "psnr_db": score.psnr_db,
        "psnr_per_view_db": sum(map(psnr, score.made, truth)) / len(truth),
        "ssim": ssim(score.made, truth),
        **({} if lpips is None else {"lpips": perceptual_distance(lpips, score.made, truth)}),
        "true_minus_other_db": score.psnr_db - score.other_db,
        "copy_db": psnr(given[:1].expand_as(truth), truth),
        "mean_colour_db": psnr(given.mean((0, 2, 3), keepdim=True).expand_as(truth), truth),
        "gradient_energy": gradient_energy(score.made) / gradient_energy(truth),
        **(aligned.over_all_kinds() if aligned else {}),
    }
    return numbers, score.made


def _summary(rows: list[dict]) -> dict[str, dict]:
    """Means with intervals by the number of given views, and over all."""
    groups = {"all": rows}
    for given in sorted({row["given"] for row in rows}):
        groups[f"{given} given"] = [row for row in rows if row["given"] == given]
    names = [name for name in rows[0] if name not in ("given", "scene")]
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
