"""`mvtrack caption FOLDER`: captions of a dataset's scenes, as the table that `mvtrack prepare` reads."""

import sys
from pathlib import Path

from mvtrack.config.checked import Count, config
from mvtrack.config.command_line import Command, option, positional, run, section
from mvtrack.config.datasets import DatasetOptions


@config(kw_only=True)
class CaptionCommand(Command):
    """Describe every scene of a dataset by an image-text network of transformers. Run it again to go on."""

    clips: Path = positional("a dataset's folder, or one with a folder per clip, see docs/data.md")
    model: str | None = option(None, "hub id or folder of an image-text model; default: SmolVLM-500M-Instruct")
    out: Path | None = option(None, "table to write; default: metadata.csv in the folder, where prepare looks")
    frames: Count = option(4, "of the first view that a chat model sees")
    tokens: Count = option(96, "a caption has at most so many")
    device: str = option("auto", "cpu, cuda or cuda:1; default: a GPU where there is one")
    dataset: DatasetOptions = section(
        DatasetOptions, "what a dataset does not say of itself", without=("captions", "tracks")
    )


def main(arguments: list[str] | None = None) -> int:
    """Parse and caption."""
    return run(CaptionCommand, _caption, arguments, "mvtrack caption")


def _caption(options: CaptionCommand) -> None:
    from mvtrack.config.placement import Placement
    from mvtrack.training.captions import DEFAULT_MODEL, caption_scenes, load_captioner

    model, table = options.model or DEFAULT_MODEL, options.out or options.clips / "metadata.csv"
    device = Placement(options.device).torch_device
    done = caption_scenes(
        options.clips, table, model, lambda: load_captioner(model, device, options.tokens), options.frames,
        options.dataset,
    )  # fmt: skip
    sys.stdout.write(f"{table}: {done.written} scenes captioned, {done.kept} had captions\n")
    if done.failed:
        raise ValueError(f"{len(done.failed)} scenes are left out, the first: {done.failed[0]}")


if __name__ == "__main__":
    sys.exit(main())
