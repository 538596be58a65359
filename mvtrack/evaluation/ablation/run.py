"""A whole experiment: every run trained and scored, then the table, the plots and the verdict."""

import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import yaml

from mvtrack.config.decoder import DecoderRunConfig
from mvtrack.config.training import TrainingConfig
from mvtrack.config.tree import to_tree
from mvtrack.data.synthetic.test_scenes import render_case
from mvtrack.evaluation.ablation.experiment import ArmRun, Experiment, arm_runs, base_run
from mvtrack.evaluation.ablation.report import (
    Runs,
    arms_table,
    compare,
    curve_table,
    plot_arms,
    plot_curves,
    rank_correlation,
    regained,
    regained_lines,
    steps_to_reach,
    verdict_lines,
    verdicts,
)
from mvtrack.evaluation.ablation.scores import TITLES, Scores, pinned_scores, validation_curves, validation_scores
from mvtrack.evaluation.ablation.training import forecast, remembered, take_over, train_in_a_process
from mvtrack.evaluation.attention.analysis import AnalysisConfig, analyse
from mvtrack.evaluation.manifest import VERSIONS, load_manifest
from mvtrack.evaluation.tables import markdown_table, write_results
from mvtrack.files.cache import sha256
from mvtrack.inference.sampler import SamplerOptions
from mvtrack.inference.view_matching import matcher_title
from mvtrack.models.reshoot_model import load_model

_ANALYSED = 8  # cases in which the base's layers are analysed


@dataclass(frozen=True)
class Protocol:
    """seeds: runs of each arm. cases: of the pinned set. hours: of training that are allowed. plan: only say what it
    takes."""

    seeds: int
    cases: int
    sampling_steps: int
    hours: float | None = None
    plan: bool = False


@dataclass(frozen=True)
class Planned:
    """One training at the paper's scale, and how it is started."""

    config: TrainingConfig
    command: str


def write_plan(experiment: Experiment, seeds: int, out: Path, changes: tuple[str, ...], gpus: int) -> Iterator[Planned]:
    """Write the config of every run; where they are trained is not this machine's affair."""
    for run in _all_runs(experiment, seeds, out, changes):
        path = run.folder.with_suffix(".yaml")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(to_tree(run.config), sort_keys=False))
        yield Planned(run.config, f"deepspeed --num_gpus {gpus} mvtrack/train.py --config {path} --resume auto")


def run_experiment(
    experiment: Experiment, name: str, out: Path, protocol: Protocol, changes: tuple[str, ...] = ()
) -> str:
    """Train and score what has not been yet; returns the table and the verdict in Markdown, and writes them with JSON
    and plots. Raises ValueError for too little disk or time, arms that differ in more than they say, failed runs."""
    began = time.monotonic()
    trainings = _all_runs(experiment, protocol.seeds, out, changes)
    for run in trainings:
        take_over(run, out.parent)
    takes = forecast(trainings, out, protocol.hours)
    if protocol.plan:
        return takes
    sys.stderr.write(takes + "\n")
    base, record = None, {}
    curves: Runs = {arm.name: [] for arm in experiment.arms}
    scores: Runs = {arm.name: [] for arm in experiment.arms}
    for run in trainings:
        folder = train_in_a_process(run.config)
        if run.arm is None:
            base = _scored(experiment, run, folder, protocol)
            record["layers_of_the_base"] = _layers(folder, protocol, out) if experiment.layers else None
            continue
        scores[run.arm].append(_scored(experiment, run, folder, protocol))
        curves[run.arm].append(validation_curves(run.folder))
    comparison, found = compare(scores, experiment.reference), verdicts(experiment, scores)
    record |= {
        "rendered_miniature": True,
        "manifest": VERSIONS[-1],
        "experiment": to_tree(experiment),
        "protocol": asdict(protocol) | {"changes": list(changes)},
        "base": base,
        "comparison": comparison,
        "curves": curves,
        "verdicts": found,
        "seconds": round(time.monotonic() - began, 1),
    }
    text = [f"# {experiment.title} (rendered miniature)", f"The paper: {experiment.claim}"]
    text += [arms_table(experiment, comparison, base), _protocol_line(experiment, protocol, trainings[-1].config)]
    if experiment.layers:
        text.append(_layers_text(experiment, record, comparison))
    if experiment.speed_up:
        record["steps_to_reach"] = steps_to_reach(curves, experiment.reference, experiment.speed_up)
        text.append(_speed_text(experiment, record["steps_to_reach"]))
    record["regained"] = regained(experiment, comparison, base)
    text += [curve_table(curves), verdict_lines(experiment, found), regained_lines(experiment, record["regained"])]
    whole = "\n\n".join(part for part in text if part)
    write_results(out, name, record, whole)
    plot_arms(out / f"{name}.png", experiment, comparison, base)
    plot_curves(out / f"{name}_curves.png", curves)
    words = [v["verdict"] for v in [*found, *record["regained"]]]
    end = {"figures": {word: words.count(word) for word in sorted(set(words))}, "met": set(words) <= {"holds"}}
    return whole + "\n\n" + json.dumps(end | {"targets": {"holds": len(words)}})


def _all_runs(experiment: Experiment, seeds: int, out: Path, changes: tuple[str, ...]) -> list[ArmRun]:
    base = base_run(experiment, out, changes)
    return [*([base] if base else []), *arm_runs(experiment, seeds, out, changes)]


def _scored(experiment: Experiment, run: ArmRun, folder: Path, protocol: Protocol) -> Scores:
    if experiment.scored == "validation":
        return validation_scores(run.folder)
    sample = SamplerOptions(protocol.sampling_steps)
    key = {
        "model": sha256(folder / "model.safetensors"), "cases": protocol.cases, "layer": run.layer,
        "sample": sample.record, "scores": list(TITLES),
    }  # fmt: skip
    measure = lambda: pinned_scores(load_model(folder), _cases(run, protocol.cases), run.layer, sample)  # noqa: E731
    return remembered(run.folder.with_name(f"{run.folder.name}_scores.json"), key, measure)


def _cases(run: ArmRun, count: int) -> list:
    """Pinned cases at the run's own size and length."""
    size, frames = run.config.model.sizes[0], run.config.model.num_frames
    return [replace(spec, size=size, num_frames=frames) for spec in load_manifest().rendered[:count]]


def _layers(folder: Path, protocol: Protocol, out: Path) -> dict[str, list[float]]:
    """Of every layer of the base: PCK, attention score, confidence and their harmonic mean across views."""
    model = load_model(folder)
    specs = [
        replace(spec, size=model.config.sizes[0], num_frames=model.config.num_frames)
        for spec in load_manifest().rendered[: min(_ANALYSED, protocol.cases)]
    ]

    def measure() -> dict[str, list[float]]:
        clips = [render_case(spec, num_points=256).clip for spec in specs]
        analysis = analyse(model, clips, AnalysisConfig(steps=5))
        names = ("pck", "attention_score", "confidence_score", "harmonic_mean")
        return {name: analysis.table("cross_view", name).mean(1).tolist() for name in names}

    key = {"model": sha256(folder / "model.safetensors"), "cases": len(specs)}
    return remembered(out / "base_layers.json", key, measure)


def _layers_text(experiment: Experiment, record: dict, comparison: dict) -> str:
    """What each layer is worth: how well it matches in the base, and what supervising it gained."""
    measured = record["layers_of_the_base"]
    supervised = [arm for arm in experiment.arms if arm.name.startswith("layer_")]
    layers = [int(arm.name.removeprefix("layer_")) for arm in supervised]
    gain = [comparison["psnr_covisible_db"][arm.name]["difference"]["mean"] for arm in supervised]
    strength = [measured["harmonic_mean"][layer] for layer in layers]
    record["rank_correlation"] = rank_correlation(strength, gain)
    rows = [
        [str(layer), *(f"{measured[name][layer]:.3f}" for name in measured), f"{value:+.3f}"]
        for layer, value in zip(layers, gain, strict=True)
    ]
    table = markdown_table(["layer", *measured, "gain in co-visible PSNR, dB"], rows)
    return f"{table}\n\nRank correlation of harmonic mean and gain over layers: {record['rank_correlation']:.2f}."


def _speed_text(experiment: Experiment, reached: dict[str, float | None]) -> str:
    whole = reached[experiment.reference]
    lines = []
    for arm in experiment.arms:
        step = reached[arm.name]
        if step is None:
            lines.append(f"- {arm.title}: never within {experiment.steps} steps")
        else:
            lines.append(f"- {arm.title}: step {step:.0f}, {whole / step:.2f} × as fast")
    return f"Steps to reach the final {TITLES[experiment.speed_up].text} of the reference arm:\n\n" + "\n".join(lines)


def _protocol_line(experiment: Experiment, protocol: Protocol, config: TrainingConfig) -> str:
    scored = (
        f"{protocol.cases} rendered cases of the pinned set, {protocol.sampling_steps} sampling steps"
        if experiment.scored == "pinned"
        else "the last validation, on unseen rendered scenes"
    )
    base = f"; base of {experiment.pretraining.steps}" if experiment.pretraining else ""
    matcher = f" Matches: {matcher_title(config.decoder.matching)}." if isinstance(config, DecoderRunConfig) else ""
    return f"Mean ± standard deviation over {protocol.seeds} seeds, {experiment.steps} steps{base}; {scored}.{matcher}"
