"""`python benchmarks/full_size.py`: one full-size forward and training step of random weights in bfloat16.

480x832 pixels, two views, all losses, blocks recomputed, fp32 masters of what is trained. 81 frames on a GPU, 5 on a
CPU (`--frames`, `--layers`, `--size` change that). On a GPU also the attention kernels one by one, and DiffSynth's
transformer where it can be imported: the same plain Wan, forward and backward. `--small` runs all of it in seconds.
"""

import argparse
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace

import peer_diffsynth
import torch
from bench import peak_mib, report
from torch import Tensor, nn

from mvtrack.backbone.attention import attend, kernel_report
from mvtrack.backbone.checkpointing import checkpointing_of
from mvtrack.backbone.dit import WanDiT
from mvtrack.backbone.flops import forward_flops, training_flops
from mvtrack.backbone.initialise import empty_dit
from mvtrack.backbone.model import model_cameras
from mvtrack.backbone.native_cameras import native_inputs
from mvtrack.backbone.presets import PRESETS, training_preset
from mvtrack.backbone.ray_encoder import ray_maps
from mvtrack.camera import Camera, intrinsics_from_fov
from mvtrack.config import DiTConfig, LossConfig, OptimConfig, RunConfig, TrainConfig
from mvtrack.correspondence.targets import CorrespondenceTargets
from mvtrack.diffusion.flow import add_noise
from mvtrack.training.objective import Prepared, losses
from mvtrack.training.observe import peak_flops
from mvtrack.training.optimizer import freeze
from mvtrack.training.track_task import TrackTask
from mvtrack.trajectory import CameraPath
from tracking_head import HeadConfig, Tracks

TRAINED = ("blocks.*.self_attn.*", "ray_encoder.*", "blocks.*.camera_proj.*", "tracking_head.*")
BRANCHES = {"pose_encoder": "blocks.*.cam_encoder.*", "projector": "blocks.*.projector.*"}
TEXT_TOKENS, IMAGE_TOKENS = 512, 257
H200 = {"forward, s": ("<=", 1.9), "step, s": ("<=", 8.5), "step: peak GiB": ("<=", 60)}


def main() -> int:
    options = parse()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    run = run_config(options)
    step = random_step(run, tuple(options.size), options.frames).to(device)
    dit = random_weights(empty_dit(run.model), device)
    freeze(dit, run.optim.trainable)
    dit.checkpointing, dit.attention = checkpointing_of(run.train), options.attention
    if options.compile:
        dit.compile_blocks()
    kernel, figures = dit.attention_kernel(device, step.num_tokens(run)), {"tokens": step.num_tokens(run)}
    sys.stdout.write(
        f"{options.preset}, {device}, attention by {kernel}, {'compiled' if options.compile else 'eager'}\n"
    )
    figures |= our_figures(dit, step, run, options.rounds)
    del dit, step
    if device.type == "cuda":
        figures |= kernel_figures(run.model.dit, figures["tokens"])
    figures |= peer_figures(run.model.dit, options, device)
    on_h200 = device.type == "cuda" and "H200" in torch.cuda.get_device_name() and not options.small
    targets = dict(H200) if on_h200 and options.frames == 81 else {}
    if on_h200 and "plain Wan: forward / theirs" in figures:
        targets |= {"plain Wan: forward / theirs": ("<=", 1.0), "plain Wan: step / theirs": ("<=", 1.0)}
    return report(figures, targets)


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
    parser.add_argument("--rounds", type=int, default=2, help="timed forwards and steps, after one that is not")
    parser.add_argument("--small", action="store_true", help="tiny sizes, no targets")
    options = parser.parse_args()
    if options.small:
        options.size, options.frames, options.layers, options.rounds = (32, 48), 5, 2, 1
    return options


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
        model=replace(model, dit=dit, tap_layer=dit.num_layers * 3 // 5, tracking=head, sizes=(tuple(options.size),)),
        loss=LossConfig(
            correspondence=0.01, correspondence_targets="tracks", correspondence_queries=4 * points, tracking=0.01,
            tracking_points=points,
        ),
        optim=OptimConfig(lr=1e-4, trainable=trained),
        train=TrainConfig(precision="bf16", gradient_checkpointing=True, checkpoint_keep=options.keep),
    )  # fmt: skip


def random_step(run: RunConfig, size: tuple[int, int], num_frames: int) -> Prepared:
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
    return Prepared(
        latents, torch.randn(latents.shape), torch.tensor([0.8]),
        ray_maps(model_cameras(camera, model.rays, scene_depth=4.0)[0], model.rays),
        targets, TrackTask(txy, valid, Tracks(xy, seen, valid)),
        native=native_inputs(camera, model.dit, model.native_camera, image),
        text=torch.randn(1, TEXT_TOKENS, model.dit.text_dim),
    )  # fmt: skip


def random_weights(dit: WanDiT, device: torch.device) -> WanDiT:
    """bfloat16 on the device at once; no float32 copy."""
    dit = dit.to(torch.bfloat16).to_empty(device=device)
    with torch.no_grad():
        for parameter in dit.parameters():
            parameter.normal_(std=0.02)
    return dit


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


def our_figures(dit: WanDiT, step: Prepared, run: RunConfig, rounds: int) -> dict[str, float]:
    noisy = torch.cat([step.latents[:, :1], add_noise(step.latents, step.noise, step.sigma)[:, 1:]], 1)

    @torch.no_grad()
    def forward() -> None:
        dit(noisy, 1000 * step.sigma, step.rays, step.text, native=step.native)

    optimizer = Masters(dit, run.optim)

    def train() -> None:
        total = losses(dit, step, run)["total"]
        if not torch.isfinite(total):
            raise ValueError("the loss of random weights is not finite")
        total.backward()
        optimizer.step()

    device, tokens = step.latents.device, step.num_tokens(run)
    figures = measured("forward", forward, device, rounds) | measured("step", train, device, rounds)
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


def measured(name: str, work: Callable[[], None], device: torch.device, rounds: int) -> dict[str, float]:
    """Median seconds and peak memory (of the GPU; or of the process, beyond what it held before) of one call."""
    seconds = []

    def timed() -> None:
        for _ in range(rounds + 1):
            began = time.perf_counter()
            work()
            synchronise(device)
            seconds.append(time.perf_counter() - began)

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        timed()
        gib = torch.cuda.max_memory_allocated() / 2**30
    else:
        gib = peak_mib(timed) / 1024
    return {
        f"{name}, s": sorted(seconds[1:])[rounds // 2],
        f"{name}, first call, s": seconds[0],
        f"{name}: peak GiB": gib,
    }


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


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

        figures[f"{name}: attention, s"] = measured("x", forward, device, 5)["x, s"]
        if name != "sage":
            figures[f"{name}: attention with backward, s"] = measured("x", both, device, 5)["x, s"]
    return figures


@dataclass
class PlainWan:
    """The released transformer without our parts, for either side of the comparison."""

    run: Callable[[], Tensor]
    parameters: list[nn.Parameter]

    def train(self) -> None:
        torch.autograd.grad(self.run().float().square().mean(), self.parameters)


def peer_figures(config: DiTConfig, options: argparse.Namespace, device: torch.device) -> dict[str, float]:
    """DiffSynth's transformer and ours, both plain Wan2.1 on the same tokens, self-attention trained."""
    missing = peer_diffsynth.why_missing()
    if missing:
        sys.stdout.write(f"no comparison: {missing}\n")
        return {}
    plain = replace(
        config, in_channels=config.out_channels, pose_encoder=False, projector=False, control_adapter=False,
        rope_phases=False, image_dim=0, rope_frames="concat",
    )  # fmt: skip
    frames, (height, width) = 1 + (options.frames - 1) // 4, options.size
    make = {"device": device, "dtype": torch.bfloat16}
    latents = torch.randn(1, plain.out_channels, 2 * frames, height // 8, width // 8, **make)
    text, timestep = torch.randn(1, TEXT_TOKENS, plain.text_dim, **make), torch.tensor([800.0], device=device)
    figures = {}
    for name, build in {"ours": our_plain, "theirs": their_plain}.items():
        model = build(plain, options, device, latents, timestep, text)
        no_grad = torch.no_grad()(model.run)
        for what, work in {"forward": no_grad, "step": model.train}.items():
            figures |= measured(f"plain Wan, {name}: {what}", work, device, options.rounds)
        del model, no_grad
        if device.type == "cuda":
            torch.cuda.empty_cache()
    for what in ("forward", "step"):
        ours, theirs = (figures[f"plain Wan, {name}: {what}, s"] for name in ("ours", "theirs"))
        figures[f"plain Wan: {what} / theirs"] = ours / theirs
    return figures


def our_plain(
    config: DiTConfig, options: argparse.Namespace, device: torch.device, latents: Tensor, time: Tensor, text: Tensor
) -> PlainWan:
    with torch.device("meta"):
        empty = WanDiT(config)
    dit = random_weights(empty, device)
    freeze(dit, ("blocks.*.self_attn.*",))
    dit.checkpointing = checkpointing_of(TrainConfig(gradient_checkpointing=True, checkpoint_keep=options.keep))
    dit.attention = options.attention
    if options.compile:
        dit.compile_blocks()
    views = latents.unflatten(2, (2, -1)).permute(0, 2, 3, 1, 4, 5)  # (B, c, V f, h, w) to (B, V, f, c, h, w)
    run = lambda: dit(views, time, text=text, num_reference=0).prediction  # noqa: E731
    return PlainWan(run, [p for p in dit.parameters() if p.requires_grad])


def their_plain(
    config: DiTConfig, options: argparse.Namespace, device: torch.device, latents: Tensor, time: Tensor, text: Tensor
) -> PlainWan:
    with device if device.type == "cuda" else nullcontext():
        dit = peer_diffsynth.build(config).to(torch.bfloat16)
    freeze(dit, ("blocks.*.self_attn.*",))
    dit.train()  # it recomputes blocks in training mode only
    run = lambda: peer_diffsynth.forward(dit, latents, time.bfloat16(), text, torch.is_grad_enabled())  # noqa: E731
    return PlainWan(run, [p for p in dit.parameters() if p.requires_grad])


if __name__ == "__main__":
    sys.exit(main())
