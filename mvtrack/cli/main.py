"""The console command `mvtrack`: one thin entry per task."""

import sys

from mvtrack import reshoot, train
from mvtrack.cli import attention, cameras, convert, demo, doctor, export, prepare, preview, runs, track, train_decoder

COMMANDS = {
    "reshoot": (reshoot.main, "re-shoot a video along a new camera path"),
    "preview": (preview.main, "see a camera path before rendering it"),
    "track": (track.main, "follow points through a video and other views of its scene"),
    "attention": (attention.main, "draw where a point of one view looks in both"),
    "cameras": (cameras.main, "inspect, convert and check pose files"),
    "prepare": (prepare.main, "encode multi-view clips once, for training"),
    "train": (train.main, "train or fine-tune a model"),
    "train-decoder": (train_decoder.main, "train a decoder that aligns views to the pixel"),
    "runs": (runs.main, "list training runs on disk"),
    "convert": (convert.main, "make a model from released weights of any layout"),
    "export": (export.main, "write a checkpoint or model as one file of any layout"),
    "doctor": (doctor.main, "what is installed and missing, and what a model or a training takes"),
    "demo": (demo.main, "render an unseen scene, re-shoot it, and show it beside the truth"),
}


def main(arguments: list[str] | None = None) -> int:
    """Dispatch to a command; without one, list them."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] in ("-h", "--help"):
        width = max(map(len, COMMANDS))
        lines = [f"  {name:<{width}}  {text}" for name, (_, text) in COMMANDS.items()]
        sys.stdout.write("\n".join(["usage: mvtrack COMMAND [options]", "", *lines]) + "\n")
        return 0 if arguments else 2
    name, *rest = arguments
    if name not in COMMANDS:
        sys.stderr.write(f"mvtrack: unknown command {name!r}; known: {', '.join(COMMANDS)}\n")
        return 2
    return COMMANDS[name][0](rest)
