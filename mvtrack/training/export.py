"""From a checkpoint to one model file that `reshoot --model` and `train.init_from` take."""

import json
from pathlib import Path

from mvtrack.backbone.model import write_model
from mvtrack.config import ModelConfig
from mvtrack.config_tree import from_tree
from mvtrack.training.checkpoint import CheckpointReader


def export_checkpoint(checkpoint: Path, folder: Path, kind: str = "ema") -> Path:
    """Write a checkpoint's averaged (or, with kind "weight", live) weights with their config; returns the file.

    Step and validation score go beside it, into training.json.
    """
    reader = CheckpointReader(checkpoint)
    config = from_tree(ModelConfig, reader.state.config["model"], where=str(checkpoint / "state.json"))
    path = write_model(config, dict(reader.weights(kind)), reader.codec(), folder)
    progress = reader.state.progress
    record = {"step": progress.step, "weights": kind, "best_validation_psnr_db": progress.best_psnr_db}
    (folder / "training.json").write_text(json.dumps(record))
    return path
