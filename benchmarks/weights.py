"""`python benchmarks/weights.py`: how much memory and time loading, widening and writing a released model takes.

Random weights of a preset with released names and shapes in bfloat16, on disk (three times the size of the model, in
--folder). Memory is the private memory of the process: pages of a mapped file are the system's to drop. `--small` runs
in seconds.
"""

import argparse
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from bench import report
from safetensors.torch import save_file

from mvtrack.config.model import ModelConfig
from mvtrack.config.presets import PRESETS, is_new_parameter, preset
from mvtrack.models.dit import empty_dit
from mvtrack.models.reshoot_model import load_model, save_model
from mvtrack.models.weights.convert import load_pretrained, open_released

SHARE = 0.1  # of the model, that may be held beside it


def main() -> int:
    options = parse()
    config = small(preset(options.preset)) if options.small else preset(options.preset)
    folder = Path(tempfile.mkdtemp(dir=options.folder))
    try:
        return report(*figures(config, folder))
    finally:
        shutil.rmtree(folder)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", choices=PRESETS, default="recammaster_1.3b")
    parser.add_argument("--folder", type=Path, help="on a disk with room; default: the system's folder for such files")
    parser.add_argument("--small", action="store_true", help="a model of 50 million parameters")
    return parser.parse_args()


def small(config: ModelConfig) -> ModelConfig:
    dit = replace(config.dit, dim=512, ffn_dim=4096, num_heads=4, num_layers=8, text_dim=512, freq_dim=64)
    return replace(config, dit=dit, rays=replace(config.rays, hidden_dim=32), tap_layer=1)


def figures(config: ModelConfig, folder: Path) -> tuple[dict[str, float], dict[str, tuple[str, float]]]:
    """Private memory at its peak, as a share of the model in that precision, and seconds; and their limits."""
    size_mib, fresh_mib = write_released(config, folder)
    released, pickled = folder / "released.safetensors", folder / "released.pth"

    def load(path: Path, dtype: torch.dtype | None = None) -> object:
        return load_pretrained(config, open_released([path]), dtype=dtype).model

    load(pickled)  # what is imported at the first use
    model = load(released)
    works = {
        "safetensors": (lambda: load(released), size_mib),
        "pickle": (lambda: load(pickled), size_mib),
        "written as a model": (lambda: save_model(model, folder / "model"), size_mib),
        "read as a model": (lambda: load_model(folder / "model"), size_mib),
        "widened to float32": (lambda: load(released, torch.float32), 2 * size_mib),
    }
    found, limits = {"model, MiB": size_mib, "fresh parameters, MiB": fresh_mib}, {}
    for name, (work, whole_mib) in works.items():
        peak_mib, seconds = watched(work)
        found[f"{name}: private / model"] = peak_mib / whole_mib
        found[f"{name}, s"] = seconds
        own = 1 if name.startswith("widened") else 0
        limits[f"{name}: private / model"] = ("<=", own + SHARE + 3 * fresh_mib / whole_mib)
    return found, limits


def write_released(config: ModelConfig, folder: Path) -> tuple[float, float]:
    """Files of released names, one of each kind; returns MiB of what they hold, and of what they lack in float32."""
    shapes = {name: value.shape for name, value in empty_dit(config).state_dict().items()}
    released = {
        name: torch.empty(shape, dtype=torch.bfloat16).uniform_(-0.1, 0.1)
        for name, shape in shapes.items()
        if not is_new_parameter(name)
    }
    save_file(released, folder / "released.safetensors")
    torch.save(released, folder / "released.pth")
    fresh = sum(shape.numel() for name, shape in shapes.items() if is_new_parameter(name))
    return sum(value.numel() for value in released.values()) * 2 / 2**20, fresh * 4 / 2**20


def watched(work: Callable[[], object]) -> tuple[float, float]:
    """Largest growth of private memory while some work runs and its result is held, MiB; and seconds."""
    before, done, peak_mib = private_mib(), threading.Event(), 0.0

    def watch() -> None:
        nonlocal peak_mib
        while not done.wait(0.001):
            peak_mib = max(peak_mib, private_mib() - before)

    watcher = threading.Thread(target=watch)
    watcher.start()
    began = time.monotonic()
    kept = work()
    seconds = time.monotonic() - began
    done.set()
    watcher.join()
    peak_mib = max(peak_mib, private_mib() - before)
    del kept
    return peak_mib, seconds


def private_mib() -> float:
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith("RssAnon"))


if __name__ == "__main__":
    sys.exit(main())
