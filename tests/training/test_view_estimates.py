"""What doctor foretells of training over still views at 512 pixels, against real steps at small sizes, extrapolated."""

from functools import lru_cache

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from mvtrack.config.backbones import HunyuanConfig, UNetConfig
from mvtrack.config.data import DataConfig, LatentsConfig
from mvtrack.config.encoders import CodecConfig
from mvtrack.config.losses import CorrespondenceLossConfig, LossConfig
from mvtrack.config.model import DiTConfig, ModelConfig, RayConfig
from mvtrack.config.run import RunConfig
from mvtrack.config.training import TrainConfig
from mvtrack.config.views import ViewsConfig
from mvtrack.data.loader import Batch
from mvtrack.geometry.camera import Camera
from mvtrack.inference.memory.memory_tracker import MemoryCounter
from mvtrack.models.reshoot_model import build_model
from mvtrack.training.memory import estimate_training
from mvtrack.training.objective import Objective

# Of the transformer those where the correspondence loss goes in chunks, as at 512: where all of its rows fit at once it
# keeps them, and memory is no straight line of the pixels.
SIDES, FULL, COUNT = {"cat3d": (64, 128, 192), "hunyuan": (64, 128, 192), "dit": (256, 320, 384)}, 512, 2
BACKBONES = {
    "cat3d": {"cat3d": UNetConfig((32, 32, 64, 64), (1, 1, 2, 2), 1, 8)},
    "hunyuan": {"hunyuan": HunyuanConfig(6, 2, 32, text_dims=(8, 8), text_lengths=(2, 2))},
    "dit": {"dit": DiTConfig(96, 384, 2, 6, in_channels=4, out_channels=4, text_dim=0, rope_frames="by_view")},
}  # fmt: skip
ATTENTION = {  # on a CPU, which PyTorch's counter does not know; what kernels compute twice is not foretold
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: (
        lambda _out, q, k, v, *_, **__: 2 * sdpa_flop_count(q, k, v)
    ),
}


def run_of(kind: str, side: int, recompute: bool) -> RunConfig:
    common = {
        "dit": None, "codec": CodecConfig(channels=4, stride=8), "views": ViewsConfig(COUNT, (1,)), "tap_layer": 3,
        "logit_heads": (3,), "sizes": ((side, side),), "num_frames": 1,
    }  # fmt: skip
    model = ModelConfig(**(common | BACKBONES[kind] | ({"rays": RayConfig(kernel_size=1)} if kind == "dit" else {})))
    options = CorrespondenceLossConfig(heads="mlp", exclude="own_view", reduction="ref_plus_tgt")
    loss = LossConfig(
        0.02, correspondence_targets="points", correspondence_queries=None, correspondence_options=options
    )
    data = DataConfig((), (LatentsConfig("none", (side, side)),), 1, mirror=False, palette=False)
    train = TrainConfig(gradient_checkpointing=recompute, init_from="none")
    return RunConfig(model=model, data=data, loss=loss, train=train)


@lru_cache
def measured(kind: str, side: int, recompute: bool) -> tuple[int, float]:
    """Bytes at the peak of a real step's forward and backward, and its FLOP."""
    run = run_of(kind, side, recompute)
    model = build_model(run.model)
    model.dit.train()
    g = torch.Generator().manual_seed(3)
    K = torch.tensor([[side, 0, side / 2], [0, side, side / 2], [0, 0, 1.0]]).expand(1, COUNT, 1, 3, 3)
    c2w = torch.eye(4).repeat(1, COUNT, 1, 1, 1)
    c2w[:, 1:, :, 0, 3] = 0.2
    latents = torch.randn(1, COUNT, 1, 4, side // 8, side // 8, generator=g)
    depth = 2 + torch.rand(1, COUNT, 1, side, side, generator=g)
    batch = Batch(Camera(c2w, K.clone(), (side, side)), None, torch.tensor([0]), ("scene",), latents=latents,
                  depth=depth, domains=("",))  # fmt: skip
    if run.model.dit:
        model.dit.checkpointing = None
    else:
        model.dit.recompute(recompute)
    step = Objective(run).prepare(batch, model.codec)
    counter = MemoryCounter()
    counter.ignore([*model.dit.parameters(), step.latents, step.noise, step.conditioning.rays])
    with FlopCounterMode(display=False, custom_mapping=ATTENTION) as flops, counter:
        Objective(run)(model.dit, step)["total"].backward()
    return counter.peak, float(flops.get_total_flops())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "recompute"), [("cat3d", False), ("cat3d", True), ("hunyuan", False), ("hunyuan", True), ("dit", False)]
)
def test_memory_and_work_at_512_pixels_extrapolate_from_real_steps(kind, recompute):
    estimate = estimate_training(run_of(kind, FULL, recompute), device="cpu")
    scale = [(side / FULL) ** 2 for side in SIDES[kind]]
    memory, flops = zip(*(measured(kind, side, recompute) for side in SIDES[kind]), strict=True)
    slope, offset = np.polyfit(scale, memory, 1)
    assert estimate.work == pytest.approx(slope + offset, rel=0.15)
    assert estimate.flops == pytest.approx(np.polyval(np.polyfit(scale, flops, 2), 1.0), rel=0.15)
    small = estimate_training(run_of(kind, SIDES[kind][1], recompute), device="cpu")
    assert small.work == pytest.approx(memory[1], rel=0.15 if recompute else 0.04)


@pytest.mark.parametrize("side", [128, 256])  # all rows of the loss at once, and chunks that are computed twice
def test_memory_of_the_loss_with_an_mlp_equals_a_real_step(side):
    assert estimate_training(run_of("dit", side, False), device="cpu").work == pytest.approx(
        measured("dit", side, False)[0], rel=0.04
    )
