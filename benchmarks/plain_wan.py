"""Plain Wan2.1 side by side: DiffSynth's transformer and ours, same sizes, tokens and trained weights, by turns.

For `full_size.py`. Without what this project adds. Where ours is compiled, ours uncompiled takes part as well, because
DiffSynth's runs as its own pipelines run it: uncompiled, all of a block recomputed in the backward pass.
"""

import argparse
import statistics
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from fnmatch import fnmatch

import peer_diffsynth
import torch
from bench import called, held_gib
from torch import Tensor, nn

from mvtrack.config.model import DiTConfig
from mvtrack.config.training import TrainConfig
from mvtrack.models.activation_checkpointing import checkpointing_of
from mvtrack.models.conditioning import Conditioning
from mvtrack.models.dit import WanDiT

TRAINED = "blocks.*.self_attn.*"


@dataclass(frozen=True)
class Inputs:
    """latents: (B, c, V f, h, w), frames of all views one after the other."""

    latents: Tensor
    timestep: Tensor
    text: Tensor


@dataclass(frozen=True)
class PlainWan:
    """One side of the comparison."""

    run: Callable[[], Tensor]
    parameters: list[nn.Parameter]

    @torch.no_grad()
    def forward(self) -> None:
        self.run()

    def step(self) -> None:
        torch.autograd.grad(self.run().float().square().mean(), self.parameters)


def plain_figures(config: DiTConfig, options: argparse.Namespace, device: torch.device) -> dict[str, float]:
    """Seconds and peak memory (beyond weights and inputs) of a forward and a step of each, and ratios of seconds.

    options: frames, size, keep, attention, compile, rounds, plain_steps of full_size.py.
    """
    missing = peer_diffsynth.why_missing()
    if missing:
        sys.stdout.write(f"no comparison: {missing}\n")
        return {}
    plain = replace(
        config, in_channels=config.out_channels, pose_encoder=False, projector=False, control_adapter=False,
        rope_phases=False, image_dim=0, rope_frames="concat",
    )  # fmt: skip
    inputs = random_inputs(plain, options, device)
    models = {"ours": our_plain(plain, options, inputs, options.compile), "theirs": their_plain(plain, inputs)}
    if options.compile:
        models["ours, not compiled"] = our_plain(plain, options, inputs, compiled=False)
    figures = by_turns("forward", {name: model.forward for name, model in models.items()}, device, options.rounds)
    if options.plain_steps:
        figures |= by_turns("step", {name: model.step for name, model in models.items()}, device, options.rounds)
    return figures


def by_turns(what: str, works: dict[str, Callable[[], None]], device: torch.device, rounds: int) -> dict[str, float]:
    """Medians after a first round that is not counted."""
    seconds, peak = {name: [] for name in works}, dict.fromkeys(works, 0.0)
    for _ in range(rounds + 1):
        for name, work in works.items():
            held = held_gib(device)
            call = called(work, device)
            peak[name] = max(peak[name], call.peak_gib - held)
            seconds[name].append(call.seconds)
    median = {name: statistics.median(values[1:]) for name, values in seconds.items()}
    figures = {f"plain Wan, {name}: {what}, s": value for name, value in median.items()}
    figures |= {f"plain Wan, {name}: {what}, GiB beyond weights": value for name, value in peak.items()}
    ratios = {name.replace("ours", "plain Wan"): median[name] / median["theirs"] for name in works if name != "theirs"}
    return figures | {f"{name}: {what} / theirs": value for name, value in ratios.items()}


def random_inputs(config: DiTConfig, options: argparse.Namespace, device: torch.device) -> Inputs:
    frames, (height, width) = 1 + (options.frames - 1) // 4, options.size
    make = {"device": device, "dtype": torch.bfloat16}
    return Inputs(
        torch.randn(1, config.out_channels, 2 * frames, height // 8, width // 8, **make),
        torch.tensor([800.0], device=device),
        torch.randn(1, 512, config.text_dim, **make),
    )


def random_weights(dit: WanDiT, device: torch.device) -> WanDiT:
    """bfloat16 on the device at once; no float32 copy."""
    dit = dit.to(torch.bfloat16).to_empty(device=device)
    with torch.no_grad():
        for parameter in dit.parameters():
            parameter.normal_(std=0.02)
    return dit


def train_attention_only(dit: nn.Module) -> None:
    """Of either library's transformer."""
    for name, parameter in dit.named_parameters():
        parameter.requires_grad_(fnmatch(name, TRAINED))


def our_plain(config: DiTConfig, options: argparse.Namespace, inputs: Inputs, compiled: bool) -> PlainWan:
    with torch.device("meta"):
        empty = WanDiT(config)
    dit = random_weights(empty, inputs.latents.device)
    train_attention_only(dit)
    dit.checkpointing = checkpointing_of(TrainConfig(gradient_checkpointing=True, checkpoint_keep=options.keep))
    dit.attention = options.attention
    if compiled:
        dit.compile_blocks()
    views = inputs.latents.unflatten(2, (2, -1)).permute(0, 2, 3, 1, 4, 5)  # (B, c, V f, h, w) to (B, V, f, c, h, w)
    return PlainWan(
        lambda: dit(views, inputs.timestep, Conditioning(text=inputs.text, num_reference=0)).prediction,
        [p for p in dit.parameters() if p.requires_grad],
    )


def their_plain(config: DiTConfig, inputs: Inputs) -> PlainWan:
    device = inputs.latents.device
    with device if device.type == "cuda" else nullcontext():
        dit = peer_diffsynth.build(config).to(torch.bfloat16)
    train_attention_only(dit)
    dit.train()  # it recomputes blocks in training mode only
    given = inputs.latents, inputs.timestep.bfloat16(), inputs.text
    return PlainWan(
        lambda: peer_diffsynth.forward(dit, *given, torch.is_grad_enabled()),
        [p for p in dit.parameters() if p.requires_grad],
    )
