"""`mvtrack demo`: an unseen rendered scene, re-shot by the shipped model, beside the true view from that camera."""

import sys
from pathlib import Path

from mvtrack.config.checked import config
from mvtrack.config.command_line import Command, option, run

SCENES = {"arc_left": 20.0, "pan_right": 12.0, "translate_up": 15.0}  # preset: angle in degrees


@config(kw_only=True)
class DemoCommand(Command):
    """Render unseen scenes, re-shoot them, and show them beside the truth."""

    out: Path = option(Path("outputs/demo"), "folder for the results")
    model: str | None = option(None, "folder with model.safetensors; default: the tiny model that ships")


def main(arguments: list[str] | None = None) -> int:
    """Parse and make the demo's files."""
    return run(DemoCommand, _demo, arguments, "mvtrack demo")


def _demo(options: DemoCommand) -> None:
    from mvtrack.inference.demo import demonstrate

    for path in demonstrate(options.out, options.model, SCENES):
        sys.stdout.write(f"{path}\n")


if __name__ == "__main__":
    sys.exit(main())
