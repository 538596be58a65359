"""`mvtrack prepare FOLDER --config FILE`: encode multi-view clips once, so that training does not have to."""

import re
import sys
from pathlib import Path
from typing import Literal

from mvtrack.config.checked import Count, config
from mvtrack.config.cluster import RayOptions, Shard, parse_shard, shard_of
from mvtrack.config.command_line import option, overrides, positional, run, section
from mvtrack.config.datasets import DatasetOptions
from mvtrack.config.errors import leave
from mvtrack.inference.model_options import MemoryChecked

_LESS_MEMORY = "try model.codec.tile=[30,52], model.codec.precision=bfloat16 or --device cpu"


def _limit(text: str) -> int | float:
    match = re.fullmatch(r"(\d+)(%?)", text)
    if not match or (match[2] and int(match[1]) > 100):
        raise ValueError(f"must be a number of clips or a share such as 1%, got {text!r}")
    return int(match[1]) / 100 if match[2] else int(match[1])


@config(kw_only=True)
class PrepareCommand(MemoryChecked):
    """Encode multi-view clips for training."""

    clips: Path | None = positional("a dataset's folder, or one with a folder per clip, see docs/data.md", None)
    config: Path = option(..., "of the training, see configs/")
    rendered: Count | None = option(None, "instead: N scenes that this project renders", metavar="N")
    into: str | None = option(None, "which folder of data.latents; default: the first", metavar="ROOT")
    device: str = option("auto", "cpu, cuda or cuda:1; default: a GPU where there is one")
    shard: Shard = option((1, 1), "i/n: only every n-th clip, from the i-th on; default: all", parse=parse_shard)
    estimate: bool = option(False, "say what disk and time it takes, by two views of the first clip; write nothing")
    overwrite: bool = option(False, "encode clips anew whose files have changed")
    max_skipped: int | float = option(
        0.01, "how many clips may be broken and are left out, a number or a share; default: 1%", parse=_limit
    )
    points: Literal["vggt"] | None = option(
        None,
        "also estimate point maps, for still scenes without depth, into the `points` folder of data.latents; VGGT's "
        "interpreter: $MVTRACK_VGGT_PYTHON",
    )
    dataset: DatasetOptions = section(DatasetOptions, "what a dataset does not say of itself")
    cluster: RayOptions = section(RayOptions, "many devices and machines")
    overrides: tuple[str, ...] = overrides()


def main(arguments: list[str] | None = None) -> int:
    """Parse and encode."""
    retired = {"--set": "write section.key=value without it, anywhere"}
    return run(PrepareCommand, _prepare, arguments, "mvtrack prepare", _LESS_MEMORY, retired)


def _prepare(options: PrepareCommand) -> None:
    from mvtrack.config.placement import Placement
    from mvtrack.config.run import load_config
    from mvtrack.training.clip_sources import rendered_sources, sources_of_folder
    from mvtrack.training.encode_clips import EncodeOptions, prepare_clips
    from mvtrack.training.memory import refuse_preparing
    from mvtrack.training.point_maps import estimate_points
    from mvtrack.training.preparation_estimate import estimate_preparation

    if (options.clips is None) == (options.rendered is None):
        raise ValueError("name a folder of clips, or give --rendered N: one of the two")
    config = load_config(options.config, options.overrides)
    entries = {entry.root: entry for entry in config.data.latents}
    if not entries:
        raise ValueError(f"{options.config} names no folder for encoded clips: set data.latents")
    into = options.into or next(iter(entries))
    if into not in entries:
        raise ValueError(f"--into {into} is none of the folders in data.latents: {', '.join(entries)}")
    entry, device = entries[into], Placement(options.device).torch_device
    if not options.ignore_memory:
        refuse_preparing(config, entry, device)
    if options.rendered is None:
        sources = sources_of_folder(options.clips, config, entry, options.dataset)
    else:
        sources = rendered_sources(options.rendered, config, entry)
    if options.estimate:
        lines = estimate_preparation(config, entry, sources, device).lines(device, Path(into))
        sys.stdout.write("\n".join(lines) + "\n")
        return
    if options.points:
        if entry.points is None:
            raise ValueError(
                f"--points {options.points} needs a folder to write to: set points of {into} in data.latents"
            )
        made = estimate_points(shard_of(sources, options.shard), Path(entry.points), device.type)
        sys.stdout.write(f"{entry.points}: point maps of {made} scenes estimated\n")
    done = prepare_clips(
        config,
        entry,
        sources,
        device,
        EncodeOptions(options.shard, options.overwrite, options.max_skipped, options.cluster),
    )
    more = f", {done.tracks} got new tracks" if done.tracks else ""
    more += f", {done.skipped} cannot be read and are left out (skipped.jsonl)" if done.skipped else ""
    more += f"; {done.strays} others in the folder are not among them and will not be used" if done.strays else ""
    sys.stdout.write(f"{into}: {done.encoded} clips encoded, {done.kept} were there{more}\n")


if __name__ == "__main__":
    leave(main())
