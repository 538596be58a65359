"""`mvtrack view4d RESULT`: a re-shot video in 3D, live in a browser."""

import sys
from pathlib import Path

from mvtrack.config.checked import Count, config
from mvtrack.config.command_line import Command, option, positional, run


@config(kw_only=True)
class View4DCommand(Command):
    """Show source and result of a re-shot video as points in one world, with both cameras. Moments appear as their
    geometry becomes known."""

    result: Path = positional("a folder that mvtrack reshoot wrote")
    source: Path | None = option(None, "where the video that was re-shot lies now, if it was moved")
    points: Count = option(20_000, "at most so many a view and moment")
    every: Count = option(1, "take each so many-th frame")
    port: Count = option(8080, "of the page on this machine")


def main(arguments: list[str] | None = None) -> int:
    """Parse and show, until it is interrupted."""
    return run(View4DCommand, _view, arguments, "mvtrack view4d")


def _view(options: View4DCommand) -> None:
    from mvtrack.inference.scene4d.live_view import LiveView
    from mvtrack.inference.scene4d.moments import Scene4D
    from mvtrack.inference.scene4d.result import open_result

    scene = Scene4D(open_result(options.result, options.source), options.points, options.every)
    view = LiveView(scene, options.port)
    sys.stdout.write(f"{view.url} (Ctrl+C ends it)\n")
    sys.stdout.flush()
    view.run()


if __name__ == "__main__":
    sys.exit(main())
