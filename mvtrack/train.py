"""`deepspeed mvtrack/train.py --config configs/tiny.yaml [section.key=value ...]`; `python` and `mvtrack train` too."""

import argparse
import os
import subprocess
import sys
from pathlib import Path

from mvtrack.config.errors import run_command
from mvtrack.inference.model_options import add_memory_argument

LESS_MEMORY = (
    "try train.micro_batch_size=1 train.gradient_checkpointing=true, a higher train.zero_stage on several ranks, or "
    "train.offload_optimizer=true; `mvtrack doctor --config FILE` says what they take"
)


def main(arguments: list[str] | None = None) -> int:
    """Parse, build, train; or start the launcher that does it on several ranks."""
    parser = argparse.ArgumentParser(prog="mvtrack train", description="Train or fine-tune a re-shooting model.")
    parser.add_argument("--config", required=True, help="YAML file, see configs/")
    parser.add_argument(
        "--resume", metavar="auto|FOLDER", help="go on from the run's newest checkpoint, or from this one"
    )
    parser.add_argument("--accept-changes", action="store_true", help="resume although the config differs")
    add_memory_argument(parser)
    parser.add_argument("--ranks", type=int, help="start this many ranks here, through DeepSpeed's launcher")
    parser.add_argument("--hostfile", help="start ranks on several nodes, through DeepSpeed's launcher")
    parser.add_argument("--local_rank", type=int, help="set by the launcher")
    parser.add_argument("--debug", action="store_true", help="show a traceback when something fails")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="change single settings")
    options = parser.parse_intermixed_args(arguments)  # overrides may stand anywhere
    work = _launch if (options.ranks or options.hostfile) and "RANK" not in os.environ else _train
    return run_command(lambda: work(options), parser.prog, options.debug, LESS_MEMORY)


def _train(options: argparse.Namespace) -> None:
    from mvtrack.config.run import load_config

    config = load_config(options.config, options.overrides)
    from mvtrack.training.distributed import prepare_environment, ranks_here, world_size
    from mvtrack.training.loop import train
    from mvtrack.training.memory import refuse_training

    prepare_environment()
    if not options.ignore_memory:
        refuse_training(config, world_size(), ranks_here())
    folder = train(config, options.resume, options.accept_changes)
    if os.environ["RANK"] == "0":
        sys.stdout.write(f"{folder}\n")


def _launch(options: argparse.Namespace) -> None:
    """Check the config here, then hand over to `deepspeed` with the same options."""
    from mvtrack.config.run import load_config

    load_config(options.config, options.overrides)
    launcher = Path(sys.executable).with_name("deepspeed")
    if not launcher.exists():
        raise ValueError("several ranks need DeepSpeed's launcher: pip install 'mvtrack[train]'")
    command = [str(launcher)]
    command += ["--hostfile", options.hostfile] if options.hostfile else ["--num_gpus", str(options.ranks)]
    command += [str(Path(__file__).resolve()), "--config", options.config, *options.overrides]
    command += ["--resume", options.resume] if options.resume else []
    command += ["--accept-changes"] if options.accept_changes else []
    command += ["--ignore-memory"] if options.ignore_memory else []
    command += ["--debug"] if options.debug else []
    code = subprocess.run(command).returncode
    if code:
        raise ValueError(f"training ended with exit code {code}; the reason is above")


if __name__ == "__main__":
    sys.exit(main())
