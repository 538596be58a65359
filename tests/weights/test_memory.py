"""Loading holds one copy of a model, not two: private memory of a process is watched while it loads."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from mvtrack.backbone.initialise import empty_dit
from mvtrack.config import CodecConfig, DiTConfig, ModelConfig, RayConfig
from mvtrack.config_tree import to_tree

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ModelConfig(
    dit=DiTConfig(dim=512, ffn_dim=4096, num_heads=4, num_layers=8, text_dim=512, freq_dim=64),
    rays=RayConfig(token_px=16, stride=8, hidden_dim=32),
    codec=CodecConfig(kind="wan_vae", channels=16, stride=8, weights="nowhere"),
    tap_layer=1,
)
WATCH = """
import json, sys, threading, time
import torch
from mvtrack.backbone.model import load_model, save_model
from mvtrack.backbone.pretrained import load_pretrained, open_released
from mvtrack.config import ModelConfig
from mvtrack.config_tree import from_tree

torch.set_num_threads(1)
tree, official, pickled, folder = json.loads(sys.argv[1])
config = from_tree(ModelConfig, tree, "test")

def private_mib():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith("RssAnon"))

def peak_of(work):
    before, peak, done = private_mib(), [0.0], threading.Event()
    def watch():
        while not done.wait(0.001):
            peak[0] = max(peak[0], private_mib() - before)
    thread = threading.Thread(target=watch)
    thread.start()
    kept = work()
    done.set()
    thread.join()
    return max(peak[0], private_mib() - before), kept

load_pretrained(config, open_released([pickled]))  # what is imported at the first use
as_stored, model = peak_of(lambda: load_pretrained(config, open_released([official])).model)
from_pickle, _ = peak_of(lambda: load_pretrained(config, open_released([pickled])).model)
written, _ = peak_of(lambda: save_model(model, folder))
own, _ = peak_of(lambda: load_model(folder))
del model
widened, _ = peak_of(lambda: load_pretrained(config, open_released([official]), dtype=torch.float32).model)
print(json.dumps({"as_stored": as_stored, "from_pickle": from_pickle, "written": written, "own": own,
                  "widened": widened}))
"""


@pytest.mark.slow
def test_one_copy_at_most(tmp_path):
    shapes = {name: value.shape for name, value in empty_dit(CONFIG).state_dict().items()}
    released = {
        name: torch.rand(shape).bfloat16()
        for name, shape in shapes.items()
        if "camera_proj" not in name and "ray_encoder" not in name
    }
    size_mib = sum(value.numel() for value in released.values()) * 2 / 2**20
    assert size_mib > 100
    save_file(released, tmp_path / "m.safetensors")
    torch.save(released, tmp_path / "m.pth")
    given = [to_tree(CONFIG), str(tmp_path / "m.safetensors"), str(tmp_path / "m.pth"), str(tmp_path / "own")]
    done = subprocess.run(
        [sys.executable, "-c", WATCH, json.dumps(given)],
        env={"PYTHONPATH": str(ROOT), "PATH": ""}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    peak = json.loads(done.stdout)
    fresh_mib = sum(shapes[name].numel() for name in shapes.keys() - released.keys()) * 4 / 2**20
    for case in ("as_stored", "from_pickle", "written", "own"):
        assert peak[case] < 0.15 * size_mib + 2 * fresh_mib, (case, peak, size_mib)
    assert 1.9 * size_mib < peak["widened"] < 2.15 * size_mib + 2 * fresh_mib, (peak, size_mib)
