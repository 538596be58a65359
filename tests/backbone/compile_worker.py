"""Prints how far compiled blocks are from eager ones (outputs, taps, gradients), by what recomputed blocks keep."""

import json
import sys

import torch

from mvtrack.backbone.checkpointing import Checkpointing
from mvtrack.backbone.dit import WanDiT
from mvtrack.config import DiTConfig, RayConfig


def results(keep: str | None, compiled: bool) -> list[torch.Tensor]:
    torch.manual_seed(0)
    config = DiTConfig(dim=24, ffn_dim=28, num_heads=2, num_layers=3, in_channels=5, out_channels=5, text_dim=11)
    dit = WanDiT(config, RayConfig(token_px=4, stride=2))
    for parameter in dit.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    dit.checkpointing = None if keep is None else Checkpointing(keep=keep)
    if compiled:
        dit.compile_blocks()
    given = (
        torch.randn(2, 2, 3, 5, 4, 6), torch.tensor([300.0, 700.0]), torch.randn(2, 2, 3, 24, 4, 6),
        torch.randn(2, 7, 11),
    )  # fmt: skip
    out = dit(*given, tap_layers=(0, 2))
    (out.prediction.square().mean() + out.taps[1].k.square().mean()).backward()
    with torch.no_grad():
        again = dit(*given).prediction
    return [out.prediction, again, *out.taps[0], *out.taps[1], *(p.grad for p in dit.parameters())]


def main() -> int:
    torch.set_num_threads(1)
    differences = {}
    for keep in (None, "nothing", "attention"):
        pairs = zip(results(keep, False), results(keep, True), strict=True)
        differences[str(keep)] = max(((a - b).abs().max() / b.abs().max().clamp_min(1e-3)).item() for a, b in pairs)
    sys.stdout.write(json.dumps(differences) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
