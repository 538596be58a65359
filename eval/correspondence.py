"""`python eval/correspondence.py --model FOLDER ... --out FOLDER`: which layers match points, at which noise level."""

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Literal

import cv2
from tqdm import tqdm

from mvtrack.config.checked import Count, NonNegativeInt, Positive, config
from mvtrack.config.command_line import Command, option, refuse_unused, run, section
from mvtrack.config.datasets import DatasetOptions
from mvtrack.config.model import ModelConfig
from mvtrack.config.placement import Placement
from mvtrack.data.synthetic.test_scenes import case_specs, render_case
from mvtrack.evaluation.attention import report
from mvtrack.evaluation.attention.analysis import Analysis, AnalysisConfig, analyse
from mvtrack.evaluation.attention.dataset_clips import DatasetClips, draw_clips
from mvtrack.evaluation.attention.growth import Stage, check_comparable, growth_record, growth_table, write_growth
from mvtrack.evaluation.attention.overlays import example_sheet
from mvtrack.evaluation.attention.quality import correlate, measure_harm, picture_quality
from mvtrack.evaluation.attention.scenes import Subject
from mvtrack.evaluation.measures.fidelity import lpips_network
from mvtrack.evaluation.tables import write_results
from mvtrack.files.cache import sha256
from mvtrack.inference.device import place
from mvtrack.inference.pipeline import shipped_model
from mvtrack.inference.sampler import SamplerOptions
from mvtrack.metrics.perceptual import Lpips
from mvtrack.models.reshoot_model import ReshootModel
from mvtrack.training.model_sources import ModelSource, model_sources
from mvtrack.training.static_validation import still_cases

_FIRST_STILL = 20_000  # as eval/static.py: validation's scenes have smaller seeds


def _clips(text: str) -> int | Path:
    return int(text) if text.isdecimal() else Path(text)


@config(kw_only=True)
class CorrespondenceCommand(Command):
    """Which layers match points, at which noise level: renders clips with exact tracks (still scenes, for a model that
    makes views of them), or reads them from a dataset's folder, noises them to every level of a sampling run and probes
    each layer's attention. Several models, or runs with their checkpoints, show how alignment grows."""

    model: tuple[Path, ...] = option(
        (shipped_model(),), "model folders, checkpoints or runs; default: the shipped tiny model", metavar="FOLDER"
    )
    weights: Literal["ema", "weight"] = option("ema", "of checkpoints: averaged or live")
    out: Path = option(Path("outputs/correspondence"), "folder for tables and pictures")
    clips: int | Path = option(
        16, "how many to render at the model's own size and length, or a dataset's folder with tracks",
        metavar="N|ROOT", parse=_clips,
    )  # fmt: skip
    scenes: Count = option(40, "of the folder, drawn at random, and two views of each", metavar="N")
    frames: Count | None = option(None, "of each video; default: the model's number", metavar="N")
    steps: Count = option(10, "noise levels")
    queries: Count = option(256, "track points drawn per clip")
    threshold_px: Positive | None = option(None, "how near is right; default: one token")
    near: Positive | None = option(
        None,
        "how near is right in space, in the clips' unit; default: 4 % of the reference's median depth",
        metavar="M",
    )
    pictures: bool = option(
        False, "generate every clip: does better aligned attention go with better PSNR, SSIM, and LPIPS where its "
        "weights are"
    )  # fmt: skip
    weights_dir: Path | None = option(None, "folder of LPIPS's AlexNet; default: $MVTRACK_WEIGHTS")
    perturb: NonNegativeInt = option(0, "what pictures lose without each layer's attention, on N clips", metavar="N")
    sample_steps: Count = option(8, "of generated pictures")
    overlays: NonNegativeInt = option(3, "attention of one query in N clips", metavar="N")
    device: str = option("cpu", "where models work: cpu, cuda, cuda:1; points are matched on the CPU", metavar="D")
    seed: int = option(0, "of points and noise, and of what is drawn from a folder")
    dataset: DatasetOptions = section(DatasetOptions, "what a dataset does not say of itself", without=("captions",))


def main() -> int:
    return run(CorrespondenceCommand, _run, None, "correspondence")


def _run(options: CorrespondenceCommand) -> None:
    _check(options)
    config = AnalysisConfig(
        options.steps, options.queries, options.threshold_px, near_m=options.near, seed=options.seed
    )
    sources, stages, clips = model_sources(list(options.model)), [], {}
    check_comparable({source.name: source.config for source in sources})
    for source in sources:
        model = place(source.load(options.weights), Placement(device=options.device))
        shape = model.config.sizes[0], model.config.num_frames, model.config.views, model.config.token_px()
        if shape not in clips:
            clips[shape] = _subjects(model.config, options)
        out = options.out if len(sources) == 1 else options.out / source.name
        stages.append(_one(source, model, clips[shape], config, out, options))
    if len(stages) > 1:
        write_results(options.out, "growth", growth_record(stages), growth_table(stages))
        write_growth(options.out / "growth.png", stages)
        sys.stdout.write(f"{growth_table(stages)}\nWrote {options.out / 'growth.png'}.\n")
    sys.stdout.write(json.dumps({"models": {stage.name: _figures(stage.analysis) for stage in stages}}) + "\n")


def _figures(analysis: Analysis) -> dict:
    """The closing line's: the layer to tap and, over the noise levels, its cross-view scores."""
    layer = analysis.layer_to_tap()
    scores = {name: round(float(analysis.table("cross_view", name)[layer].mean()), 5) for name in report.SHOWN}
    return {"layer_to_tap": layer, **scores}


def _check(options: CorrespondenceCommand) -> None:
    """Raise ValueError for too few clips, or options that have no effect."""
    in_folder = isinstance(options.clips, Path)
    if not in_folder:
        refuse_unused(options, "scenes", "frames", "dataset", why="it is for --clips ROOT: leave it out")
    flag, count = ("--scenes", options.scenes) if in_folder else ("--clips", options.clips)
    if options.pictures and count < 3:
        raise ValueError(f"--pictures needs at least 3 {flag} to correlate, got {count}")
    if count < 1:
        raise ValueError(f"{flag} must be at least 1, got {count}")


def _subjects(model: ModelConfig, options: CorrespondenceCommand) -> Sequence[Subject]:
    """Clips of a folder, rendered ones, or still scenes for a model that makes views of them."""
    if isinstance(options.clips, Path):
        chosen = draw_clips(options.clips, options.dataset, model, options.scenes, options.frames, options.seed)
        shown = "x".join(map(str, model.sizes[0]))
        sys.stderr.write(f"correspondence: {len(chosen)} scenes, {chosen.num_frames} frames of {shown}\n")
        return chosen
    if model.views is not None:
        return still_cases(model.views, model.sizes[0], options.clips, _FIRST_STILL)
    specs = tqdm(case_specs(options.clips, 0, model.sizes[0], model.num_frames), desc="rendering", unit="clip")
    return [render_case(spec, num_points=options.queries).clip for spec in specs]


def _one(
    source: ModelSource, model: ReshootModel, clips: Sequence[Subject], config: AnalysisConfig, out: Path,
    options: CorrespondenceCommand,
) -> Stage:  # fmt: skip
    """Everything about one model, written to a folder of its own."""
    began = time.monotonic()
    with tqdm(total=len(clips) * config.steps, desc=f"probing {source.name}", unit="forward") as bar:
        analysis = analyse(model, clips, config, bar.update)
    seconds = {"probing": round(time.monotonic() - began, 1)}
    out.mkdir(parents=True, exist_ok=True)
    sample = SamplerOptions.of(model.config, options.sample_steps, seed=options.seed)
    quality = found = harm = None
    if options.pictures:
        with tqdm(total=len(clips), desc="generating", unit="clip") as bar:
            quality = picture_quality(model, clips, sample, bar.update, _lpips(model, options.weights_dir))
        found = correlate(analysis.alignment_error_per_clip(), quality)
        report.write_correlations(out / "correlation.png", found)
    if options.perturb:
        chosen = clips[: options.perturb]
        with tqdm(total=len(chosen) * (1 + 2 * model.config.num_layers), desc="perturbing", unit="video") as bar:
            harm = measure_harm(model, chosen, sample, bar.update)
        report.write_harm(out / "perturbation.png", harm)
    _pictures(analysis, model, clips[: options.overlays], config, out)
    record = {
        "model": {"path": str(source.path), "sha256": sha256(source.weights), "step": source.step},
        "config": asdict(config),
        "clips": len(clips),
        "folder": str(options.clips) if isinstance(options.clips, Path) else None,
        "scenes": [scene.name for scene in clips.scenes] if isinstance(clips, DatasetClips) else None,
        **report.as_record(analysis),
        "sample": asdict(sample),
        "quality": quality,
        "correlation": None if found is None else report.correlation_record(found),
        "perturbation": None if harm is None else report.harm_record(harm),
        "tapped_now": model.config.tap_layer,
        "seconds": seconds | {"all": round(time.monotonic() - began, 1)},
    }
    table = report.summary(analysis, found, harm)
    write_results(out, "attention", record, table)
    tapped = f"The model is tapped at layer {model.config.tap_layer}."
    sys.stdout.write(f"{table}\n{tapped} Took {record['seconds']['all']} s. Wrote {out}.\n")
    return Stage(source.name, source.step, analysis, quality)


def _lpips(model: ReshootModel, folder: Path | None) -> Lpips | None:
    """Where its files are there, and pictures are large enough."""
    network, lacking = lpips_network(folder, model.config.sizes[0])
    if lacking is not None:
        sys.stderr.write(f"correspondence: LPIPS is left out: {lacking}\n")
    return network


def _pictures(
    analysis: Analysis, model: ReshootModel, clips: Sequence[Subject], config: AnalysisConfig, out: Path
) -> None:
    report.write_heat_maps(out / "heat_maps.png", analysis)
    report.write_heads(out / "heads.png", analysis)
    report.write_curves(out / "curves.png", analysis)
    if analysis.space is not None:
        near = (
            f"{100 * config.near_share:g} % of the scene's depth"
            if config.near_m is None
            else f"{config.near_m:g} units"
        )
        report.write_space(out / "space.png", analysis, near)
    sigma = analysis.sigmas[len(analysis.sigmas) // 2]
    for i, clip in enumerate(clips):
        sheet = example_sheet(model, clip, analysis.layer_to_tap(), sigma, config.seed + i)
        cv2.imwrite(str(out / f"overlay_{i}.png"), sheet[..., ::-1])


if __name__ == "__main__":
    sys.exit(main())
