"""`mvtrack runs [FOLDER]`: a table of the training runs on disk."""

import sys
from pathlib import Path

from mvtrack.config.checked import config
from mvtrack.config.command_line import Command, positional, run


@config(kw_only=True)
class RunsCommand(Command):
    """List the training runs below a folder."""

    folder: Path = positional("what to look through", Path("runs"))


def main(arguments: list[str] | None = None) -> int:
    """Parse and print."""
    return run(RunsCommand, _show, arguments, "mvtrack runs")


def _show(options: RunsCommand) -> None:
    from mvtrack.training.run_table import table

    sys.stdout.write(table(options.folder) + "\n")


if __name__ == "__main__":
    sys.exit(main())
