"""From a checkpoint or a model to one model file, in this project's layout or another's."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

from mvtrack.config.model import ModelConfig
from mvtrack.config.tree import from_tree
from mvtrack.models.reshoot_model import load_model, write_model
from mvtrack.models.weights.export_formats import write_diffusers, write_official
from mvtrack.models.weights.lora import LoRA, lora_file, merge_all, open_lora
from mvtrack.models.weights.lora_files import LoRALayout, write_lora
from mvtrack.training.adapters import is_adapter, merged_weights
from mvtrack.training.checkpoint import CheckpointReader, checkpoints
from tracking_head.files import write_head

_HEAD = "tracking_head."

Layout = Literal["mvtrack", "official", "diffusers"]
LAYOUTS = {"mvtrack": write_model, "official": write_official, "diffusers": write_diffusers}


def export_checkpoint(
    checkpoint: Path, folder: Path, kind: str = "ema", logit_heads: bool = True, layout: Layout = "mvtrack",
    half: bool = False,
) -> Path:  # fmt: skip
    """Write a checkpoint's averaged (or, with kind "weight", live) weights with their config, a LoRA that it trains
    merged; returns the file.

    logit_heads: False leaves out the heads of the correspondence loss and the feature projector, which sampling does
    not need. Step and
    validation score go beside the file, into training.json. layout: see `interchange`; "mvtrack" is what
    `reshoot --model` and `train.init_from` take. half: store float16 there (`write_model`).
    """
    reader = CheckpointReader(checkpoint)
    config = from_tree(ModelConfig, reader.state.config["model"], where=str(checkpoint / "state.json"))
    weights, _ = merged_weights(reader, kind)
    if not logit_heads:
        config = replace(config, logit_heads=(), feature_projector=None)
        left_out = ("logit_heads.", "feature_projector.")
        weights = {name: tensor for name, tensor in weights.items() if not name.startswith(left_out)}
    if half and layout != "mvtrack":
        raise ValueError(f"float16 goes with layout mvtrack, not {layout}: leave one of them out")
    write = partial(write_model, half=True) if half else LAYOUTS[layout]
    path = write(config, weights, reader.codec(), folder)
    progress = reader.state.progress
    record = {"step": progress.step, "weights": kind, "best_validation_psnr_db": progress.best_psnr_db}
    (folder / "training.json").write_text(json.dumps(record))
    return path


def export_head(source: Path, out: Path, kind: str = "ema") -> Path:
    """Write the tracking head alone, of a checkpoint, of a run's newest checkpoint, or of a model (folder or file).

    Raises ValueError where there is no head.
    """
    saved = checkpoints(source / "checkpoints")
    if saved or (source / "state.json").is_file():
        reader = CheckpointReader(saved[-1] if saved else source)
        config = from_tree(ModelConfig, reader.state.config["model"], where=str(reader.folder / "state.json"))
        weights, _ = merged_weights(reader, kind)
    else:
        model = load_model(source)
        config, weights = model.config, model.dit.state_dict()
    if config.tracking is None:
        raise ValueError(f"{source} has no tracking head (model.tracking is null in its config)")
    return write_head(
        config.tracking, {k.removeprefix(_HEAD): v for k, v in weights.items() if k.startswith(_HEAD)}, out
    )


def export_lora(source: Path, folder: Path, layout: LoRALayout = "peft", kind: str = "ema") -> Path:
    """Write the adapter of a checkpoint, or of a LoRA file of any layout, alone; returns the file.

    Raises ValueError for a checkpoint that trains no LoRA, or more than that.
    """
    if not (source / "state.json").is_file():
        return write_lora(open_lora(lora_file(str(source))), folder, layout)
    reader = CheckpointReader(source)
    _, pairs = merged_weights(reader, kind)
    if not pairs:
        raise ValueError(f"{source} trains no LoRA (optim.lora is null in its config): export the whole model")
    others = [name for name in reader.state.parameters if not is_adapter(name)]
    if others:
        raise ValueError(
            f"{source} trains {others[0]} whole beside its LoRA ({len(others)} such), which the LoRA alone would lose: "
            "export the whole model"
        )
    return write_lora(LoRA(source, "peft", pairs, {}), folder, layout)


def export_model(model: Path, folder: Path, layout: Layout, lora: tuple[str, ...] = ()) -> Path:
    """Write a model of this project in another layout, or with LoRAs (each `FILE[:weight]`) merged; returns the
    file."""
    loaded = load_model(model)
    merge_all(loaded.dit, lora)
    return LAYOUTS[layout](loaded.config, loaded.dit.state_dict(), loaded.codec.state_dict(), folder)
