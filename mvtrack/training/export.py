"""From a checkpoint to one model file that `reshoot --model` and `train.init_from` take."""

import json
from dataclasses import replace
from pathlib import Path

from mvtrack.backbone.model import write_model
from mvtrack.config import ModelConfig
from mvtrack.config_tree import from_tree
from mvtrack.training.checkpoint import CheckpointReader


def export_checkpoint(checkpoint: Path, folder: Path, kind: str = "ema", logit_heads: bool = True) -> Path:
    """Write a checkpoint's averaged (or, with kind "weight", live) weights with their config; returns the file.

    logit_heads: False leaves out the heads of the correspondence loss, which sampling does not need. Step and
    validation score go beside the file, into training.json.
    """
    reader = CheckpointReader(checkpoint)
    config = from_tree(ModelConfig, reader.state.config["model"], where=str(checkpoint / "state.json"))
    weights = dict(reader.weights(kind))
    if not logit_heads:
        config = replace(config, logit_heads=())
        weights = {name: tensor for name, tensor in weights.items() if not name.startswith("logit_heads.")}
    path = write_model(config, weights, reader.codec(), folder)
    progress = reader.state.progress
    record = {"step": progress.step, "weights": kind, "best_validation_psnr_db": progress.best_psnr_db}
    (folder / "training.json").write_text(json.dumps(record))
    return path
