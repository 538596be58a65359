"""Read some scenes of a public dataset and say what they hold: `python datasets/check.py MultiCamVideo-Dataset`.

Worth a minute before `mvtrack prepare` takes hours: the layout that was recognised, and per scene its views, frames,
sizes, depth and tracks, or what is wrong with it.
"""

import sys
from pathlib import Path

from mvtrack.config.checked import Count, config
from mvtrack.config.command_line import Command, option, positional, run, section
from mvtrack.config.datasets import DatasetOptions


@config(kw_only=True)
class CheckCommand(Command):
    """Read some scenes of a dataset and say what they hold."""

    root: Path = positional("the dataset's folder")
    scenes: Count = option(3, "how many are read, evenly among all")
    dataset: DatasetOptions = section(DatasetOptions, "what the dataset does not say of itself")


def _check(options: CheckCommand) -> None:
    from mvtrack.data.public.registry import open_dataset_folder

    layout, scenes = open_dataset_folder(options.root, options.dataset)
    sys.stdout.write(f"{options.root}: {layout.title} (--layout {layout.name}), {len(scenes)} scenes\n")
    count, problems = min(options.scenes, len(scenes)), []
    for i in range(count):
        files = scenes[i * len(scenes) // count]
        try:
            sys.stdout.write(f"  {files.name}: {_contents(layout.read(files))}\n")
        except ValueError as error:
            problems.append(error)
            sys.stdout.write(f"  {files.name}: {error}\n")
    if problems:
        raise ValueError(f"{len(problems)} of the {count} scenes that were read are broken, the first: {problems[0]}")


def _contents(scene) -> str:
    """A scene in words; its first view's first frame and depth, and its tracks, are read whole."""
    first = scene.views[0]
    first.video.read(0, 1)
    kind = "photographs on a path" if scene.is_path else "photographs" if scene.is_still else "views"
    length = "" if scene.is_still else f" of {len(first.video)} frames"
    said = [f"{len(scene.views)} {kind}{length}, {first.video.size[0]}x{first.video.size[1]}"]
    said.append("no cameras" if first.camera is None else f"{first.camera.projection} cameras")
    if first.camera is not None and first.camera.scale_known:
        said.append("in metres")
    if first.depth is not None:
        depth = first.depth(1)
        said.append(f"depth {depth[depth > 0].median():.3g} in the middle")
    if first.masks is not None:
        said.append(f"{100 * first.masks(1).float().mean():.0f} % of the first picture in the mask")
    if scene.tracks is not None:
        tracks = scene.tracks()
        said.append(f"{tracks.xy.shape[2]} tracks, {100 * tracks.visible.float().mean():.0f} % visible")
    return ", ".join(said)


def main(arguments: list[str] | None = None) -> int:
    """Parse and read."""
    return run(CheckCommand, _check, arguments, "datasets/check.py")


if __name__ == "__main__":
    sys.exit(main())
