"""`python benchmarks/decoder.py [--small]`: what aligning costs beside decoding alone, with Wan's VAE at its own width.

Two views of random latents, random weights, float32, 5 frames of 120x208: the codec view by view, and the aligned
decode in which one view follows the other at all four levels. Seconds by turns, and the peak of each in a fresh process
beyond weights and inputs. `--small` shrinks the pictures; its ratios say nothing.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import torch
from bench import FREED_AT_ONCE, peak_mib, report, timed_by_turns

from mvtrack.config.presets import preset
from mvtrack.geometry.camera import Camera, intrinsics_from_fov
from mvtrack.geometry.trajectory import CameraPath
from mvtrack.inference.memory.codec import empty_wan_network
from mvtrack.models.decoder.scene import DecoderScene
from mvtrack.models.decoder.wan import WanAligner
from mvtrack.models.vae import WanVAECodec

FRAMES, FULL, SMALL = 5, (120, 208), (32, 48)
TARGETS = {"time / codec": ("<=", 2.5), "memory / codec": ("<=", 2.5)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="tiny pictures, no targets")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--measure", choices=("codec", "aligned"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(2)
    torch.manual_seed(0)
    ways = decoders(SMALL if options.small else FULL)
    if options.measure:
        sys.stdout.write(json.dumps(peak_mib(ways[options.measure])) + "\n")
        return 0
    seconds = timed_by_turns(ways, options.rounds)
    peak = {name: in_fresh_process(name, options.small) for name in ways}
    figures = {f"{name}: s": value for name, value in seconds.items()}
    figures |= {f"{name}: peak MiB": value for name, value in peak.items()}
    figures["time / codec"] = seconds["aligned"] / seconds["codec"]
    figures["memory / codec"] = peak["aligned"] / max(peak["codec"], 1e-3)
    return report(figures, {} if options.small else TARGETS)


@torch.no_grad()
def decoders(size: tuple[int, int]) -> dict:
    """Both ways, on the same random VAE."""
    config = preset("wan2.1_t2v_1.3b").codec
    codec = WanVAECodec(config)
    network = empty_wan_network(config.channels).to_empty(device="cpu")
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    codec.put_in(network)
    latents = torch.randn(2, 1 + (FRAMES - 1) // 4, config.channels, *(side // config.stride for side in size))
    poses = torch.stack([torch.eye(4).expand(FRAMES, 4, 4), CameraPath("arc_left").poses(FRAMES).float()])
    camera = Camera(poses, intrinsics_from_fov(60.0, size).expand(2, FRAMES, 3, 3), size)
    scene = DecoderScene.of(camera, torch.full((2, FRAMES, *size), 4.0), {0: torch.zeros(FRAMES, 3, *size)})
    aligner = WanAligner().eval().requires_grad_(False)
    return {
        "codec": lambda: codec.decode(latents[None]),
        "aligned": torch.no_grad()(lambda: aligner.decode(codec, latents, scene, (1,))),
    }


def in_fresh_process(name: str, small: bool) -> float:
    command = [sys.executable, __file__, "--measure", name, *(["--small"] if small else [])]
    run = subprocess.run(
        command, check=True, capture_output=True, text=True, env=os.environ | FREED_AT_ONCE, cwd=Path(__file__).parent
    )
    return json.loads(run.stdout.splitlines()[-1])


if __name__ == "__main__":
    sys.exit(main())
