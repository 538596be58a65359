"""`python mvtrack/reshoot.py video.mp4 --camera arc_left`; the same as `mvtrack reshoot`."""

import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

from mvtrack.config.checked import Count, config
from mvtrack.config.cluster import RayOptions
from mvtrack.config.command_line import option, positional, refuse_unused, run, section
from mvtrack.config.errors import leave
from mvtrack.config.placement import launched_processes
from mvtrack.inference.model_options import LESS_MEMORY, SAMPLING, ModelCommand, SamplingOptions
from mvtrack.inference.shot_options import PointOptions, ShotOptions, read_shot, resolution


@config(kw_only=True)
class ReshootCommand(ModelCommand):
    """Re-shoot a video (or many) along a new camera path."""

    video: Path = positional("video file, GIF, image, folder of images; a folder of videos or a CSV")
    shot: ShotOptions = section(ShotOptions, "the shot")
    points: PointOptions = section(PointOptions, "the points to follow")
    sampling: SamplingOptions = section(SamplingOptions, SAMPLING)
    resolution: Literal["source", "model"] | tuple[int, int] = option(
        "source",
        "of the result: the source's own, whose pixels are taken where it shows what the new camera sees; the model's; "
        "or a size",
        metavar="source|model|HxW", parse=resolution,
    )  # fmt: skip
    window: Count | None = option(
        None, "frames that are made at once, 4n + 1; default: the model's own", metavar="FRAMES"
    )
    decoder: Path | None = option(
        None,
        "decode a second time with this aligning decoder, so that the result follows the source to the pixel; tiny: "
        "the one that ships, for the tiny models. --depth FILE gives the source's depth, else it is estimated",
        metavar="FOLDER|tiny",
    )

    cluster: RayOptions = section(RayOptions, "many devices and machines, for tables and folders")

    def __post_init__(self) -> None:
        if self.resolution == "model" and self.points.tracks is None and self.decoder is None:
            refuse_unused(self, "depth", why="with --resolution model nothing but --tracks and --decoder reads it")
        if self.resolution == "model":
            self.points.refuse_network()


def main(arguments: list[str] | None = None) -> int:
    """Parse, check, re-shoot; prints where the results are."""
    work = partial(run, ReshootCommand, _reshoot, arguments, "mvtrack reshoot", LESS_MEMORY)
    if launched_processes() == 1:
        return work()
    from mvtrack.inference.torchrun import among_launched

    return among_launched(work)


def shot_of(options: ReshootCommand, video: Path):
    """The `Shot` that the options ask for, of one video."""
    from mvtrack.inference.pipeline import shipped_decoder, shipped_model
    from mvtrack.models.reshoot_model import read_config

    sampling, decoder = options.sampling, options.decoder
    model = read_config(options.model or shipped_model(bool(options.points.tracks)))
    if decoder == Path("tiny") and not decoder.exists():
        decoder = shipped_decoder()
    return replace(
        read_shot(options.shot, video, sampling.of(model), options.points.plan()),
        caption=sampling.caption, negative=sampling.negative, window=options.window, decoder=decoder,
        depth=options.points.depth, resolution=options.resolution,
    )  # fmt: skip


def _reshoot(options: ReshootCommand) -> None:
    from mvtrack.inference.batch import is_batch, reshoot_batch
    from mvtrack.inference.pipeline import reshoot_file
    from mvtrack.inference.torchrun import with_launched

    options = replace(options, placement=with_launched(options.placement))
    if options.points.tracks and not options.model:
        _say("--tracks takes the shipped model with a tracking head, tiny_tracking; without it, tiny makes the video")
    if is_batch(options.video):
        reshoot_batch(options, shot_of, _say)
        return
    refuse_unused(options, "cluster", why="it spreads the videos of a table or a folder, this is one: leave it out")
    shot = shot_of(options, options.video)
    outputs = reshoot_file(
        options.video, shot.path, options.model, options.out, shot, options.overwrite, options.placement,
        check_memory=not options.ignore_memory, say=_say if options.verbose else None, warn=_say,
    )  # fmt: skip
    for note in outputs.notes:
        _say(note)
    for path in (outputs.side_by_side, outputs.video, *outputs.tracks):
        sys.stdout.write(f"{path}\n")


def _say(line: str) -> None:
    sys.stderr.write(f"mvtrack reshoot: {line}\n")


if __name__ == "__main__":
    leave(main())
