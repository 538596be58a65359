"""`mvtrack prepare CLIPS --config configs/recammaster_1.3b.yaml`: encode multi-view clips once, for training."""

import argparse
import re
import sys
from pathlib import Path

from mvtrack.config.errors import run_command
from mvtrack.inference.model_options import add_memory_argument

LESS_MEMORY = "try --set model.codec.tile=[30,52], a smaller size of data.latents, or --device cpu"


def main(arguments: list[str] | None = None) -> int:
    """Parse and encode; clips that are encoded already are kept."""
    parser = argparse.ArgumentParser(
        prog="mvtrack prepare",
        description="Encode multi-view clips into a folder of data.latents, where training reads them.",
    )
    parser.add_argument("clips", type=Path, nargs="?", help="a folder with a folder per clip, see docs/data.md")
    parser.add_argument("--config", required=True, help="of the training, see configs/")
    parser.add_argument("--rendered", type=int, metavar="N", help="instead: N scenes that this project renders")
    parser.add_argument("--into", metavar="ROOT", help="which folder of data.latents; default: the first")
    parser.add_argument("--device", default="auto", help="cpu, cuda or cuda:1; default: a GPU where there is one")
    parser.add_argument("--shard", default="1/1", help="i/n: only every n-th clip, from the i-th on")
    parser.add_argument("--overwrite", action="store_true", help="encode clips again whose files have changed")
    add_memory_argument(parser)
    parser.add_argument("--debug", action="store_true", help="show a traceback when something fails")
    parser.add_argument("--set", dest="overrides", nargs="*", default=[], metavar="section.key=value",
                        help="change single settings of the config")  # fmt: skip
    options = parser.parse_args(arguments)
    return run_command(lambda: _prepare(options), parser.prog, options.debug, LESS_MEMORY)


def _prepare(options: argparse.Namespace) -> None:
    from mvtrack.config.placement import Placement
    from mvtrack.config.run import load_config
    from mvtrack.training.encode_clips import prepare_clips, rendered_sources, sources_of_folder
    from mvtrack.training.memory import refuse_preparing

    if (options.clips is None) == (options.rendered is None):
        raise ValueError("name a folder of clips, or give --rendered N: one of the two")
    config = load_config(options.config, options.overrides)
    entries = {entry.root: entry for entry in config.data.latents}
    if not entries:
        raise ValueError(f"{options.config} names no folder for encoded clips: set data.latents")
    into = options.into or next(iter(entries))
    if into not in entries:
        raise ValueError(f"--into {into} is none of the folders in data.latents: {', '.join(entries)}")
    if options.rendered is not None and options.rendered < 1:
        raise ValueError(f"--rendered must be at least 1, got {options.rendered}")
    entry, device = entries[into], Placement(options.device).torch_device
    if not options.ignore_memory:
        refuse_preparing(config, entry, device)
    if options.rendered is None:
        sources = sources_of_folder(options.clips, config, entry)
    else:
        sources = rendered_sources(options.rendered, config, entry)
    done = prepare_clips(config, entry, sources, device, _shard(options.shard), options.overwrite)
    strays = f"; {done.strays} others in the folder are not among them and will not be used" if done.strays else ""
    sys.stdout.write(f"{into}: {done.encoded} clips encoded, {done.kept} were there{strays}\n")


def _shard(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise ValueError(f"--shard must look like 1/4, got {text!r}")
    return int(match[1]), int(match[2])


if __name__ == "__main__":
    sys.exit(main())
