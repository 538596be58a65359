"""`deepspeed mvtrack/train.py --config configs/tiny.yaml [section.key=value ...]`, or plain `python`."""

import argparse
import sys

from mvtrack.command import run_command


def main(arguments: list[str] | None = None) -> int:
    """Parse, build, train."""
    parser = argparse.ArgumentParser(prog="mvtrack train", description="Train or fine-tune a re-shooting model.")
    parser.add_argument("--config", required=True, help="YAML file, see configs/")
    parser.add_argument(
        "--resume", metavar="auto|FOLDER", help="go on from the newest checkpoint of the run, or this one"
    )
    parser.add_argument("--accept-changes", action="store_true", help="resume although the config differs")
    parser.add_argument("--local_rank", type=int, help="set by the deepspeed launcher")
    parser.add_argument("--debug", action="store_true", help="show a traceback when something fails")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="change single settings")
    options = parser.parse_args(arguments)
    return run_command(lambda: _train(options), parser.prog, options.debug)


def _train(options: argparse.Namespace) -> None:
    from mvtrack.config import load_config

    config = load_config(options.config, options.overrides)
    from mvtrack.training.loop import train

    folder = train(config, options.resume, options.accept_changes)
    sys.stdout.write(f"{folder}\n")


if __name__ == "__main__":
    sys.exit(main())
