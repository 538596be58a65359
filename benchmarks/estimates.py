"""`python benchmarks/estimates.py`: the memory that doctor foretells against what is measured, on a CPU.

Wan2.1-1.3B's true widths with few blocks and frames, random weights, each case in a fresh process: sampling and codec,
and training steps through DeepSpeed. Measured is the peak of resident memory beyond the imported libraries. `--only
NAME` runs one case, `--list` names them.
"""

import argparse
import gc
import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import full_size
import torch
from bench import FREED_AT_ONCE, peak_mib, report
from plain_wan import random_weights

from mvtrack.config.data import DataConfig, LatentsConfig
from mvtrack.config.model import ModelConfig, SamplingConfig
from mvtrack.config.presets import preset
from mvtrack.config.run import RunConfig
from mvtrack.inference.memory.codec import codec_cost, empty_wan_network
from mvtrack.inference.memory.inference import weights_bytes
from mvtrack.inference.memory.transformer import InputShape, forward_bytes
from mvtrack.inference.ranks import sharing
from mvtrack.inference.sampler import SamplerOptions, sample_latents
from mvtrack.models.dit import empty_dit
from mvtrack.models.reshoot_model import ReshootModel
from mvtrack.models.sequence_parallel import AloneOf
from mvtrack.models.wan_vae import WanVAECodec
from mvtrack.training.memory import estimate_training
from mvtrack.training.objective import Objective

MIB = 2**20
TOLERANCE = 0.15
SIZE = (480, 832)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=CASES, help="run one case")
    parser.add_argument("--list", action="store_true", help="print the names of the cases")
    parser.add_argument("--measure", choices=CASES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.list:
        sys.stdout.write("\n".join(CASES) + "\n")
        return 0
    if options.measure:
        torch.set_num_threads(1)
        sys.stdout.write(json.dumps(CASES[options.measure]()) + "\n")
        return 0
    figures, targets = {}, {}
    for name in [options.only] if options.only else CASES:
        foretold, found = in_fresh_process(name)
        figures |= {
            f"{name}: foretold MiB": foretold,
            f"{name}: measured MiB": found,
            f"{name}: ratio": foretold / found,
        }
        figures[f"{name}: off by"] = abs(foretold / found - 1)
        targets[f"{name}: off by"] = ("<=", TOLERANCE)
        sys.stdout.write(f"{name}: {foretold:.0f} MiB foretold, {found:.0f} measured, {foretold / found:.3f}\n")
        sys.stdout.flush()
    return report(figures, targets)


def in_fresh_process(name: str) -> tuple[float, float]:
    environment = os.environ | FREED_AT_ONCE | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, "--measure", name]
    run = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=Path(__file__).parent)
    if run.returncode:
        raise RuntimeError(run.stderr[-3000:])
    return tuple(json.loads(run.stdout.splitlines()[-1]))


def shallow(config: ModelConfig, layers: int) -> ModelConfig:
    return replace(config, dit=replace(config.dit, num_layers=layers), tap_layer=layers // 2)


def sampling(
    name: str, layers: int, frames: int, precision: str, batched: bool = False, size: tuple[int, int] = SIZE,
    ranks: int = 1,
) -> tuple[float, float]:  # fmt: skip
    """Two guided steps of the transformer, weights included. ranks: of one of so many that share the tokens."""
    config = shallow(preset(name), layers)
    config = replace(config, sampling=SamplingConfig(2, 5.0, precision))
    dtype = getattr(torch, precision)
    autocast = precision == "float32" and torch.backends.cpu.get_cpu_capability().startswith("AVX512")
    scene = InputShape(size, frames, batch=2 if batched else 1, ranks=ranks)
    foretold = weights_bytes(config, dtype)[0] + forward_bytes(config, scene, dtype, autocast)
    warm_up()

    def work() -> None:
        dit = random_weights(empty_dit(config), torch.device("cpu")).to(dtype)
        model = ReshootModel(config, dit, None, batched_guidance=batched)
        step = full_size.random_step(full_size_run(config), size, frames)
        conditioning = step.conditioning._replace(negative_text=step.conditioning.text)
        with sharing(dit, AloneOf(ranks)):
            sample_latents(model, step.latents[:, :1], conditioning, SamplerOptions.of(config))

    return foretold / MIB, peak_mib(work)


def full_size_run(config: ModelConfig) -> RunConfig:
    """A run of a model, for its random inputs."""
    data = DataConfig(banks=(), latents=(LatentsConfig("none", SIZE),), num_frames=5, mirror=False, palette=False)
    return RunConfig(model=config, data=data)


def codec(size: tuple[int, int], frames: int, precision: str, decode: bool) -> tuple[float, float]:
    """Wan's VAE, its weights included."""
    config = replace(preset("wan2.1_t2v_1.3b").codec, precision=precision)
    found = codec_cost(config, size, frames, on_cpu=True)
    foretold = found.weights + (found.decode if decode else found.encode)

    def work() -> None:
        vae = WanVAECodec(config)
        network = empty_wan_network(config.channels).to_empty(device="cpu").to(getattr(torch, precision))
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=0.02)
        vae.put_in(network)
        if decode:
            vae.decode(torch.randn(1, 1, 1 + (frames - 1) // 4, config.channels, *(s // config.stride for s in size)))
        else:
            vae.encode(torch.randn(1, 1, frames, 3, *size))

    return foretold / MIB, peak_mib(work)


def training(name: str, layers: int, frames: int, size: tuple[int, int] = SIZE, **train: object) -> tuple[float, float]:
    """Two steps of two accumulated micro-batches, through DeepSpeed; everything of a rank included. The first step's
    update is what makes an optimiser's state."""
    options = argparse.Namespace(preset=name, small=False, layers=layers, keep="nothing", size=size, frames=frames)
    run = full_size.run_config(options)
    data = DataConfig(banks=(), latents=(LatentsConfig("none", size),), num_frames=frames, mirror=False, palette=False)
    run = replace(run, data=data)
    settings = {"batch_size": 2, "gradient_checkpointing": True, "precision": "bf16", "checkpoint_keep": "nothing"}
    run = replace(run, train=replace(run.train, **settings | train))
    foretold = estimate_training(run, device="cpu").peak
    from mvtrack.training.ema import EMA
    from mvtrack.training.engine import build_engine, prepare_network, start_distributed

    start_distributed(60)
    warm_up()
    step = full_size.random_step(run, size, frames)

    def weights():
        for key, parameter in empty_dit(run.model).named_parameters():
            yield key, torch.randn(parameter.shape) * 0.02

    def work() -> None:
        engine = build_engine(prepare_network(run, weights()), run)
        ema = EMA(engine, 0.99)
        autocast = run.train.precision == "autocast_bf16"
        for _ in range(2 * run.train.batch_size):
            gc.collect()
            with torch.autocast("cpu", torch.bfloat16) if autocast else nullcontext():
                total = Objective(run)(engine, step)["total"]
            engine.backward(total)
            del total
            engine.step()
        ema.update(engine, 0)

    return foretold / MIB, peak_mib(work)


def warm_up() -> None:
    """Load the libraries' own buffers."""
    layer = torch.nn.Linear(64, 64)
    for dtype in (torch.float32, torch.bfloat16):
        layer.to(dtype)(torch.zeros(8, 64, dtype=dtype)).sum().backward()


CASES: dict[str, Callable[[], tuple[float, float]]] = {
    "sampling, ReCamMaster, bfloat16": lambda: sampling("recammaster_1.3b", 4, 9, "bfloat16"),
    "sampling, ReCamMaster, bfloat16, guidance at once": lambda: sampling("recammaster_1.3b", 4, 9, "bfloat16", True),
    "sampling, ReCamMaster, float32": lambda: sampling("recammaster_1.3b", 3, 5, "float32"),
    "sampling, ReCamMaster, bfloat16, one of 4 ranks": lambda: sampling("recammaster_1.3b", 4, 9, "bfloat16", ranks=4),
    "sampling, ReDirector, bfloat16": lambda: sampling("redirector_1.3b", 3, 9, "bfloat16"),
    "encoding, float32": lambda: codec((240, 416), 9, "float32", decode=False),
    "decoding, float32": lambda: codec((240, 416), 9, "float32", decode=True),
    "training, ReCamMaster, bfloat16": lambda: training("recammaster_1.3b", 4, 9),
    "training, ReCamMaster, attention kept": lambda: training("recammaster_1.3b", 4, 9, checkpoint_keep="attention"),
    "training, ReCamMaster, nothing recomputed": lambda: training(
        "recammaster_1.3b", 3, 5, gradient_checkpointing=False
    ),
    "training, ReDirector, bfloat16, stage 2": lambda: training("redirector_1.3b", 3, 5, zero_stage=2),
    "training, ReCamMaster, float32": lambda: training("recammaster_1.3b", 3, 5, (240, 416), precision="fp32"),
    "sampling, small": lambda: sampling("recammaster_1.3b", 2, 5, "float32", size=(240, 416)),
    "training, small": lambda: training("recammaster_1.3b", 2, 5, (96, 160), precision="fp32"),
}

if __name__ == "__main__":
    sys.exit(main())
