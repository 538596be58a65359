"""Prints how far compiled blocks are from eager ones (outputs, taps, gradients) and how often a compiled step computes
attention, by what recomputed blocks keep; and how many graphs many sizes make.
"""

import json
import sys
from functools import partial

import torch
from torch._dynamo.testing import CompileCounter
from torch.profiler import ProfilerActivity, profile

from mvtrack.config.model import DiTConfig, RayConfig
from mvtrack.models.activation_checkpointing import Checkpointing
from mvtrack.models.compiling import compiled
from mvtrack.models.conditioning import Conditioning
from mvtrack.models.dit import WanDiT
from mvtrack.models.wan_vae import _normalised

KERNELS = {None: "auto", "nothing": "auto", "attention": "flash"}  # one of them is chosen by a context manager


def step(keep: str | None, compiled: bool) -> tuple[list[torch.Tensor], int]:
    torch.manual_seed(0)
    config = DiTConfig(dim=24, ffn_dim=28, num_heads=2, num_layers=3, in_channels=5, out_channels=5, text_dim=11)
    dit = WanDiT(config, RayConfig(token_px=4, stride=2))
    for parameter in dit.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    dit.checkpointing = None if keep is None else Checkpointing(keep=keep)
    dit.attention = KERNELS[keep]
    if compiled:
        dit.compile_blocks()
    given = (
        torch.randn(2, 2, 3, 5, 4, 6), torch.tensor([300.0, 700.0]),
        Conditioning(torch.randn(2, 2, 3, 24, 4, 6), torch.randn(2, 7, 11)),
    )  # fmt: skip
    dit(*given, tap_layers=(0, 2)).prediction.sum().backward()  # tries kernels, compiles both ways
    dit.zero_grad()
    with profile(activities=[ProfilerActivity.CPU]) as record:
        out = dit(*given, tap_layers=(0, 2))
        (out.prediction.square().mean() + out.taps[1].k.square().mean()).backward()
    names = [event.name for event in record.events()]
    with torch.no_grad():
        again = dit(*given).prediction
    results = [out.prediction, again, *out.taps[0], *out.taps[1], *(p.grad for p in dit.parameters())]
    return results, names.count("aten::_scaled_dot_product_flash_attention_for_cpu")


def graphs_of_many_sizes() -> tuple[int, int]:
    """How many graphs nine sizes make, with gradients and without, and how many they need."""
    graphs = CompileCounter()
    plain = torch.compile
    torch.compile = partial(plain, backend=graphs)
    config = DiTConfig(dim=24, ffn_dim=28, num_heads=2, num_layers=1, in_channels=5, out_channels=5, text_dim=11)
    dit = WanDiT(config, RayConfig(token_px=4, stride=2))
    dit.compile_blocks()
    torch.compile = plain
    sizes = [(frames, side) for frames in (1, 2, 3) for side in (4, 6, 8)]
    for frames, side in sizes * 2:  # the second time they are there
        latents, rays = torch.randn(1, 2, frames, 5, side, side), torch.randn(1, 2, frames, 24, side, side)
        given = latents, torch.tensor([300.0]), Conditioning(rays, torch.randn(1, 7, 11))
        dit(*given).prediction.sum().backward()
        with torch.no_grad():
            dit(*given)
    return graphs.frame_count, 2 * len(sizes)


def main() -> int:
    torch.set_num_threads(1)
    graphs = graphs_of_many_sizes()
    differences, runs = {}, {}
    for keep in KERNELS:
        (eager, _), (fast, runs[str(keep)]) = step(keep, False), step(keep, True)
        pairs = zip(eager, fast, strict=True)
        differences[str(keep)] = max(((a - b).abs().max() / b.abs().max().clamp_min(1e-3)).item() for a, b in pairs)
    x, gamma = torch.randn(2, 7, 3, 5, 11), torch.randn(7, 1, 1, 1)
    given = (x, gamma, 7**0.5)
    differences["norms of a VAE"] = (compiled(_normalised)(*given) - _normalised(*given)).abs().max().item()
    sys.stdout.write(json.dumps({"differences": differences, "attention_runs": runs, "graphs": graphs}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
