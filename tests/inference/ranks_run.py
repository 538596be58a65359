"""Run by test_ranks.py: passes of one process, and of as many as are asked for, as JSON.

usage: ranks_run.py COUNT same | killed | windows | VAE_FILE
"""

import json
import os
import signal
import sys
from dataclasses import replace

import torch
import torch.distributed as dist

from mvtrack.config.encoders import CodecConfig
from mvtrack.config.model import DiTConfig, FlowConfig, ModelConfig, RayConfig
from mvtrack.config.placement import Placement
from mvtrack.geometry.camera import Camera, intrinsics_from_fov
from mvtrack.inference.device import place
from mvtrack.inference.sampler import Callbacks, LongVideo, SamplerOptions, denoise, generate_stream
from mvtrack.models.conditioning import Conditioning
from mvtrack.models.dit import WanDiT
from mvtrack.models.pca_codec import build_codec
from mvtrack.models.prompts import Prompts
from mvtrack.models.reshoot_model import ReshootModel, build_model
from mvtrack.models.sequence_parallel import exchanged_bytes

V, F, C, H, W = 2, 3, 7, 4, 6
DIT = DiTConfig(
    dim=72, ffn_dim=29, num_heads=6, num_layers=3, patch_size=(1, 1, 1), in_channels=C, out_channels=C, text_dim=11,
    freq_dim=10, rope_frames="shared", role_embedding=True,
)  # fmt: skip
VARIANTS = {
    "plain": {},
    "factorised": {"attention": "factorised"},
    "own references": {"reference_attention": "own"},
    "recammaster": {"pose_encoder": True, "projector": True, "rope_frames": "concat"},
}


def built(variant: str) -> ReshootModel:
    config = ModelConfig(
        dit=replace(DIT, **VARIANTS[variant]), rays=RayConfig(token_px=4, stride=2), sizes=((4 * H, 4 * W),),
        codec=CodecConfig(kind="pca", channels=C, stride=4), num_frames=9, tap_layer=1, flow=FlowConfig(shift=3.0),
    )  # fmt: skip
    model = build_model(config)
    generator = torch.Generator().manual_seed(1)
    for parameter in model.dit.parameters():
        torch.nn.init.normal_(parameter, std=0.1, generator=generator)
    return model


def conditioning(dit: WanDiT) -> Conditioning:
    g = torch.Generator().manual_seed(2)
    rays = torch.randn(1, V, F, RayConfig(token_px=4, stride=2).channels, 2 * H, 2 * W, generator=g)
    text, negative = torch.randn(2, 1, 13, 11, generator=g)
    poses = torch.randn(1, V, F, 12, generator=g) if dit.config.pose_encoder else None
    by_mask = dit.config.attention == "factorised"  # in one variant the reference is named by a mask
    reference = torch.arange(V)[None, :, None].expand(1, V, F) == 0 if by_mask else None
    return Conditioning(rays, text, poses, reference=reference, negative_text=negative)


def sampled(model: ReshootModel, guidance: float) -> torch.Tensor:
    g = torch.Generator().manual_seed(3)
    clean, noise = torch.randn(2, 1, 1, F, C, H, W, generator=g)

    def both(x: torch.Tensor) -> torch.Tensor:
        return torch.cat([clean.expand(len(x), *clean.shape[1:]), x], 1)

    return denoise(model, noise, both, conditioning(model.dit), SamplerOptions(3, guidance))


class Sent:
    """Bytes that this process sends to others in exchanges of tokens."""

    def __init__(self) -> None:
        self.bytes = 0
        self._exchange, self._gather = dist.all_to_all_single, dist.all_gather
        dist.all_to_all_single, dist.all_gather = self.exchange, self.gather

    def exchange(self, received, parts, group=None):
        count = dist.get_world_size(group)
        self.bytes += parts.numel() * parts.itemsize * (count - 1) // count
        return self._exchange(received, parts, group=group)

    def gather(self, parts, x, group=None):
        self.bytes += x.numel() * x.itemsize * (len(parts) - 1)
        return self._gather(parts, x, group=group)


def windows(count: int) -> dict[str, object]:
    """A video of five windows, each with a caption of its own: how far shared windows are from one process's, and what
    callbacks are told."""
    frames, size, generator = 30, (4 * H, 4 * W), torch.Generator().manual_seed(7)
    reference = torch.rand(frames, 3, *size, generator=generator) * 2 - 1
    poses = torch.eye(4).repeat(2, frames, 1, 1)
    poses[1, :, 0, 3] = torch.linspace(0, 1, frames)
    camera = Camera(poses, intrinsics_from_fov(60.0, size).expand(2, frames, 3, 3), size)
    spans = [(start, start + 9) for start in (0, 6, 11, 17, 21)]
    prompts = [Prompts(*torch.randn(2, 13, 11, generator=generator)) for _ in spans]
    video = replace(LongVideo.in_memory(reference, camera, 4.0), prompts=prompts, spans=spans)
    made = []
    for gpus in (1, count):
        model = built("plain")
        model.codec.fit([reference[None, :29]], 0.5)
        model = place(model, Placement("cpu", gpus=gpus, share="windows" if gpus > 1 else "passes"))
        steps, latents, sample = [], {}, SamplerOptions(4, 2.5, cache=0.01)
        told = Callbacks(lambda steps=steps: steps.append(1), latents.__setitem__)
        pieces = torch.cat(list(generate_stream(model, video, sample, callbacks=told)))
        made.append((pieces, len(steps), torch.stack([latents[i] for i in range(len(spans))])))
    (alone, steps, kept), (shared, steps_too, kept_too) = made
    return {
        "frames": (alone - shared).abs().max().item(), "latents": (kept - kept_too).abs().max().item(),
        "steps": [steps, steps_too], "spread": alone.std().item(),
    }  # fmt: skip


def tiles(count: int, vae: str) -> dict[str, float]:
    """How far latents and pictures of shared tiles differ from one process's; and that tiles were shared."""
    settings = CodecConfig(kind="wan_vae", channels=16, stride=8, weights=vae)
    config = ModelConfig(
        dit=replace(DIT, in_channels=16, out_channels=16), rays=RayConfig(token_px=8, stride=4), sizes=((32, 40),),
        codec=settings, num_frames=5, tap_layer=1,
    )  # fmt: skip
    video = torch.rand(1, 1, 5, 3, 32, 40, generator=torch.Generator().manual_seed(5)) * 2 - 1
    small = replace(settings, tile=(3, 2), tile_stride=(2, 1))  # 2 x 4 tiles, which 3 do not divide
    found = []
    for gpus in (1, count):
        model = place(build_model(config), Placement("cpu", gpus=gpus))
        model.codec.config = small
        latents = model.encode(video)
        found.append((latents, model.decode(latents)))
    (alone, picture), (shared, together) = found
    whole = build_codec(settings).decode(alone)
    return {
        "latents": (alone - shared).abs().max().item(), "pictures": (picture - together).abs().max().item(),
        "whole": (picture - whole).abs().max().item(),
    }  # fmt: skip


def main() -> None:
    count, out = int(sys.argv[1]), {}
    if sys.argv[2] not in ("same", "killed"):
        found = windows(count) if sys.argv[2] == "windows" else tiles(count, sys.argv[2])
        sys.stdout.write(json.dumps(found) + "\n")
        return
    many = VARIANTS if count == 2 else ("plain", "own references")
    for variant in many if sys.argv[2] == "same" else ("plain",):
        alone = place(built(variant), Placement("cpu"))
        wanted = {guidance: sampled(alone, guidance) for guidance in (1.0, 2.5)}
        shared = place(built(variant), Placement("cpu", gpus=count))
        if sys.argv[2] == "killed":
            os.kill(shared.passes._workers[0].pid, signal.SIGKILL)
        if DIT.num_heads % count:
            wanted.pop(1.0)
            try:
                sampled(shared, 1.0)
            except ValueError as error:
                out["without guidance"] = str(error)
        for guidance, expected in wanted.items():
            sent, made = Sent(), sampled(shared, guidance)
            out[f"{variant}, guidance {guidance:g}"] = (made - expected).abs().max().item()
            if variant == "plain" and guidance == 1:
                tokens = V * F * H * W
                out["sent"] = sent.bytes
                out["foretold"] = 3 * exchanged_bytes(DIT.dim, DIT.num_layers, tokens, C, count, 4)
        if variant == "own references" and count == 2:  # as float32 weights are used on a GPU
            with torch.autocast("cpu", torch.bfloat16):
                out["rounded"] = (sampled(shared, 1.0) - sampled(alone, 1.0)).abs().max().item()
        out[f"{variant}, scale"] = wanted[2.5].abs().max().item()
    sys.stdout.write(json.dumps(out) + "\n")


if __name__ == "__main__":
    main()
