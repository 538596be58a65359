"""A training on clips that `mvtrack prepare` encodes with the tiny codec."""

from copy import deepcopy
from pathlib import Path

import pytest
import yaml

from mvtrack.models.reshoot_model import save_model


@pytest.fixture
def config_file(small_run, small_model, tmp_path) -> Path:
    save_model(small_model, tmp_path / "model")
    tree = deepcopy(small_run)
    tree["model"]["rays"]["scale"] = "path_extent"
    tree["data"] = {
        "banks": [], "latents": [{"root": str(tmp_path / "latents"), "size": [24, 32], "held_out": 1}],
        "num_frames": 5, "mirror": False, "palette": False, "workers": 0,
    }  # fmt: skip
    tree["loss"]["correspondence_targets"] = "tracks"
    tree["train"] |= {"init_from": str(tmp_path / "model"), "run_dir": str(tmp_path / "run"), "steps": 2}
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path
