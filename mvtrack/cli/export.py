"""`mvtrack export SOURCE FOLDER`: a checkpoint's averaged weights, or a model, as one file of any layout."""

import sys
from pathlib import Path
from typing import Literal

from mvtrack.config.checked import config
from mvtrack.config.command_line import Command, option, positional, refuse_unused, run


@config(kw_only=True)
class ExportCommand(Command):
    """Write weights as one safetensors file."""

    source: Path = positional("a folder checkpoints/step_... of a run, or a model; with --lora-layout a LoRA, too")
    out: Path = positional("folder for the file")
    live: bool = option(False, "the weights as trained, instead of their average")
    without_logit_heads: bool = option(False, "leave out what only the correspondence loss needs")
    part: Literal["model", "tracking_head"] = option(
        "model", "tracking_head: the head alone, for tracking_head.load_head; then a run will do, too"
    )
    layout: Literal["mvtrack", "official", "diffusers"] = option(
        "mvtrack", "official: Wan's names, for ComfyUI and DiffSynth; diffusers: a folder for WanTransformer3DModel"
    )
    half: bool = option(False, "store the network in float16: half the bytes")
    merge_lora: tuple[str, ...] = option(
        (), "of a model: add a LoRA to the weights; may be given again", metavar="FILE[:WEIGHT]", repeat=True
    )
    lora_layout: Literal["peft", "diffusers", "comfyui", "diffsynth"] | None = option(
        None, "the LoRA that a checkpoint trains, or a LoRA file, alone and in this layout"
    )


def main(arguments: list[str] | None = None) -> int:
    """Parse and export."""
    return run(ExportCommand, _export, arguments, "mvtrack export")


def _export(options: ExportCommand) -> None:
    from mvtrack.training.export import export_checkpoint, export_head, export_lora, export_model

    kind, heads = "weight" if options.live else "ema", not options.without_logit_heads
    is_checkpoint = (options.source / "state.json").exists()
    if options.merge_lora and (is_checkpoint or options.part == "tracking_head" or options.live or options.half):
        raise ValueError("--merge-lora is for a whole model, as it is stored: export the checkpoint first")
    if options.lora_layout:
        refuse_unused(
            options, "without_logit_heads", "part", "layout", "half", "merge_lora",
            why="it is for a whole model and --lora-layout writes the LoRA alone: leave one of them out",
        )  # fmt: skip
        path = export_lora(options.source, options.out, options.lora_layout, kind)
    elif options.part == "tracking_head":
        path = export_head(options.source, options.out, kind)
    elif options.merge_lora:
        path = export_model(options.source, options.out, options.layout, options.merge_lora)
    elif is_checkpoint or options.live or options.layout == "mvtrack":
        path = export_checkpoint(options.source, options.out, kind, heads, options.layout, options.half)
    else:
        path = export_model(options.source, options.out, options.layout)
    sys.stdout.write(f"{path}\n")


if __name__ == "__main__":
    sys.exit(main())
