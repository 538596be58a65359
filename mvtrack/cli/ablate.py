"""`mvtrack ablate TABLE`: one of the papers' tables, trained and scored anew."""

import sys
from pathlib import Path
from typing import Literal

from mvtrack.config.checked import Count, Positive, config
from mvtrack.config.command_line import Command, option, overrides, positional, run


@config(kw_only=True)
class AblateCommand(Command):
    """Train every arm of one of the papers' tables with several seeds, score them alike, and say whether the paper's
    order holds. Arms of a seed share their start, samples and noise. Run it again to go on after an interruption, or
    with more seeds. Miniature: rendered scenes, on a CPU. Paper: the real configs, written out with the command and the
    cost of each training. Tables: configs/experiments/."""

    table: str = positional(
        "such as table3, table4, layers, cameo-table1, cameo-table2, cameo-figure4-unet, correspondence"
    )
    scale: Literal["miniature", "paper"] = option("miniature", "rendered scenes on a CPU, or the papers' own sizes")
    out: Path = option(Path("outputs/ablate"), "a folder in it holds the runs and results of each table")
    seeds: Count = option(3, "runs of each arm")
    steps: Count | None = option(None, "of each arm, instead of the experiment's own")
    cases: Count = option(16, "rendered cases of the pinned set that are scored")
    sampling_steps: Count = option(4, "of the pictures that are scored")
    hours: Positive | None = option(None, "refuse before the first step what would train longer than this")
    plan: bool = option(False, "time six steps of each arm, say what all takes and stop; renders missing scenes")
    gpu: str = option("H100", "at paper scale: which one the cost is for")
    gpus: Count = option(4, "at paper scale: how many of them")
    changes: tuple[str, ...] = overrides("change single settings of all runs")


def main(arguments: list[str] | None = None) -> int:
    """Parse and run."""
    return run(AblateCommand, _ablate, arguments, "mvtrack ablate")


def _ablate(options: AblateCommand) -> None:
    from dataclasses import replace

    from mvtrack.evaluation.ablation.experiment import load_experiment
    from mvtrack.evaluation.ablation.run import Protocol, run_experiment, write_plan

    experiment = load_experiment(options.table, options.scale)
    if options.steps is not None:
        experiment = replace(experiment, steps=options.steps)
    out = options.out / (options.table if options.scale == "miniature" else f"{options.table}_paper")
    if options.scale == "paper":
        from mvtrack.cli.memory_report import machine_for_training, training_lines

        machine = machine_for_training(options.gpu, None, options.gpus)
        for text in write_plan(experiment, options.seeds, out, options.changes, options.gpus):
            sys.stdout.write(text.command + "\n")
            for line in training_lines(text.config, machine):
                if line.name in ("a step takes", "fits", "does not fit") or line.name.endswith("steps"):
                    sys.stdout.write(f"    {line.name}: {line.text}\n")
        return
    protocol = Protocol(options.seeds, options.cases, options.sampling_steps, options.hours, options.plan)
    sys.stdout.write(run_experiment(experiment, options.table, out, protocol, options.changes) + "\n")


if __name__ == "__main__":
    sys.exit(main())
