"""The console command `mvtrack`: one thin file per task, imported when its command is asked for."""

import sys
from importlib import import_module
from typing import NoReturn

from mvtrack.config.errors import did_you_mean, leave

COMMANDS = {
    "reshoot": ("mvtrack.reshoot", "re-shoot a video along a new camera path"),
    "views": ("mvtrack.cli.views", "new views of a still scene from photographs"),
    "preview": ("mvtrack.cli.preview", "see a camera path before rendering it"),
    "track": ("mvtrack.cli.track", "follow points through a video and other views of its scene"),
    "attention": ("mvtrack.cli.attention", "draw where a point of one view looks in both"),
    "export4d": ("mvtrack.cli.export4d", "a re-shot video as points, meshes, cameras and tracks for 3D programs"),
    "web": ("mvtrack.cli.web", "a page to re-shoot videos in: cameras in 3D, a queue, results side by side"),
    "view4d": ("mvtrack.cli.view4d", "see a re-shot video in 3D, live in a browser"),
    "cameras": ("mvtrack.cli.cameras", "inspect, convert, check and measure cameras"),
    "pseudo-tracks": ("mvtrack.cli.pseudo_tracks", "follow points through multi-view clips, for training"),
    "prepare": ("mvtrack.cli.prepare", "encode multi-view clips once, for training"),
    "caption": ("mvtrack.cli.caption", "describe a dataset's scenes by an image-text network"),
    "train": ("mvtrack.train", "train or fine-tune a model"),
    "train-refiner": ("mvtrack.cli.train_refiner", "train what brings results to full resolution"),
    "ablate": ("mvtrack.cli.ablate", "train and score a table of the papers, arm by arm"),
    "runs": ("mvtrack.cli.runs", "list training runs on disk"),
    "convert": ("mvtrack.cli.convert", "make a model from released weights of any layout"),
    "export": ("mvtrack.cli.export", "write a checkpoint or model as one file of any layout"),
    "calibrate": ("mvtrack.cli.calibrate", "fit the step cache to a model: faster sampling (--cache)"),
    "bench": ("mvtrack.cli.bench", "which options make a model faster on this machine"),
    "doctor": ("mvtrack.cli.doctor", "what is installed and missing, and what a model or a training takes"),
    "demo": ("mvtrack.cli.demo", "render an unseen scene, re-shoot it, and show it beside the truth"),
}


def main(arguments: list[str] | None = None) -> int:
    """Dispatch to a command; without one, list them."""
    name, *rest = (sys.argv[1:] if arguments is None else arguments) or [""]
    if name == "--version":
        from importlib import metadata

        sys.stdout.write(f"mvtrack {metadata.version('mvtrack')}\n")
        return 0
    if name == "help" and rest:
        name, rest = rest[0], [*rest[1:], "--help"]
    if name in ("", "-h", "--help", "help"):
        width = max(map(len, COMMANDS))
        lines = [f"  {command:<{width}}  {text}" for command, (_, text) in COMMANDS.items()]
        last = "mvtrack help COMMAND, or mvtrack COMMAND --help, says more; mvtrack --version"
        sys.stdout.write("\n".join(["usage: mvtrack COMMAND [options]", "", *lines, "", last]) + "\n")
        return 0 if name else 2
    if name not in COMMANDS:
        known = f"known: {', '.join(COMMANDS)}"
        sys.stderr.write(f"mvtrack: unknown command {name!r}{did_you_mean(name, COMMANDS) or '; ' + known}\n")
        return 2
    return import_module(COMMANDS[name][0]).main(rest)


def program() -> NoReturn:
    """What the installed command runs."""
    leave(main())
