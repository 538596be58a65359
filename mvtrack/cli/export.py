"""`mvtrack export SOURCE FOLDER`: a checkpoint's averaged weights, or a model, as one file of any layout."""

import argparse
import sys
from pathlib import Path

from mvtrack.config.errors import run_command


def main(arguments: list[str] | None = None) -> int:
    """Parse and export."""
    parser = argparse.ArgumentParser(prog="mvtrack export", description="Write weights as one safetensors file.")
    parser.add_argument("source", type=Path, help="a folder checkpoints/step_... of a run, or a model")
    parser.add_argument("out", type=Path, help="folder for the file")
    parser.add_argument("--live", action="store_true", help="the weights as trained, instead of their average")
    parser.add_argument(
        "--without-logit-heads", action="store_true", help="leave out what only the correspondence loss needs"
    )
    parser.add_argument(
        "--part", choices=("model", "tracking_head"), default="model",
        help="tracking_head: the head alone, for tracking_head.load_head; then a run will do, too",
    )  # fmt: skip
    parser.add_argument(
        "--layout", choices=("mvtrack", "official", "diffusers"), default="mvtrack",
        help="official: Wan's names, for ComfyUI and DiffSynth; diffusers: a folder for WanTransformer3DModel",
    )  # fmt: skip
    parser.add_argument("--half", action="store_true", help="store the network in float16: half the bytes")
    parser.add_argument("--debug", action="store_true", help="show a traceback when something fails")
    options = parser.parse_args(arguments)
    return run_command(lambda: _export(options), parser.prog, options.debug)


def _export(options: argparse.Namespace) -> None:
    from mvtrack.training.export import export_checkpoint, export_head, export_model

    kind, heads = "weight" if options.live else "ema", not options.without_logit_heads
    is_checkpoint = (options.source / "state.json").exists()
    if options.part == "tracking_head":
        path = export_head(options.source, options.out, kind)
    elif is_checkpoint or options.live or options.layout == "mvtrack":
        path = export_checkpoint(options.source, options.out, kind, heads, options.layout, options.half)
    else:
        path = export_model(options.source, options.out, options.layout)
    sys.stdout.write(f"{path}\n")


if __name__ == "__main__":
    sys.exit(main())
