"""`python benchmarks/dit.py [--small]`: our transformer against DiffSynth's, same weights and inputs, two CPU threads.

Two blocks of Wan2.1-1.3B's width on 2 x 2 x 16 x 28 tokens: time by turns, bfloat16's error against float32, and the
peak memory of a forward in a fresh process beyond weights and inputs. `--small` shrinks all to seconds; its ratios say
nothing.
"""

import argparse
import json
import os
import subprocess
import sys

import peer_diffsynth
import torch
from bench import FREED_AT_ONCE, peak_mib, report, timed_by_turns
from einops import rearrange
from torch import Tensor, nn

from mvtrack.config.model import DiTConfig
from mvtrack.models.conditioning import Conditioning
from mvtrack.models.dit import WanDiT

FULL = (DiTConfig(num_layers=2), (2, 2, 32, 56))
SMALL = (DiTConfig(dim=96, ffn_dim=160, num_heads=3, num_layers=2, text_dim=40, freq_dim=32), (2, 2, 8, 12))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="tiny sizes, no targets")
    parser.add_argument("--rounds", type=int, default=7, help="forwards of each, by turns")
    parser.add_argument("--measure", nargs=2, metavar=("WHOSE", "DTYPE"), help="print one peak in MiB and stop")
    options = parser.parse_args()
    missing = peer_diffsynth.why_missing()
    if missing:
        sys.stderr.write(f"benchmarks/dit.py: {missing}\n")
        return 2
    torch.set_num_threads(2)
    torch.manual_seed(0)
    config, size = SMALL if options.small else FULL
    if options.measure:
        sys.stdout.write(json.dumps(memory_mib(config, size, *options.measure)) + "\n")
        return 0
    figures = {}
    ours, theirs = models(config)
    given = inputs(config, size)
    exact = {name: run(given) for name, run in runners(ours, theirs).items()}
    figures["float32: largest difference"] = (exact["ours"] - exact["theirs"]).abs().max().item()
    for dtype in (torch.float32, torch.bfloat16):
        label = str(dtype).removeprefix("torch.")
        run = runners(ours.to(dtype), theirs.to(dtype))
        cast = given[0].to(dtype), given[1], given[2].to(dtype)
        seconds = timed_by_turns({name: lambda f=f, x=cast: f(x) for name, f in run.items()}, options.rounds)
        figures |= {f"{label}: {name}, s": value for name, value in seconds.items()}
        figures[f"{label}: time / theirs"] = seconds["ours"] / seconds["theirs"]
        if dtype == torch.bfloat16:
            errors = {name: relative_error(f(cast), exact["theirs"]) for name, f in run.items()}
            figures |= {f"bfloat16: error of {name}": value for name, value in errors.items()}
            figures["bfloat16: error / theirs"] = errors["ours"] / errors["theirs"]
        peak = {name: in_fresh_process(name, label, options.small) for name in run}
        figures |= {f"{label}: peak of {name}, MiB": value for name, value in peak.items()}
        figures[f"{label}: memory / theirs"] = peak["ours"] / max(peak["theirs"], 1e-3)
    targets = {"float32: largest difference": ("<=", 2e-5), "bfloat16: error / theirs": ("<=", 1.0)}
    for label in ("float32", "bfloat16"):
        targets |= {f"{label}: time / theirs": ("<=", 1.0), f"{label}: memory / theirs": ("<=", 1.0)}
    return report(figures, {} if options.small else targets)


def models(config: DiTConfig) -> tuple[WanDiT, nn.Module]:
    """Both with the same random weights."""
    ours, theirs = WanDiT(config).eval(), peer_diffsynth.build(config)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    return ours, theirs


def inputs(config: DiTConfig, size: tuple[int, int, int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Latents (1, V, f, c, h, w), timestep and text. size: (V, f, h, w)."""
    views, frames, height, width = size
    latents = torch.randn(1, views, frames, config.in_channels, height, width)
    return latents, torch.tensor([500.0]), torch.randn(1, 512, config.text_dim)


def runners(ours: WanDiT, theirs: nn.Module) -> dict:
    """The same forward of both, in our layout. All views are targets here: their frames are numbered on."""

    @torch.no_grad()
    def run_ours(given: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        latents, time, text = given
        return ours(latents, time, Conditioning(text=text, num_reference=0)).prediction

    @torch.no_grad()
    def run_theirs(given: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        latents, time, text = given
        joined = rearrange(latents, "b v f c h w -> b c (v f) h w")
        out = peer_diffsynth.forward(theirs, joined, time.to(latents.dtype), text)
        return rearrange(out, "b c (v f) h w -> b v f c h w", v=latents.shape[1])

    return {"ours": run_ours, "theirs": run_theirs}


def relative_error(found: Tensor, exact: Tensor) -> float:
    return ((found.float() - exact).norm() / exact.norm()).item()


def in_fresh_process(whose: str, dtype: str, small: bool) -> float:
    command = [sys.executable, __file__, "--measure", whose, dtype, *(["--small"] if small else [])]
    run = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ | FREED_AT_ONCE)
    return json.loads(run.stdout.splitlines()[-1])


def memory_mib(config: DiTConfig, size: tuple[int, int, int, int], whose: str, dtype: str) -> float:
    """Peak resident memory of one forward beyond weights and inputs."""
    model = (WanDiT(config).eval() if whose == "ours" else peer_diffsynth.build(config)).to(getattr(torch, dtype))
    run = runners(model, model)[whose]
    latents, time, text = inputs(config, size)
    given = latents.to(getattr(torch, dtype)), time, text.to(getattr(torch, dtype))
    run((given[0][:, :, :1, :, :4, :4], *given[1:]))  # loads the libraries' own buffers
    return peak_mib(lambda: run(given))


if __name__ == "__main__":
    sys.exit(main())
