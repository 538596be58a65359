"""`python benchmarks/offload.py`: peak memory of making a video with each way to offload, beside what was foretold.

ReCamMaster's width with random weights in a float32 file, held in bfloat16: on a GPU all 30 blocks at 480x832 and 81
frames, and the allocator's peak; on a CPU 8 blocks at 96x160 and 5 frames, and private memory, to which pages of the
file do not count. Each way in a fresh process.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from bench import FREED_AT_ONCE, report
from weights import watched

from mvtrack.config.model import ModelConfig
from mvtrack.config.placement import OFFLOADS, Placement
from mvtrack.config.presets import preset
from mvtrack.geometry.camera import Camera, intrinsics_from_fov
from mvtrack.inference.device import place
from mvtrack.inference.machine import peak_gib
from mvtrack.inference.memory.codec import empty_wan_network
from mvtrack.inference.memory.inference import estimate_inference
from mvtrack.inference.sampler import SamplerOptions, generate
from mvtrack.models.conditioning import Window
from mvtrack.models.prompts import Prompts
from mvtrack.models.reshoot_model import ReshootModel, build_model, load_model, save_model

MIB = 2**20


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=30 if torch.cuda.is_available() else 8)
    parser.add_argument("--measure", nargs=2, metavar=("OFFLOAD", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        sys.stdout.write(json.dumps(measure(*options.measure)) + "\n")
        return 0
    config = preset("recammaster_1.3b")
    layers = replace(config, dit=replace(config.dit, num_layers=options.layers), tap_layer=1)
    figures = {}
    with tempfile.TemporaryDirectory() as folder:
        save_model(build_model(layers), folder)
        for offload in OFFLOADS:
            found = in_fresh_process(offload, folder)
            figures |= {f"{offload}: {name}": value for name, value in found.items()}
            figures[f"{offload}: foretold off by"] = abs(found["foretold MiB"] / found["peak MiB"] - 1)
    figures["blocks / none"] = figures["blocks: peak MiB"] / figures["none: peak MiB"]
    estimates = {f"{offload}: foretold off by": ("<=", 0.15) for offload in OFFLOADS}
    return report(figures, {"blocks / none": ("<=", 0.75)} | estimates)


def in_fresh_process(offload: str, folder: str) -> dict[str, float]:
    command = [sys.executable, __file__, "--measure", offload, folder]
    run = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | FREED_AT_ONCE, cwd=Path(__file__).parent
    )
    if run.returncode:
        raise RuntimeError(run.stderr[-3000:])
    return json.loads(run.stdout.splitlines()[-1])


def measure(offload: str, folder: str) -> dict[str, float]:
    placement = Placement(offload=offload)
    device = placement.torch_device
    size, frames = ((480, 832), 81) if device.type == "cuda" else ((96, 160), 5)
    config, sample = load_model(folder).config, SamplerOptions(1, guidance=5.0)
    foretold = estimate_inference(config, size, frames, sample, replace(placement, device=device.type)).peak / MIB
    peak, seconds = watched(lambda: video(folder, placement, config, size, frames, sample))
    if device.type == "cuda":
        peak = peak_gib(device) * 1024
    return {"peak MiB": peak, "foretold MiB": foretold, "s": seconds}


def video(
    folder: str, placement: Placement, config: ModelConfig, size: tuple[int, int], frames: int, sample: SamplerOptions
) -> torch.Tensor:
    """From the file to a video of noise: load, place, encode, sample, decode."""
    model = load_model(folder)
    network = empty_wan_network(16).to_empty(device="cpu")
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    model.codec.put_in(network)
    model: ReshootModel = place(model, placement)
    camera = Camera(torch.eye(4).expand(2, frames, 4, 4), intrinsics_from_fov(60.0, size).expand(2, frames, 3, 3), size)
    text = torch.zeros(config.text.length, config.dit.text_dim)
    reference = torch.zeros(frames, 3, *size)
    return generate(model, reference, Window(camera, 4.0, Prompts(text, text)), sample)


if __name__ == "__main__":
    sys.exit(main())
