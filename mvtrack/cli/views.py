"""`mvtrack views PHOTOS… --targets PATH|FILE --model FOLDER`: new views of a still scene."""

import sys
from pathlib import Path
from typing import Annotated, Literal

from mvtrack.config.checked import Count, Positive, Range, config
from mvtrack.config.command_line import option, positional, refuse_unused, run, section
from mvtrack.config.placement import Placement
from mvtrack.config.pose_files import PoseFileOptions
from mvtrack.config.sizes import FitMode, picture_size
from mvtrack.inference.model_options import LESS_MEMORY, PLACEMENT, MemoryChecked
from mvtrack.inference.shot_options import POSE_FILES, resolution


@config(kw_only=True)
class ViewsCommand(MemoryChecked):
    """Make new views of a still scene from one or more photographs of it: pictures, a video and cameras."""

    photos: tuple[Path, ...] = positional("photographs of any sizes, or a folder of them", metavar="PHOTOS")
    targets: str = option(
        ...,
        "where to look from: a path such as 'arc_left 30deg; dolly_in 0.5 ease', which starts at the first photograph, "
        "or a pose file, in the world of --cameras FILE (without one: of the first photograph)",
        metavar="PATH|FILE",
    )
    model: str = option(
        ...,
        "a model for still scenes: RUN/model of a run of `mvtrack train --config configs/cameo_tiny.yaml` (or another "
        "cameo config), or what `mvtrack convert --views` makes of released weights; none comes with the package",
        metavar="FOLDER",
    )
    cameras: str | None = option(
        None,
        "the photographs' cameras: a pose file that names them; auto measures them (needs pycolmap and three "
        "photographs, once for each set); one photograph needs none",
        metavar="FILE|auto",
    )
    out: Path | None = option(None, "folder for the results; default: in outputs/, by the first photograph's name")
    overwrite: bool = option(False, "replace an existing output folder")
    frames: Count | None = option(None, "views along a path of moves (default 24)", metavar="N")
    fps: Positive = option(12.0, "of the video")
    fov: Annotated[float, Range(1, 170)] | None = option(
        None,
        "horizontal field of view of the first photograph, where no file says it; default: its EXIF's, else 50, which "
        "auto refines",
        metavar="DEG",
    )
    subject_distance: Positive | None = option(
        None,
        "distance of the subject in the cameras' unit; default: by --cameras FILE where that tells, else 4 metres",
        metavar="M",
    )
    fit: FitMode = option("auto", "how photographs meet the model's sizes; auto crops where little is lost, else pads")
    size: tuple[int, int] | None = option(
        None, "size of the model's picture, instead of its own", metavar="HxW", parse=picture_size
    )
    resolution: Literal["source", "model"] | tuple[int, int] = option(
        "source",
        "of the results: the first photograph's, whose pixels are taken where it shows what is seen; the model's; or a "
        "size",
        metavar="source|model|HxW", parse=resolution,
    )  # fmt: skip
    depth: str | None = option(
        None,
        "z-depth of the photographs (.npy or .npz, one map each) for the resolution, else it is estimated; auto (Depth "
        "Anything V2 Small), or the hub id or folder of a network",
        metavar="FILE|auto|ID",
    )
    decoder: Path | None = option(
        None,
        "decode a second time with this aligning decoder, so that views follow the photographs and each other to the "
        "pixel; --depth FILE gives the photographs' depth, else it is estimated",
        metavar="FOLDER",
    )
    export: Literal["points"] | None = option(
        None,
        "also points.ply: matches between photographs and new views, triangulated with the cameras as they are; "
        "run.json says how far off they project, with --decoder before and after",
    )
    steps: Count | None = option(None, "sampling steps; default: what the model is meant for")
    camera_guidance: float | None = option(
        None, "scale of guidance by the camera, 1 is none; default: what the model is meant for", metavar="G"
    )
    seed: int = option(0, "of the noise")
    domain: Literal["re10k", "co3d", "others"] | None = option(
        None, "which data the scene is like, for CAT3D; default: others"
    )
    pose: PoseFileOptions = section(PoseFileOptions, POSE_FILES, prefix="pose-")
    placement: Placement = section(Placement, PLACEMENT)


def main(arguments: list[str] | None = None) -> int:
    """Parse, check, generate; prints where the results are."""
    return run(ViewsCommand, _views, arguments, "mvtrack views", LESS_MEMORY)


def _views(options: ViewsCommand) -> None:
    from dataclasses import replace

    from mvtrack.inference.sampler import SamplerOptions
    from mvtrack.inference.views.pipeline import still_config, views_from_photos
    from mvtrack.inference.views.request import ViewsRequest
    from mvtrack.inference.views.targets import is_pose_file

    if options.frames is not None and is_pose_file(options.targets):
        raise ValueError("--frames is for a path of moves: a pose file says how many views there are")
    own = still_config(options.model, options.placement)
    needs_depth = options.decoder is not None or own.cat3d is not None and own.cat3d.depth_priors
    if options.resolution == "model" and not needs_depth:
        refuse_unused(options, "depth", why="with --resolution model nothing reads it")
    sample = SamplerOptions.of(own, options.steps, seed=options.seed)
    if options.camera_guidance is not None:
        sample = replace(sample, camera_guidance=options.camera_guidance)
    request = ViewsRequest(
        options.cameras, options.pose.given, options.frames or 24, options.fps, options.fov, options.subject_distance,
        options.fit, options.size, sample, options.resolution, options.depth, options.decoder,
        options.export, options.domain, options.placement, options.overwrite,
        options.ignore_memory,
    )  # fmt: skip
    outputs = views_from_photos(options.photos, options.targets, options.model, options.out, request, _say)
    sys.stdout.write(f"{outputs.video}\n{outputs.folder / 'views'}: {len(outputs.views)} pictures\n")


def _say(line: str) -> None:
    sys.stderr.write(f"mvtrack views: {line}\n")


if __name__ == "__main__":
    sys.exit(main())
