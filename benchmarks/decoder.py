"""`python benchmarks/decoder.py [--host wan|svd] [--small] [--once] [--train]`: what aligning costs beside decoding.

The networks have their full width.

Random latents, random weights, float32, all four levels aligned. Wan's VAE: two views of 5 frames of 256x256, of which
one follows the other. Stable Video Diffusion's: six views of 256x256 in Wonder3D's rig, each of which asks five.
Seconds of one thread by turns, and the peak of each in a fresh process beyond weights and inputs, beside what
`mvtrack doctor` foretells of it on a CPU. `--once` takes the seconds there too.
`--train`: one step of training such an aligner instead, with what doctor foretells: forward and backward of the same
views, the VAE's own weights as they are, activations recomputed (`train.gradient_checkpointing`), or kept with
`--keep`. `--side N`: pictures of NxN. `--small` shrinks the pictures; its ratios say nothing.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import torch
from bench import FREED_AT_ONCE, peak_mib, report, timed_by_turns

from mvtrack.config.decoder import DecoderConfig, DecoderDataConfig, DecoderRunConfig
from mvtrack.config.encoders import CodecConfig
from mvtrack.config.presets import preset
from mvtrack.config.training import TrainConfig
from mvtrack.data.synthetic.objects import wonder3d_rig
from mvtrack.geometry.camera import Camera, intrinsics_from_fov
from mvtrack.geometry.trajectory import CameraPath
from mvtrack.inference.memory.aligned import AlignerSize, aligned_cost
from mvtrack.inference.memory.codec import empty_wan_network
from mvtrack.models.decoder.hosted import recompute
from mvtrack.models.decoder.scene import DecoderScene
from mvtrack.models.decoder.sd import SDAligner
from mvtrack.models.decoder.wan import WanAligner
from mvtrack.models.sd_vae import SD_SCALING, SVDVAECodec, empty_autoencoder
from mvtrack.models.wan_vae import WanVAECodec
from mvtrack.training.decoder_memory import estimate_decoder_training

FRAMES, VIEWS = 5, 6
SHAPES = {"wan": (FRAMES, 2), "svd": (1, VIEWS)}  # frames and views
SIZES = {"wan": ((256, 256), (32, 48)), "svd": ((256, 256), (32, 32))}  # and small ones
TARGETS = {"time / codec": ("<=", 2.5), "memory / codec": ("<=", 2.5), "foretold, off by": ("<=", 0.15)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", choices=tuple(SIZES), default="wan", help="whose decoder")
    parser.add_argument("--small", action="store_true", help="tiny pictures, no targets")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--once", action="store_true", help="each way once, for a machine on which it takes minutes")
    parser.add_argument("--train", action="store_true", help="a training step instead")
    parser.add_argument("--keep", action="store_true", help="activations of a training step")
    parser.add_argument("--side", type=int, help="of the pictures")
    parser.add_argument("--measure", choices=("codec", "aligned", "training step"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    size = SIZES[options.host][options.small] if options.side is None else (options.side,) * 2
    if options.train:
        return training_step(options, size)
    ways, codec, aligner = wan_decoders(size) if options.host == "wan" else svd_decoders(size)
    if options.measure:
        began = time.process_time()
        peak = peak_mib(ways[options.measure])
        sys.stdout.write(json.dumps({"peak": peak, "seconds": time.process_time() - began}) + "\n")
        return 0
    ways.pop("training step", None)
    fresh = {name: in_fresh_process(name, options) for name in ways}
    seconds = {name: measured["seconds"] for name, measured in fresh.items()}
    if not options.once:
        seconds = timed_by_turns(ways, options.rounds, time.process_time)
    peak = {name: measured["peak"] for name, measured in fresh.items()}
    figures = {f"{name}: s": value for name, value in seconds.items()}
    figures |= {f"{name}: peak MiB": value for name, value in peak.items()}
    figures["time / codec"] = seconds["aligned"] / seconds["codec"]
    figures["memory / codec"] = peak["aligned"] / max(peak["codec"], 1e-3)
    foretold = aligned_cost(codec, AlignerSize.of(aligner), size, *SHAPES[options.host], on_cpu=True).decode / 2**20
    figures["aligned: foretold MiB"] = foretold
    figures["foretold, off by"] = abs(foretold / max(peak["aligned"], 1e-3) - 1)
    return report(figures, {} if options.small else TARGETS)


def training_step(options: argparse.Namespace, size: tuple[int, int]) -> int:
    if options.measure:
        ways, _, aligner = wan_decoders(size) if options.host == "wan" else svd_decoders(size)
        recompute(aligner.train().requires_grad_(True), not options.keep)
        began = time.process_time()
        peak = peak_mib(ways["training step"])
        sys.stdout.write(json.dumps({"peak": peak, "seconds": time.process_time() - began}) + "\n")
        return 0
    if options.host == "wan":
        codec = preset("wan2.1_t2v_1.3b").codec
        data = DecoderDataConfig(kind="moving", size=size, num_frames=FRAMES, frames=FRAMES)
    else:
        codec = CodecConfig(kind="svd_vae", channels=4, stride=8, weights="random", scaling=SD_SCALING)
        data = DecoderDataConfig(kind="wonder3d", size=size)
    train = TrainConfig(gradient_checkpointing=not options.keep)
    run = DecoderRunConfig(decoder=DecoderConfig(codec=codec), data=data, train=train)
    estimate, found = estimate_decoder_training(run, on_cpu=True), in_fresh_process("training step", options)
    foretold = estimate.work / 2**20
    figures = {"training step: s": found["seconds"], "training step: TFLOP": estimate.flops / 1e12}
    figures |= {"training step: peak MiB": found["peak"], "training step: foretold MiB": foretold}
    figures["foretold, off by"] = abs(foretold / found["peak"] - 1)
    return report(figures, {} if options.small else {"foretold, off by": TARGETS["foretold, off by"]})


@torch.no_grad()
def wan_decoders(size: tuple[int, int]) -> tuple[dict, CodecConfig, torch.nn.Module]:
    """Both ways, on the same random VAE, its config, and the aligner."""
    config = preset("wan2.1_t2v_1.3b").codec
    codec = WanVAECodec(config)
    codec.put_in(of_random_weights(empty_wan_network(config.channels)))
    latents = torch.randn(2, 1 + (FRAMES - 1) // 4, config.channels, *(side // config.stride for side in size))
    poses = torch.stack([torch.eye(4).expand(FRAMES, 4, 4), CameraPath("arc_left").poses(FRAMES).float()])
    camera = Camera(poses, intrinsics_from_fov(60.0, size).expand(2, FRAMES, 3, 3), size)
    scene = DecoderScene.of(camera, torch.full((2, FRAMES, *size), 4.0), {0: torch.zeros(FRAMES, 3, *size)})
    aligner = WanAligner().eval().requires_grad_(False)
    ways = {
        "codec": lambda: codec.decode(latents[None]),
        "aligned": torch.no_grad()(lambda: aligner.decode(codec, latents, scene, (1,))),
        "training step": torch.enable_grad()(lambda: step(aligner.decode(codec, latents, scene, (1,))[1:])),
    }
    return ways, config, aligner


def svd_decoders(size: tuple[int, int]) -> tuple[dict, CodecConfig, torch.nn.Module]:
    """The same for six views of an object."""
    codec = SVDVAECodec(CodecConfig(kind="svd_vae", channels=4, stride=8, weights="random", scaling=SD_SCALING))
    with torch.device("meta"):
        network = empty_autoencoder("svd_vae").eval()
    codec.put_in(of_random_weights(network))
    latents = torch.randn(VIEWS, 1, codec.channels, *(side // codec.stride for side in size))
    camera = wonder3d_rig(size[0])
    depth = torch.full((VIEWS, 1, *size), 1.3)
    scene = DecoderScene.of(camera, depth, {0: torch.zeros(1, 3, *size)}, radius=0.1)
    aligner = SDAligner().eval().requires_grad_(False)
    ways = {
        "codec": lambda: codec.decode(latents[None]),
        "aligned": torch.no_grad()(lambda: aligner.decode(codec, latents, scene)),
        "training step": torch.enable_grad()(
            lambda: step(aligner.decode(codec, latents, scene, tuple(range(1, VIEWS)))[1:])
        ),
    }
    return ways, codec.config, aligner


def step(pictures: torch.Tensor) -> None:
    (pictures - torch.zeros_like(pictures)).square().mean().backward()


def of_random_weights(network: torch.nn.Module) -> torch.nn.Module:
    """A network without storage, filled."""
    network = network.to_empty(device="cpu").requires_grad_(False)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    return network


def in_fresh_process(name: str, options: argparse.Namespace) -> dict[str, float]:
    small = ["--small"] if options.small else []
    command = [sys.executable, __file__, "--measure", name, "--host", options.host, *small]
    command += [flag for flag, on in (("--train", options.train), ("--keep", options.keep)) if on]
    command += ["--side", str(options.side)] if options.side else []
    run = subprocess.run(
        command, check=True, capture_output=True, text=True, env=os.environ | FREED_AT_ONCE, cwd=Path(__file__).parent
    )
    return json.loads(run.stdout.splitlines()[-1])


if __name__ == "__main__":
    sys.exit(main())
