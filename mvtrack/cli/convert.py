"""`mvtrack convert SOURCE FOLDER`: released weights of any layout as a model of this project."""

import argparse
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from mvtrack.config.errors import run_command
from mvtrack.inference.model_options import SOURCE_HELP, add_encoder_arguments, read_encoders


def main(arguments: list[str] | None = None) -> int:
    """Parse and convert."""
    parser = argparse.ArgumentParser(
        prog="mvtrack convert",
        description="Make a model of this project from released weights: official Wan, DiffSynth, ComfyUI or diffusers "
        "names, ReCamMaster's checkpoint, ReDirector's base and delta.",
    )
    parser.add_argument("source", help=SOURCE_HELP)
    parser.add_argument("out", type=Path, help="folder for the model")
    parser.add_argument("--delta", metavar="SOURCE", help="weights that replace parts of it, such as ReDirector's")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--preset", help="which released model it is; default: told by names and shapes")
    which.add_argument("--config", type=Path, help="a YAML file whose section `model` describes it")
    fresh_help = "parameters of the model that the weights may lack, such as 'blocks.*.cam_encoder.*'"
    parser.add_argument("--fresh", metavar="PATTERN", action="append", default=[], help=fresh_help)
    drop_help = "tensors of the weights to leave out"
    parser.add_argument("--drop", metavar="PATTERN", action="append", default=[], help=drop_help)
    add_encoder_arguments(parser, "where its authors publish them")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="precision of the file; default: the source's")
    parser.add_argument("--seed", type=int, default=0, help="for fresh parameters that do not start at zero")
    parser.add_argument("--debug", action="store_true", help="show a traceback when something fails")
    options = parser.parse_args(arguments)
    return run_command(lambda: _convert(options), parser.prog, options.debug)


def _convert(options: argparse.Namespace) -> None:
    import torch

    from mvtrack.config.presets import preset
    from mvtrack.config.run import load_config
    from mvtrack.models.encoder_sources import with_sources
    from mvtrack.models.reshoot_model import WEIGHTS_FILE, save_model
    from mvtrack.models.weights.convert import load_pretrained, open_released, recognise, travelling_config

    if (options.out / WEIGHTS_FILE).exists():
        raise ValueError(f"{options.out / WEIGHTS_FILE} exists already: choose another folder")
    checkpoint = open_released([options.source, *([options.delta] if options.delta else [])])
    config, described = travelling_config(checkpoint), "the config that came with it"
    if options.config:
        config, described = load_config(options.config).model, str(options.config)
    elif options.preset or config is None:
        name = options.preset or recognise(checkpoint.without(_matching(checkpoint.tensors, options.drop)))
        config, described = preset(name), f"preset {name}"
    config = with_sources(config, read_encoders(options))
    dtype = getattr(torch, options.dtype) if options.dtype else None
    loaded = load_pretrained(config, checkpoint, options.fresh, options.drop, dtype, options.seed)
    path = save_model(loaded.model, options.out)
    read, new, dropped = (getattr(loaded.match, name) for name in ("read", "new", "dropped"))
    sys.stdout.write(f"{path}: {described}; {len(read)} tensors read{_summary('fresh', new)}")
    sys.stdout.write(f"{_summary('left out', dropped)}\n")


def _matching(names: Iterable[str], patterns: list[str]) -> list[str]:
    from fnmatch import fnmatchcase

    return [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]


def _summary(what: str, names: tuple[str, ...]) -> str:
    """`; 70 fresh (ray_encoder.* 10, blocks.*.camera_proj.* 60)`, or nothing."""
    from mvtrack.models.weights.loading import pattern_of

    groups = Counter(pattern_of(name) for name in names)
    shown = ", ".join(f"{pattern} {count}" for pattern, count in groups.items())
    return f"; {len(names)} {what} ({shown})" if names else ""


if __name__ == "__main__":
    sys.exit(main())
