"""`mvtrack runs [FOLDER]`: a table of the training runs on disk."""

import argparse
import sys
from pathlib import Path

from mvtrack.config.errors import run_command


def main(arguments: list[str] | None = None) -> int:
    """Parse and print."""
    parser = argparse.ArgumentParser(prog="mvtrack runs", description="List the training runs below a folder.")
    parser.add_argument("folder", nargs="?", default="runs")
    parser.add_argument("--debug", action="store_true", help="show a traceback when something fails")
    options = parser.parse_args(arguments)
    return run_command(lambda: _show(Path(options.folder)), parser.prog, options.debug)


def _show(folder: Path) -> None:
    from mvtrack.training.run_table import table

    sys.stdout.write(table(folder) + "\n")


if __name__ == "__main__":
    sys.exit(main())
