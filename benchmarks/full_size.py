"""`python benchmarks/full_size.py`: one full-size forward and training step of random weights in bfloat16.

480x832 pixels, two views, all losses, blocks recomputed, fp32 masters of what is trained. 81 frames on a GPU, 5 on a
CPU (`--frames`, `--layers`, `--size` change that): about eight minutes on two cores that do 1 TFLOP/s together. Peak
memory (weights included) beside doctor's estimate, what the tracking and the correspondence loss take of a step, on a
GPU the attention kernels one by one, and DiffSynth's transformer: the same plain Wan by turns (plain_wan.py), on a CPU
of 10 blocks. `--small` runs all of it in seconds.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace

import torch
from bench import called, held_gib, report
from plain_wan import plain_figures, random_weights
from torch import nn

from mvtrack.config.losses import LossConfig
from mvtrack.config.model import DiTConfig
from mvtrack.config.presets import PRESETS, training_preset
from mvtrack.config.run import RunConfig
from mvtrack.config.training import OptimConfig, TrainConfig
from mvtrack.correspondence.loss import correspondence_loss_per_layer
from mvtrack.correspondence.targets import CorrespondenceTargets
from mvtrack.geometry.camera import Camera, intrinsics_from_fov
from mvtrack.geometry.trajectory import CameraPath
from mvtrack.inference.machine import return_freed_memory
from mvtrack.inference.memory.transformer import InputShape, forward_bytes
from mvtrack.models.activation_checkpointing import checkpointing_of
from mvtrack.models.attention import attend, kernel_report
from mvtrack.models.conditioning import Window, encode_conditioning
from mvtrack.models.diffusion.flow import add_noise
from mvtrack.models.dit import WanDiT, empty_dit
from mvtrack.models.flops import forward_flops, training_flops
from mvtrack.models.prompts import Prompts
from mvtrack.training.activation_memory import training_bytes
from mvtrack.training.losses.base import TrainingBatch
from mvtrack.training.losses.tracking import TrackTargets
from mvtrack.training.objective import Objective
from mvtrack.training.optimizer import freeze
from mvtrack.training.telemetry import peak_flops
from tracking_head import HeadConfig, Tracks, track_loss

TRAINED = ("blocks.*.self_attn.*", "ray_encoder.*", "blocks.*.camera_proj.*", "tracking_head.*")
BRANCHES = {"pose_encoder": "blocks.*.cam_encoder.*", "projector": "blocks.*.projector.*"}
TEXT_TOKENS, IMAGE_TOKENS = 512, 257
ESTIMATES = 0.15  # that doctor may be off by
SHARES = {"tracking: share of a step": ("<=", 0.08), "correspondence: share of a step": ("<=", 0.05)}
H200 = {"forward, s": ("<=", 1.9), "step, s": ("<=", 8.5), "step: peak GiB": ("<=", 60)}


def main() -> int:
    options, began = parse(), time.perf_counter()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    run = run_config(options)
    foretold = foretold_gib(run, InputShape(tuple(options.size), options.frames), device.type)
    warm_up(device)
    held = held_gib(device)
    step = random_step(run, tuple(options.size), options.frames).to(device)
    dit = random_weights(empty_dit(run.model), device)
    freeze(dit, run.optim.trainable)
    dit.checkpointing, dit.attention = checkpointing_of(run.train), options.attention
    if options.compile:
        dit.compile_blocks()
    tokens = step.num_tokens(run.model.backbone.size_unit)
    kernel, figures = dit.attention_kernel(device, tokens), {"tokens": tokens}
    sys.stdout.write(
        f"{options.preset}, {device}, attention by {kernel}, {'compiled' if options.compile else 'eager'}\n"
    )
    sys.stdout.flush()
    figures |= our_figures(dit, step, run, options.rounds, held)
    for name, gib in foretold.items():
        figures |= {f"{name}: doctor's GiB": gib, f"{name}: doctor off by": abs(gib / figures[f"{name}: peak GiB"] - 1)}
    figures |= share_figures(dit, step, run, figures["step, s"])
    del dit, step
    if device.type == "cuda":
        figures |= kernel_figures(run.model.dit, figures["tokens"])
        torch.cuda.empty_cache()
    compared = replace(run.model.dit, num_layers=min(options.plain_layers, run.model.dit.num_layers))
    figures |= plain_figures(compared, options, device)
    figures["everything, s"] = time.perf_counter() - began
    return report(figures, {} if options.small else targets(figures, options, device))


def warm_up(device: torch.device) -> None:
    """A tiny step, so that the libraries' own pages are there before memory is measured."""
    if device.type == "cpu":
        return_freed_memory()  # as in training
    options = small(argparse.Namespace(preset="recammaster_1.3b", keep="attention"))
    run = run_config(options)
    step = random_step(run, options.size, options.frames).to(device)
    Objective(run)(random_weights(empty_dit(run.model), device), step)["total"].backward()


def small(options: argparse.Namespace) -> argparse.Namespace:
    options.size, options.frames, options.layers, options.rounds = (32, 48), 5, 2, 1
    options.plain_layers, options.small, options.plain_steps = 2, True, True
    return options


def targets(figures: dict[str, float], options: argparse.Namespace, device: torch.device) -> dict:
    """What is asked of the figures: DiffSynth's time and the estimates everywhere, seconds and shares of 81 frames on
    a GPU only."""
    limits = {name: ("<=", 1.0) for name in figures if name.endswith("/ theirs")}
    limits |= {name: ("<=", ESTIMATES) for name in figures if name.endswith("doctor off by")}
    limits["everything, s"] = ("<=", 600)
    if device.type == "cuda" and options.frames == 81:
        limits |= SHARES | (H200 if "H200" in torch.cuda.get_device_name() else {})
    return limits


def parse() -> argparse.Namespace:
    gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", choices=PRESETS, default="recammaster_1.3b")
    parser.add_argument("--frames", type=int, default=81 if gpu else 5, help="of the video, 4n + 1")
    parser.add_argument("--size", type=int, nargs=2, metavar=("H", "W"), default=(480, 832))
    parser.add_argument("--layers", type=int, help="blocks; all of them without it")
    parser.add_argument("--keep", choices=("attention", "nothing"), default="attention", help="by recomputed blocks")
    parser.add_argument("--attention", default="auto", help="kernel, see docs/backbones.md")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=gpu)
    rounds_help = "timed runs of each, after one that is not; on a CPU of the comparison only, else one"
    parser.add_argument("--rounds", type=int, default=2, help=rounds_help)
    parser.add_argument("--plain-layers", type=int, default=40 if gpu else 10, help="at most, of the comparison")
    steps = {"action": argparse.BooleanOptionalAction, "default": gpu}
    parser.add_argument("--plain-steps", **steps, help="compare training steps with DiffSynth's too, not forwards only")
    parser.add_argument("--small", action="store_true", help="tiny sizes, no targets")
    options = parser.parse_args()
    return small(options) if options.small else options


def run_config(options: argparse.Namespace) -> RunConfig:
    """The paper's recipe on a preset: all losses, self-attention and camera inputs trained."""
    model = training_preset(options.preset)
    dit, head = model.dit, HeadConfig()
    if options.small:
        head = replace(head, dim=32, heads=2, layers=1, correlation_hidden=16, correlation_dim=16, iterations=2)
        dit = replace(dit, dim=96, ffn_dim=160, num_heads=3, text_dim=40, freq_dim=32, image_dim=min(dit.image_dim, 16))
    dit = replace(dit, num_layers=options.layers or dit.num_layers)
    points = 16 if options.small else 256
    trained = TRAINED + tuple(pattern for name, pattern in BRANCHES.items() if getattr(dit, name))
    return RunConfig(
        model=replace(model, dit=dit, tap_layer=dit.num_layers * 3 // 5, tracking=head, sizes=(tuple(options.size),),
                      num_frames=options.frames),
        loss=LossConfig(
            correspondence=0.01, correspondence_targets="tracks", correspondence_queries=4 * points, tracking=0.01,
            tracking_points=points,
        ),
        optim=OptimConfig(lr=1e-4, trainable=trained),
        train=TrainConfig(precision="bf16", gradient_checkpointing=True, checkpoint_keep=options.keep),
    )  # fmt: skip


def random_step(run: RunConfig, size: tuple[int, int], num_frames: int) -> TrainingBatch:
    """One sample as the loss takes it: random latents, text and points, two real camera paths."""
    model, (height, width), frames = run.model, size, 1 + (num_frames - 1) // 4
    poses = torch.stack([CameraPath(name).poses(num_frames) for name in ("zoom_in", "arc_left")])[None].float()
    camera = Camera(poses, intrinsics_from_fov(60.0, size).expand(1, 2, num_frames, 3, 3), size)
    image = torch.randn(1, IMAGE_TOKENS, model.dit.image_dim) if model.dit.image_dim else None
    stride, token = model.codec.stride, model.rays.token_px
    latents = torch.randn(1, 2, frames, model.codec.channels, height // stride, width // stride)
    grid, count, queries = (height // token, width // token), run.loss.tracking_points, run.loss.correspondence_queries
    cells = grid[0] * grid[1]
    targets = CorrespondenceTargets(
        torch.randint(2 * frames * cells, (1, queries)), torch.randint(cells, (1, queries, 2, frames)),
        torch.ones(1, queries, 2, frames), grid,
    )  # fmt: skip
    xy = torch.rand(1, 2, frames, count, 2) * torch.tensor([width, height])
    seen, valid = torch.ones(1, 2, frames, count, dtype=torch.bool), torch.ones(1, 2, count, dtype=torch.bool)
    txy = torch.cat([torch.zeros(1, 2, count, 1), xy[:, :, 0]], -1)
    window = Window(camera, 4.0, Prompts(torch.randn(1, TEXT_TOKENS, model.dit.text_dim), image=image))
    return TrainingBatch(
        latents, torch.randn(latents.shape), torch.tensor([0.8]), encode_conditioning(model, window),
        {"correspondence": targets, "tracking": TrackTargets(txy, valid, Tracks(xy, seen, valid))},
    )  # fmt: skip


class Masters:
    """AdamW on float32 copies of the parameters that are trained."""

    def __init__(self, dit: nn.Module, config: OptimConfig) -> None:
        self.parameters = [p for p in dit.parameters() if p.requires_grad]
        self.masters = [p.detach().float().requires_grad_() for p in self.parameters]
        self.optimizer = torch.optim.AdamW(self.masters, lr=config.lr, fused=True)
        self.clip = config.grad_clip

    @torch.no_grad()
    def step(self) -> None:
        for master, parameter in zip(self.masters, self.parameters, strict=True):
            master.grad, parameter.grad = parameter.grad.float(), None
        nn.utils.clip_grad_norm_(self.masters, self.clip)
        self.optimizer.step()
        for master, parameter in zip(self.masters, self.parameters, strict=True):
            parameter.copy_(master)
            master.grad = None


def our_figures(dit: WanDiT, step: TrainingBatch, run: RunConfig, rounds: int, held: float) -> dict[str, float]:
    """held: GiB that were held before the model was there."""
    noisy = torch.cat([step.latents[:, :1], add_noise(step.latents, step.noise, step.sigma)[:, 1:]], 1)

    @torch.no_grad()
    def forward() -> None:
        dit(noisy, 1000 * step.sigma, step.conditioning)

    device, tokens = step.latents.device, step.num_tokens(run.model.backbone.size_unit)
    rounds = rounds if device.type == "cuda" else 1
    figures = measured("forward", forward, device, rounds, held)
    optimizer = Masters(dit, run.optim)

    def train() -> None:
        total = Objective(run)(dit, step)["total"]
        if not torch.isfinite(total):
            raise ValueError("the loss of random weights is not finite")
        total.backward()
        optimizer.step()

    figures |= measured("step", train, device, rounds, held)
    figures["parameters, millions"] = sum(p.numel() for p in dit.parameters()) / 1e6
    figures["trained, millions"] = sum(p.numel() for p in optimizer.parameters) / 1e6
    image_tokens = IMAGE_TOKENS if run.model.dit.image_dim else 0
    work = {
        "forward": forward_flops(run.model.dit, tokens, TEXT_TOKENS, image_tokens=image_tokens),
        "step": training_flops(run.model.dit, tokens, TEXT_TOKENS, checkpointing_of(run.train)),
    }
    for name, flops in work.items():
        figures[f"{name}, TFLOP/s"] = flops / figures[f"{name}, s"] / 1e12
        if peak_flops(run):
            figures[f"{name}: FLOP utilisation"] = flops / figures[f"{name}, s"] / peak_flops(run)
    return figures


def measured(
    name: str, work: Callable[[], None], device: torch.device, rounds: int, held: float = 0.0
) -> dict[str, float]:
    """Median seconds of one call, after one that is not counted, and peak memory beyond `held` GiB."""
    calls = [called(work, device) for _ in range(rounds + 1)]
    sys.stdout.write(f"{name}: {', '.join(f'{call.seconds:.4g} s' for call in calls)}\n")
    sys.stdout.flush()
    return {
        f"{name}, s": statistics.median(call.seconds for call in calls[1:]),
        f"{name}, first call, s": calls[0].seconds,
        f"{name}: peak GiB": max(call.peak_gib for call in calls) - held,
    }


def foretold_gib(run: RunConfig, scene: InputShape, device: str) -> dict[str, float]:
    """Doctor's estimates for a forward and a step here: of bfloat16 weights, AdamW on masters, activations.

    `Masters` stands in for DeepSpeed: no averages, and no gradients that wait for further micro-batches.
    """
    dit = empty_dit(run.model)
    freeze(dit, run.optim.trainable)
    weights = 2 * sum(p.numel() for p in dit.parameters())
    trained = sum(p.numel() for p in dit.parameters() if p.requires_grad)
    forward = forward_bytes(run.model, scene, torch.bfloat16)
    step = 12 * trained + max(training_bytes(run, scene, device), 4 * trained)  # activations, then float32 gradients
    return {"forward": (weights + forward) / 2**30, "step": (weights + step) / 2**30}


def share_figures(dit: WanDiT, step: TrainingBatch, run: RunConfig, step_s: float) -> dict[str, float]:
    """Forward and backward of each further loss alone, on random features of the tapped block, as shares of a step."""
    device, dit_config, frames = step.latents.device, run.model.dit, step.latents.shape[2]
    targets, track = step.targets["correspondence"], step.targets["tracking"]
    shape = (1, 2, frames, *targets.grid, dit_config.num_heads, dit_config.dim // dit_config.num_heads)
    q, k = (torch.randn(shape, device=device, dtype=torch.bfloat16, requires_grad=True) for _ in range(2))
    trained = (q, k, *dit.tracking_head.parameters())

    def follow() -> None:
        output = dit.tracking_head(q, k, track.txy, track.valid, run.model.rays.token_px)
        width_px = step.latents.shape[-1] * run.model.codec.stride
        total = track_loss(output, track.truth, width_px, run.loss.tracking_options).total
        torch.autograd.grad(total, trained)

    def correspond() -> None:
        loss = correspondence_loss_per_layer([(q, k)], targets, run.loss.correspondence_options).mean()
        torch.autograd.grad(loss, (q, k))

    figures = {}
    for name, work in {"tracking": follow, "correspondence": correspond}.items():
        seconds = measured(name, work, device, rounds=5 if device.type == "cuda" else 1)[f"{name}, s"]
        figures |= {f"{name}, s": seconds, f"{name}: share of a step": seconds / step_s}
    return figures


def kernel_figures(config: DiTConfig, tokens: int) -> dict[str, float]:
    """Seconds of one layer's attention, forward and with backward, by every kernel that works here."""
    device, figures, width = torch.device("cuda"), {}, config.dim // config.num_heads
    shape = (1, tokens, config.num_heads, width)
    for name, state in kernel_report(device, torch.bfloat16, width, training=False).items():
        sys.stdout.write(f"attention kernel {name}: {state}\n")
        if state != "works":
            continue
        q, k, v = (torch.randn(shape, device=device, dtype=torch.bfloat16, requires_grad=True) for _ in range(3))

        def forward(q=q, k=k, v=v, name=name) -> None:
            with torch.no_grad():
                attend(q, k, v, name)

        def both(q=q, k=k, v=v, name=name) -> None:
            torch.autograd.grad(attend(q, k, v, name).sum(), (q, k, v))

        works = {"attention": forward} if name == "sage" else {"attention": forward, "attention with backward": both}
        for what, work in works.items():
            figures[f"{name}: {what}, s"] = measured(f"{name}: {what}", work, device, 5)[f"{name}: {what}, s"]
    return figures


if __name__ == "__main__":
    sys.exit(main())
