"""`python benchmarks/attention_cpu.py [--small]`: attention on this processor, and what it makes of the tiny models.

Fused attention against blocks of rows with an ordinary softmax, forwards and backwards, in float32 and, where the
processor multiplies bfloat16, in bfloat16; which of them `choose_kernel` takes. Then the tiny model: a training step
(forward and backward) with full attention by the fused kernel against factorised attention by the chosen one, in all
blocks and as in configs/tiny_natural.yaml; and the passes of one window of video, 8 full against the 1 that the shipped
model takes. One thread, its own processor time, by turns. `--small` shrinks all to seconds; its ratios say nothing.
"""

import argparse
import sys
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import torch
from bench import report, timed_by_turns
from torch import Tensor

from mvtrack.config.model import ModelConfig
from mvtrack.config.run import load_config
from mvtrack.inference.pipeline import shipped_model
from mvtrack.models.attention import attend, choose_kernel
from mvtrack.models.conditioning import Conditioning
from mvtrack.models.dit import WanDiT
from mvtrack.models.init_weights import fill, initial_weights
from mvtrack.models.reshoot_model import read_config

CPU = torch.device("cpu")
CONFIGS = Path(__file__).parents[1] / "configs"
TOKENS = (512, 1280, 2560, 4480)  # of a moment and a view of the tiny model, of 64x64 and of 64x112
HEADS, WIDTH = 3, 64
STEPS_BEFORE = 8


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="tiny sizes, no targets")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    has_bfloat16 = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    figures = {"bfloat16 products": float(has_bfloat16)}
    for dtype in (torch.float32, torch.bfloat16) if has_bfloat16 else (torch.float32,):
        for tokens in (37,) if options.small else TOKENS:
            figures |= attention_figures(tokens, dtype, options.rounds)
    precision = torch.bfloat16 if has_bfloat16 else torch.float32
    figures |= model_figures(4 if options.small else 16, precision, options.rounds)
    worst = max(value for name, value in figures.items() if name.endswith("chosen / fused"))
    targets = {"largest of chosen / fused": ("<=", 1.1)}
    targets["training step: full / factorised"] = (">=", 1.5)
    targets["one window: 8 steps, full / now"] = (">=", 4.0)
    return report(figures | {"largest of chosen / fused": worst}, {} if options.small else targets)


def attention_figures(tokens: int, dtype: torch.dtype, rounds: int) -> dict[str, float]:
    """Times of both kernels over the fused one's."""
    figures = {}
    qkv = [torch.randn(1, tokens, HEADS, WIDTH, dtype=dtype, requires_grad=True) for _ in range(3)]
    for training, label in ((False, "forward"), (True, "with backward")):
        names = {kernel: (lambda k=kernel, t=training: _attend(qkv, k, t)) for kernel in ("cpu", "blocked")}
        seconds = timed_by_turns(names, rounds, time.process_time)
        chosen = choose_kernel("auto", CPU, dtype, HEADS, WIDTH, tokens, training)
        name = f"{str(dtype).removeprefix('torch.')}, {tokens} tokens, {label}"
        figures[f"{name}: fused, s"] = seconds["cpu"]
        figures[f"{name}: blocked / fused"] = seconds["blocked"] / seconds["cpu"]
        figures[f"{name}: chosen / fused"] = seconds[chosen] / seconds["cpu"]
    return figures


def _attend(qkv: list[Tensor], kernel: str, training: bool) -> None:
    with torch.enable_grad() if training else torch.no_grad():
        out = attend(*qkv, kernel)
    if training:
        torch.autograd.grad(out, qkv, out.detach())


def model_figures(grid: int, precision: torch.dtype, rounds: int) -> dict[str, float]:
    """A training step and a window of the tiny model, on 5 latent frames of grid x grid tokens in two views."""
    model = load_config(CONFIGS / "tiny_natural.yaml").model
    full = replace(model.dit, attention="full", full_attention_blocks=0)
    dits = {
        "full": _transformer(replace(model, dit=full), "cpu"),
        "factorised": _transformer(replace(model, dit=replace(model.dit, full_attention_blocks=0)), "auto"),
        "tiny_natural": _transformer(model, "auto"),
    }
    latents = torch.randn(1, 2, 5, model.codec.channels, grid, grid)
    conditioning = Conditioning(rays=torch.randn(1, 2, 5, model.rays.channels, grid, grid))

    def step(dit: WanDiT) -> None:
        with _autocast(precision):
            output = dit(latents, torch.tensor([500.0]), conditioning, tap_layers=(model.tap_layer,))
            loss = output.prediction.float().square().mean() + output.taps[0].q.float().mean()
        loss.backward()
        dit.zero_grad()

    def window(dit: WanDiT, steps: int) -> None:
        with _autocast(precision), torch.no_grad():
            for _ in range(steps):
                dit(latents, torch.tensor([500.0]), conditioning)

    shipped = read_config(shipped_model())
    now = dits["full" if shipped.dit.attention == "full" else "tiny_natural"]
    steps = timed_by_turns({name: lambda d=dit: step(d) for name, dit in dits.items()}, rounds, time.process_time)
    passes = {"before": lambda: window(dits["full"], STEPS_BEFORE), "now": lambda: window(now, shipped.sampling.steps)}
    windows = timed_by_turns(passes, rounds, time.process_time)
    figures = {f"training step: {name}, s": seconds for name, seconds in steps.items()}
    figures |= {f"training step: full / {name}": steps["full"] / steps[name] for name in list(dits)[1:]}
    return figures | {
        "one window: 8 steps, full, s": windows["before"],
        "one window: now, s": windows["now"],
        "one window: 8 steps, full / now": windows["before"] / windows["now"],
    }


def _autocast(precision: torch.dtype):
    return nullcontext() if precision == torch.float32 else torch.autocast("cpu", precision)


def _transformer(model: ModelConfig, kernel: str) -> WanDiT:
    dit = WanDiT(model.dit, model.rays)
    fill(dit, initial_weights(model, seed=0))
    dit.attention = kernel
    return dit


if __name__ == "__main__":
    sys.exit(main())
