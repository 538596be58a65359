"""`python benchmarks/quantization.py`: weights of 8 bits against bfloat16's: error, memory, time.

Error on the shipped model, trained weights and rendered cases of the pinned set: of each block's output in one pass
halfway through the noise (root mean square, relative to the values'), beside what bfloat16 alone does to it; and of
videos of 8 steps, PSNR to the unquantised model's and to the truth. Memory and time on blocks of Wan2.1-1.3B's widths
with random weights. Time has no target: it is the device's kernels'. 8-bit floats are multiplied (fp8_dynamic) on a
GPU alone. `--small`: one case and few steps, without targets.
"""

import argparse
import sys
from copy import deepcopy
from dataclasses import replace

import full_size
import torch
from bench import clock_of, report, timed_by_turns
from plain_wan import random_weights
from torch import Tensor

from mvtrack.config.data import DataConfig, LatentsConfig
from mvtrack.config.placement import Placement, Quantization
from mvtrack.config.presets import preset
from mvtrack.config.run import RunConfig
from mvtrack.data.clip import Clip
from mvtrack.data.synthetic.test_scenes import render_case
from mvtrack.evaluation.manifest import load_manifest
from mvtrack.inference.device import place
from mvtrack.inference.forward_noised import noised_videos
from mvtrack.inference.pipeline import shipped_model
from mvtrack.inference.quantization import bytes_of, quantize
from mvtrack.inference.sampler import SamplerOptions, generate
from mvtrack.metrics.image import psnr
from mvtrack.models.conditioning import Window
from mvtrack.models.dit import WanDiT, empty_dit
from mvtrack.models.reshoot_model import ReshootModel, load_model

MOST_LOST_DB, MOST_BYTES = 0.1, 0.55  # of the PSNR to the truth; of bfloat16's blocks


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--cases", type=int, default=4)
    parser.add_argument("--layers", type=int, default=2, help="of Wan2.1-1.3B's widths")
    parser.add_argument("--size", type=int, nargs=2, default=(240, 416), metavar=("H", "W"), help="for time")
    parser.add_argument("--small", action="store_true", help="one case, few steps, no targets")
    options = parser.parse_args()
    torch.set_num_threads(1)
    device = torch.device(options.device)
    kinds: list[Quantization] = ["int8", "fp8", "int8_dynamic"]
    if device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 9):
        kinds.append("fp8_dynamic")
    model = load_model(shipped_model())
    if options.small:
        model = replace(model, config=replace(model.config, num_frames=5))
    figures, lost = errors(model, kinds, device, 1 if options.small else options.cases, 2 if options.small else 8)
    size = (48, 80) if options.small else tuple(options.size)
    figures |= costs(kinds, device, 1 if options.small else options.layers, size)
    targets = {f"{kind}: bytes / bfloat16's": ("<=", MOST_BYTES) for kind in kinds}
    return report(figures, {} if options.small else targets | dict.fromkeys(lost, ("<=", MOST_LOST_DB)))


def errors(
    plain: ReshootModel, kinds: list[Quantization], device: torch.device, count: int, steps: int
) -> tuple[dict[str, float], list[str]]:
    """Against the model in float32. The second: figures that have a target."""
    size, frames = plain.config.sizes[0], plain.config.num_frames
    clips = [render_case(replace(spec, size=size, num_frames=frames)).clip for spec in load_manifest().rendered[:count]]
    whole = place(deepcopy(plain), Placement(str(device), "float32"))
    blocks, videos = block_outputs(whole, clips[0]), [video_of(whole, clip, steps) for clip in clips]
    truth = sum(psnr(video, clip.video[1]) for video, clip in zip(videos, clips, strict=True)) / count
    figures, lost = {"float32: PSNR to the truth, dB": truth}, []
    ways = {"bfloat16 alone": Placement(str(device), "bfloat16")}
    ways |= {kind: Placement(str(device), "float32", quantize=kind) for kind in kinds}
    for name, placement in ways.items():
        model = place(deepcopy(plain), placement)
        for layer, (found, right) in enumerate(zip(block_outputs(model, clips[0]), blocks, strict=True)):
            error = (found.float() - right).square().mean().sqrt() / right.square().mean().sqrt()
            figures[f"{name}: error of block {layer}"] = error.item()
        made = [video_of(model, clip, steps) for clip in clips]
        figures[f"{name}: PSNR to float32's video, dB"] = sum(map(psnr, made, videos)) / count
        lost.append(f"{name}: PSNR lost to the truth, dB")
        score = sum(psnr(video, clip.video[1]) for video, clip in zip(made, clips, strict=True)) / count
        figures[lost[-1]] = truth - score
    return figures, lost


def video_of(model: ReshootModel, clip: Clip, steps: int) -> Tensor:
    window = Window(clip.camera, clip.scene_depth)
    return generate(model, clip.video[0], window, SamplerOptions.of(model.config, steps)).cpu()


def block_outputs(model: ReshootModel, clip: Clip) -> list[Tensor]:
    found: list[Tensor] = []
    hooks = [block.register_forward_hook(lambda *a: found.append(a[2][0].cpu())) for block in model.dit.blocks]
    noised_videos(model, clip.video, Window(clip.camera, clip.scene_depth)).forward(model, 0.5)
    for hook in hooks:
        hook.remove()
    return found


def costs(kinds: list[Quantization], device: torch.device, layers: int, size: tuple[int, int]) -> dict[str, float]:
    """Of blocks as wide as Wan2.1-1.3B's: bytes of weights, and seconds of a pass, by turns."""
    config = preset("recammaster_1.3b")
    config = replace(config, dit=replace(config.dit, num_layers=layers), tap_layer=0, tracking=None)
    data = DataConfig(banks=(), latents=(LatentsConfig("none", size),), num_frames=5, mirror=False, palette=False)
    step = full_size.random_step(RunConfig(model=config, data=data), size, 5)
    latents, conditioning = step.latents.to(device, torch.bfloat16), step.conditioning.to(device)
    networks: dict[str, WanDiT] = {"bfloat16": random_weights(empty_dit(config), device).eval()}
    for kind in kinds:
        networks[kind] = deepcopy(networks["bfloat16"])
        quantize(networks[kind].blocks, kind, device)

    def run(dit: WanDiT) -> Tensor:
        with torch.no_grad():
            return dit(latents, 1000 * step.sigma.to(device), conditioning).prediction

    functions = {name: lambda dit=dit: run(dit) for name, dit in networks.items()}
    seconds = timed_by_turns(functions, 5 if device.type == "cuda" else 2, clock_of(device.type))
    figures = {}
    for name in kinds:
        figures[f"{name}: bytes / bfloat16's"] = block_bytes(networks[name]) / block_bytes(networks["bfloat16"])
        figures[f"{name}: time / bfloat16's"] = seconds[name] / seconds["bfloat16"]
    return figures


def block_bytes(dit: WanDiT) -> int:
    return sum(map(bytes_of, dit.blocks.parameters()))


if __name__ == "__main__":
    sys.exit(main())
