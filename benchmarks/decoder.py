"""`python benchmarks/decoder.py [--host wan|svd] [--small] [--once]`: what aligning costs beside decoding alone.

The networks have their full width.

Random latents, random weights, float32, all four levels aligned. Wan's VAE: two views of 5 frames of 256x256, of which
one follows the other. Stable Video Diffusion's: six views of 256x256 in Wonder3D's rig, each of which asks five.
Seconds of one thread by turns, and the peak of each in a fresh process beyond weights and inputs. `--once` takes the
seconds there too. `--small` shrinks the pictures; its ratios say nothing.
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

from mvtrack.config.encoders import CodecConfig
from mvtrack.config.presets import preset
from mvtrack.data.synthetic.objects import wonder3d_rig
from mvtrack.geometry.camera import Camera, intrinsics_from_fov
from mvtrack.geometry.trajectory import CameraPath
from mvtrack.inference.memory.codec import empty_wan_network
from mvtrack.models.decoder.scene import DecoderScene
from mvtrack.models.decoder.sd import SDAligner
from mvtrack.models.decoder.wan import WanAligner
from mvtrack.models.sd_vae import SD_SCALING, SVDVAECodec, empty_autoencoder
from mvtrack.models.wan_vae import WanVAECodec

FRAMES, VIEWS = 5, 6
SIZES = {"wan": ((256, 256), (32, 48)), "svd": ((256, 256), (32, 32))}  # and small ones
TARGETS = {"time / codec": ("<=", 2.5), "memory / codec": ("<=", 2.5)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", choices=tuple(SIZES), default="wan", help="whose decoder")
    parser.add_argument("--small", action="store_true", help="tiny pictures, no targets")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--once", action="store_true", help="each way once, for a machine on which it takes minutes")
    parser.add_argument("--measure", choices=("codec", "aligned"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    size = SIZES[options.host][options.small]
    ways = wan_decoders(size) if options.host == "wan" else svd_decoders(size)
    if options.measure:
        began = time.process_time()
        peak = peak_mib(ways[options.measure])
        sys.stdout.write(json.dumps({"peak": peak, "seconds": time.process_time() - began}) + "\n")
        return 0
    fresh = {name: in_fresh_process(name, options) for name in ways}
    seconds = {name: measured["seconds"] for name, measured in fresh.items()}
    if not options.once:
        seconds = timed_by_turns(ways, options.rounds, time.process_time)
    peak = {name: measured["peak"] for name, measured in fresh.items()}
    figures = {f"{name}: s": value for name, value in seconds.items()}
    figures |= {f"{name}: peak MiB": value for name, value in peak.items()}
    figures["time / codec"] = seconds["aligned"] / seconds["codec"]
    figures["memory / codec"] = peak["aligned"] / max(peak["codec"], 1e-3)
    return report(figures, {} if options.small else TARGETS)


@torch.no_grad()
def wan_decoders(size: tuple[int, int]) -> dict:
    """Both ways, on the same random VAE."""
    config = preset("wan2.1_t2v_1.3b").codec
    codec = WanVAECodec(config)
    codec.put_in(of_random_weights(empty_wan_network(config.channels)))
    latents = torch.randn(2, 1 + (FRAMES - 1) // 4, config.channels, *(side // config.stride for side in size))
    poses = torch.stack([torch.eye(4).expand(FRAMES, 4, 4), CameraPath("arc_left").poses(FRAMES).float()])
    camera = Camera(poses, intrinsics_from_fov(60.0, size).expand(2, FRAMES, 3, 3), size)
    scene = DecoderScene.of(camera, torch.full((2, FRAMES, *size), 4.0), {0: torch.zeros(FRAMES, 3, *size)})
    aligner = WanAligner().eval().requires_grad_(False)
    return {
        "codec": lambda: codec.decode(latents[None]),
        "aligned": torch.no_grad()(lambda: aligner.decode(codec, latents, scene, (1,))),
    }


@torch.no_grad()
def svd_decoders(size: tuple[int, int]) -> dict:
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
    return {
        "codec": lambda: codec.decode(latents[None]),
        "aligned": torch.no_grad()(lambda: aligner.decode(codec, latents, scene)),
    }


def of_random_weights(network: torch.nn.Module) -> torch.nn.Module:
    """A network without storage, filled."""
    network = network.to_empty(device="cpu").requires_grad_(False)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    return network


def in_fresh_process(name: str, options: argparse.Namespace) -> dict[str, float]:
    small = ["--small"] if options.small else []
    command = [sys.executable, __file__, "--measure", name, "--host", options.host, *small]
    run = subprocess.run(
        command, check=True, capture_output=True, text=True, env=os.environ | FREED_AT_ONCE, cwd=Path(__file__).parent
    )
    return json.loads(run.stdout.splitlines()[-1])


if __name__ == "__main__":
    sys.exit(main())
