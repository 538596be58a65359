"""`mvtrack pseudo-tracks FOLDER --tracker mvtap`: point tracks of multi-view clips, for training on them."""

import sys
from pathlib import Path
from typing import Literal

from mvtrack.config.checked import config
from mvtrack.config.cluster import RayOptions
from mvtrack.config.command_line import option, positional, refuse_unused, run, section
from mvtrack.config.datasets import DatasetOptions
from mvtrack.config.errors import leave
from mvtrack.config.placement import Placement
from mvtrack.config.sizes import picture_size
from mvtrack.inference.model_options import PLACEMENT, TRACKING_MODEL, MemoryChecked
from mvtrack.training.pseudo_tracks.options import TrackerOptions

_LESS_MEMORY = "try --offload model, --offload blocks, --encoders-on-cpu, --tiled or --precision bfloat16"


def _frames(text: str) -> tuple[int, ...] | Literal["all"]:
    if text == "all":
        return "all"
    if not all(part.isdecimal() for part in text.split(",")):
        raise ValueError(f"must be all, or numbers such as 0 or 0,40,80, got {text!r}")
    return tuple(int(part) for part in text.split(","))


@config(kw_only=True)
class PseudoTracksCommand(MemoryChecked):
    """Follow a grid of points through all views of every clip; tracks.npz appears beside its videos."""

    clips: Path = positional("a dataset's folder, or one with a folder per clip, see docs/data.md")
    following: TrackerOptions = section(TrackerOptions, "who follows the points")
    grid: tuple[int, int] = option((30, 52), "of points; default: 30x52", metavar="ROWSxCOLS", parse=picture_size)
    query_frames: Literal["all"] | tuple[int, ...] = option(
        (0,), "frames over which the grid is laid: 0, 0,40,80 or all; each one's points are followed together",
        metavar="0,40,80|all", parse=_frames,
    )  # fmt: skip
    query_views: Literal["first", "all"] = option("first", "in whose frames: of the first video by name, or of each")
    model: str | None = option(None, TRACKING_MODEL)
    estimate: bool = option(False, "say what time, memory and disk it takes; makes two query frames' tracks")
    overwrite: bool = option(False, "replace tracks of another origin, or of other settings")
    dataset: DatasetOptions = section(DatasetOptions, "what a dataset does not say of itself", without=("captions",))
    cluster: RayOptions = section(RayOptions, "many devices and machines")
    placement: Placement = section(Placement, PLACEMENT, without=("batched_guidance", "gpus", "share"))


def main(arguments: list[str] | None = None) -> int:
    """Parse and track."""
    return run(PseudoTracksCommand, _track, arguments, "mvtrack pseudo-tracks", _LESS_MEMORY)


def _track(options: PseudoTracksCommand) -> None:
    from mvtrack.training.pseudo_tracks.track_clips import TrackJob, estimate_lines, track_clips
    from mvtrack.training.pseudo_tracks.trackers import TrackerSource
    from mvtrack.training.pseudo_tracks.views import GridQueries

    if not options.following.needs_model:
        refuse_unused(options, "model", why="no model is at work with --starts none: leave it out")
    queries = GridQueries(options.grid, options.query_frames, options.query_views)
    source = TrackerSource(options.following, options.model, options.placement)
    job = TrackJob(options.clips, queries, source.made_by(), options.overwrite, options.dataset)

    def start(views):
        if not options.ignore_memory:
            source.refuse_memory(views, queries)
        return source.build()

    if options.estimate:
        for line in estimate_lines(job, start, options.placement.torch_device):
            sys.stdout.write(f"{line}\n")
        return
    done = track_clips(job, start, options.cluster)
    sys.stdout.write(f"{options.clips}: {done.tracked} clips tracked, {done.kept} had their tracks\n")
    if done.failed:
        raise ValueError(f"{len(done.failed)} clips are left out, the first: {done.failed[0]}")


if __name__ == "__main__":
    leave(main())
