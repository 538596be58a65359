"""What a run tells of itself while it runs: gradient norms by part, throughput, FLOP utilisation, memory."""

import time
from dataclasses import dataclass, field

import torch

from mvtrack.config.training import TrainingConfig
from mvtrack.inference.machine import gpu_peak_flops, peak_gib
from mvtrack.training import distributed
from mvtrack.training.base_run import BaseRun

_PARTS = ("self_attn", "cross_attn", "ffn", "camera_proj", "ray_encoder", "modulation",
          "attn1", "attn2", ".ff.", "resnets", "add_conv_in", "condition_encoder")  # fmt: skip


def part_of(name: str) -> str:
    """The part of the network a parameter belongs to, for grouping."""
    return next((part.strip(".") for part in _PARTS if part in name), "other")


@torch.no_grad()
def gradient_norms(engine) -> dict[str, float]:
    """L2 norm of the gradient per part of the network, before clipping. Collective; call before the update."""
    from deepspeed.utils import safe_get_full_grad

    squares: dict[str, float] = {}
    for name, parameter in engine.module.named_parameters():
        if not parameter.requires_grad:
            continue
        wrapped = hasattr(parameter, "ds_id") or hasattr(parameter, "_hp_mapping")
        gradient = safe_get_full_grad(parameter) if wrapped else parameter.grad
        if gradient is not None:
            squares[part_of(name)] = squares.get(part_of(name), 0.0) + float(gradient.float().square().sum())
    return {f"grad_norm/{part}": value**0.5 for part, value in squares.items()}


def peak_flops(config: TrainingConfig) -> float | None:
    """FLOP/s that one device could do at best, or None when unknown."""
    if config.train.peak_tflops:
        return config.train.peak_tflops * 1e12
    return gpu_peak_flops(torch.cuda.get_device_name()) if torch.cuda.is_available() else None


@dataclass
class Meter:
    """Collects what happened since the last report."""

    run: BaseRun
    losses: dict[str, float] = field(default_factory=dict)
    steps: int = 0
    data_s: float = 0.0
    tokens: int = 0
    flops: float = 0.0
    since: float = field(default_factory=time.monotonic)

    def add(self, parts: dict[str, torch.Tensor], samples: int, tokens: int, weight: float) -> None:
        """Note a micro-batch. tokens: of one sample, all its views; weight: its share of the global batch."""
        for name, value in parts.items():
            self.losses[name] = self.losses.get(name, 0.0) + value.item() * weight
        self.tokens += samples * tokens
        self.flops += samples * self.run.flops(tokens) / self.run.config.train.sequence_parallel

    def report(self) -> dict[str, float]:
        """Numbers per step since the last report, losses averaged over ranks. Collective; starts anew."""
        elapsed, sharing = time.monotonic() - self.since, self.run.config.train.sequence_parallel
        losses = distributed.mean_over_ranks({f"loss/{k}": v / max(1, self.steps) for k, v in self.losses.items()})
        rates = {
            "time/step_s": elapsed / max(1, self.steps),
            "time/data_wait_share": self.data_s / elapsed,
            "speed/tokens_per_s": self.tokens * distributed.world_size() / sharing / elapsed,
            "speed/tflops_per_device": self.flops / elapsed / 1e12,
            "memory/peak_gib": peak_gib(distributed.device()),
        }
        peak = peak_flops(self.run.config)
        if peak:
            rates["speed/flop_utilisation"] = self.flops / elapsed / peak
        self.losses, self.steps, self.data_s, self.tokens, self.flops = {}, 0, 0.0, 0, 0.0
        self.since = time.monotonic()
        return losses | rates
