"""`python benchmarks/source_cache.py`: a pass of a sampling whose source does not look at the target, and a joint one.

Wan2.1-1.3B's width with random weights at 480x832 (`dit.reference_attention: own`), as many blocks and frames as are
asked for; everything halves alike, so that the ratio is that of all 30 blocks up to what surrounds them. By turns: one
pass of joint attention, the first pass of a sampling, which brings the source's keys and values, and one of its other
passes. Arithmetic of the whole model at 81 frames, and what the keys and values take there in bfloat16, are counted.
`--small`: a narrow model, seconds, no targets.
"""

import argparse
import sys
from dataclasses import replace

import torch
from bench import clock_of, report, timed_by_turns

from mvtrack.config.model import DiTConfig, RayConfig
from mvtrack.inference.memory.transformer import TEXT_TOKENS
from mvtrack.models.conditioning import Conditioning
from mvtrack.models.dit import WanDiT
from mvtrack.models.flops import forward_flops, reference_flops
from mvtrack.models.reference_pass import ReferenceCache

HEIGHT, WIDTH, FRAMES = 60, 104, 21  # latents of 480x832, 81 frames


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=1)
    parser.add_argument("--frames", type=int, default=2, help="latent frames of each view")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--small", action="store_true", help="a narrow model, no targets")
    options = parser.parse_args()
    config = DiTConfig(num_layers=options.layers)
    if options.small:
        config = replace(config, dim=48, ffn_dim=96, num_heads=2)
    figures = measured(config, options.frames, options.rounds, torch.device(options.device), 6 if options.small else 1)
    figures |= counted(DiTConfig(reference_attention="own"))
    return report(figures, {} if options.small else {"joint / cached": (">=", 1.8)})


@torch.no_grad()
def measured(config: DiTConfig, frames: int, rounds: int, device: torch.device, shrink: int) -> dict[str, float]:
    """Seconds of a pass, and their ratios."""
    torch.manual_seed(0)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    joint = WanDiT(config, RayConfig()).to(device, dtype)
    own = WanDiT(replace(config, reference_attention="own"), RayConfig()).to(device, dtype)
    own.load_state_dict(joint.state_dict())
    height, width = HEIGHT // shrink, WIDTH // shrink // 2 * 2
    latents = torch.randn(1, 2, frames, 16, height, width, device=device)
    rays = torch.randn(1, 2, frames, RayConfig().channels, 2 * height, 2 * width, device=device)
    conditioning = Conditioning(rays, torch.randn(1, TEXT_TOKENS, config.text_dim, device=device))
    filled = ReferenceCache()

    def run(dit: WanDiT, cache: ReferenceCache | None) -> torch.Tensor:
        dit.reference_cache = cache
        return dit(latents, torch.tensor([500.0], device=device), conditioning).prediction

    if not torch.equal(run(own, filled), run(own, filled)):
        raise RuntimeError("a cached pass gives another result than the first one")
    passes = {
        "joint": lambda: run(joint, None),
        "first": lambda: run(own, ReferenceCache()),
        "cached": lambda: run(own, filled),
    }
    seconds = timed_by_turns(passes, rounds, clock_of(str(device)))
    figures = {f"{name}, s": value for name, value in seconds.items()}
    ratios = {f"joint / {name}": seconds["joint"] / seconds[name] for name in ("first", "cached")}
    return figures | ratios | {"tokens": 2 * frames * (height // 2) * (width // 2)}


def counted(own: DiTConfig) -> dict[str, float]:
    """Of the whole model at 81 frames."""
    tokens = 2 * FRAMES * (HEIGHT // 2) * (WIDTH // 2)
    joint, whole = (forward_flops(config, tokens, TEXT_TOKENS) for config in (DiTConfig(), own))
    cached = whole - reference_flops(own, tokens, TEXT_TOKENS)
    held = 2 * own.num_layers * (tokens // 2) * own.dim * 2
    return {
        "81 frames, joint, TFLOP": joint / 1e12,
        "81 frames, cached, TFLOP": cached / 1e12,
        "81 frames, joint / cached, 50 steps": 50 * joint / (whole + 49 * cached),
        "81 frames, keys and values, GiB": held / 2**30,
    }


if __name__ == "__main__":
    sys.exit(main())
