"""`python benchmarks/attention_cpu.py`: bfloat16 attention, forward + backward, one CPU thread: ours against SDPA."""

import sys

import torch
import torch.nn.functional as F
from bench import report, timed_by_turns
from einops import rearrange

from mvtrack.backbone.attention import attend

HEADS, DIM = 3, 64


def main() -> int:
    torch.set_num_threads(1)
    figures = {}
    for tokens in (640, 2560):
        q, k, v = (torch.randn(1, tokens, HEADS, DIM, dtype=torch.bfloat16).requires_grad_() for _ in range(3))

        def ours(q=q, k=k, v=v) -> None:
            attend(q, k, v, "cpu").sum().backward()

        def fused(q=q, k=k, v=v) -> None:
            F.scaled_dot_product_attention(*(rearrange(x, "b n h d -> b h n d") for x in (q, k, v))).sum().backward()

        seconds = timed_by_turns({"ours": ours, "sdpa": fused})
        figures[f"{tokens} tokens, sdpa / ours"] = seconds["sdpa"] / seconds["ours"]
    return report(figures, dict.fromkeys(figures, (">=", 1.5)))


if __name__ == "__main__":
    sys.exit(main())
