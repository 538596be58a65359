"""Render the banks of a training config before training: `python datasets/rendered.py --config configs/tiny.yaml`.

Training renders what is missing by itself; doing it ahead keeps the cores free for the training.
"""

import argparse
import os
import sys

from mvtrack.config.errors import run_command
from mvtrack.config.run import load_config


def main() -> int:
    """Parse and render; scenes that are there already are kept."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", required=True, help="YAML file, see configs/")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes that render")
    parser.add_argument("--debug", action="store_true", help="show a traceback when something fails")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="change single settings")
    options = parser.parse_intermixed_args()
    return run_command(lambda: _render(options), "rendered", options.debug)


def _render(options: argparse.Namespace) -> None:
    from mvtrack.data.loader import open_banks

    config = load_config(options.config, options.overrides).data
    for bank, settings in zip(open_banks(config), config.banks, strict=True):
        bank.build(range(settings.num_scenes), options.workers)
        sys.stdout.write(f"{bank.root}: {settings.num_scenes} scenes\n")


if __name__ == "__main__":
    sys.exit(main())
