"""`deepspeed mvtrack/train.py --config configs/tiny.yaml [section.key=value ...]`; `python` and `mvtrack train` too."""

import os
import subprocess
import sys
from pathlib import Path

from mvtrack.config.checked import Count, config
from mvtrack.config.command_line import option, overrides, run
from mvtrack.inference.model_options import MemoryChecked

LESS_MEMORY = (
    "try train.micro_batch_size=1 train.gradient_checkpointing=true, a higher train.zero_stage on several ranks, or "
    "train.offload_optimizer=true; `mvtrack doctor --config FILE` says what they take"
)


@config(kw_only=True)
class TrainCommand(MemoryChecked):
    """Train or fine-tune a re-shooting model."""

    config: Path = option(..., "YAML file, see configs/")
    resume: str | None = option(None, "go on from the run's newest checkpoint, or from this one", metavar="auto|FOLDER")
    accept_changes: bool = option(False, "resume although the config differs")
    ranks: Count | None = option(None, "start this many ranks here, through DeepSpeed's launcher")
    hostfile: str | None = option(None, "start ranks on several nodes, through DeepSpeed's launcher")
    local_rank: int | None = option(None, "set by the launcher", flag="--local_rank")
    overrides: tuple[str, ...] = overrides()


def main(arguments: list[str] | None = None) -> int:
    """Parse, build, train; or start the launcher that does it on several ranks."""
    return run(TrainCommand, _work, arguments, "mvtrack train", LESS_MEMORY)


def _work(options: TrainCommand) -> None:
    if (options.ranks or options.hostfile) and "RANK" not in os.environ:
        _launch(options)
    else:
        _train(options)


def _train(options: TrainCommand) -> None:
    from mvtrack.config.run import load_training_config

    config = load_training_config(options.config, options.overrides)
    from mvtrack.training.distributed import prepare_environment, ranks_here, world_size
    from mvtrack.training.loop import train
    from mvtrack.training.memory import refuse_training

    prepare_environment()
    if not options.ignore_memory:
        refuse_training(config, world_size(), ranks_here())
    folder = train(config, options.resume, options.accept_changes)
    if os.environ["RANK"] == "0":
        sys.stdout.write(f"{folder}\n")


def _launch(options: TrainCommand) -> None:
    """Check the config here, then hand over to `deepspeed` with the same options."""
    from mvtrack.config.run import load_training_config

    load_training_config(options.config, options.overrides)
    launcher = Path(sys.executable).with_name("deepspeed")
    if not launcher.exists():
        raise ValueError("several ranks need DeepSpeed's launcher: pip install -e '.[train]'")
    command = [str(launcher)]
    command += ["--hostfile", options.hostfile] if options.hostfile else ["--num_gpus", str(options.ranks)]
    command += [str(Path(__file__).resolve()), "--config", str(options.config), *options.overrides]
    command += ["--resume", options.resume] if options.resume else []
    command += ["--accept-changes"] if options.accept_changes else []
    command += ["--ignore-memory"] if options.ignore_memory else []
    command += ["--debug"] if options.debug else []
    code = subprocess.run(command).returncode
    if code:
        raise ValueError(f"training ended with exit code {code}; the reason is above")


if __name__ == "__main__":
    sys.exit(main())
