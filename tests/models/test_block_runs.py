"""What a recomputed block keeps, and compiled blocks."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mvtrack.config.encoders import CodecConfig
from mvtrack.config.model import DiTConfig, ModelConfig, RayConfig
from mvtrack.config.run import RunConfig
from mvtrack.config.training import TrainConfig
from mvtrack.models import attention
from mvtrack.models.activation_checkpointing import Checkpointing, keeps_attention
from mvtrack.models.conditioning import Conditioning
from mvtrack.models.dit import WanDiT
from mvtrack.training.engine import warn_if_nothing_is_kept

LAYERS, TOKENS = 3, 2 * 3 * 2 * 3
CONFIG = DiTConfig(
    dim=24, ffn_dim=28, num_heads=2, num_layers=LAYERS, in_channels=5, out_channels=5, text_dim=11, freq_dim=10,
)  # fmt: skip


def model() -> WanDiT:
    torch.manual_seed(0)
    dit = WanDiT(CONFIG, RayConfig(token_px=4, stride=2))
    for parameter in dit.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return dit


def inputs():
    g = torch.Generator().manual_seed(1)
    latents = torch.randn(2, 2, 3, 5, 4, 6, generator=g)
    rays = torch.randn(2, 2, 3, 24, 4, 6, generator=g)
    return latents, torch.tensor([300.0, 700.0]), Conditioning(rays, torch.randn(2, 7, 11, generator=g))


class AttentionCounter(TorchDispatchMode):
    """Counts attention kernels by the number of keys."""

    def __init__(self):
        super().__init__()
        self.forward, self.backward = {}, {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = str(function)
        if "scaled_dot_product" in name:
            counts, keys = (self.backward, args[2]) if "backward" in name else (self.forward, args[1])
            counts[keys.shape[2]] = counts.get(keys.shape[2], 0) + 1
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("checkpointing", "self_runs", "cross_runs"),
    [
        (None, LAYERS, LAYERS),
        (Checkpointing(), 2 * LAYERS, 2 * LAYERS),
        (Checkpointing(blocks=1), LAYERS + 1, LAYERS + 1),
        (Checkpointing(keep="attention"), LAYERS, 2 * LAYERS),
        (Checkpointing(blocks=2, keep="attention"), LAYERS, LAYERS + 2),
    ],
)
def test_checkpointing_recomputes_what_it_says(checkpointing, self_runs, cross_runs):
    dit = model()
    dit.checkpointing = checkpointing
    dit(*inputs())  # tries the attention kernel
    with AttentionCounter() as count:
        dit(*inputs()).prediction.square().mean().backward()
    assert count.forward == {TOKENS: self_runs, 7: cross_runs}
    assert count.backward == {TOKENS: LAYERS, 7: LAYERS}


@pytest.mark.gpu
@pytest.mark.parametrize("kernel", ["cudnn", "flash", "efficient"])
def test_gpu_kernels_keep_attention(kernel):
    config = replace(CONFIG, dim=32)  # heads of 16
    dit = WanDiT(config, RayConfig(token_px=4, stride=2)).to("cuda", torch.bfloat16)
    dit.checkpointing, dit.attention = Checkpointing(keep="attention"), kernel
    reason = attention.why_not(kernel, torch.device("cuda"), torch.bfloat16, 16, training=True)
    if reason:
        pytest.skip(f"{kernel}: {reason}")
    given = [x.to("cuda") for x in inputs()]
    dit(*given)
    with AttentionCounter() as count:
        dit(*given).prediction.float().square().mean().backward()
    assert count.forward == {TOKENS: LAYERS, 7: 2 * LAYERS}
    assert keeps_attention(kernel, torch.empty(1, 36, 2, 16, dtype=torch.bfloat16, device="cuda"))


def kept_bytes(checkpointing) -> int:
    """Bytes that the graph holds between forward and backward, parameters and inputs left out."""
    dit, given = model(), inputs()
    dit.checkpointing = checkpointing
    own = {p.untyped_storage().data_ptr() for p in [*dit.parameters(), *given[:2], *given[2][:2]]}
    held = {}

    def pack(x):
        if x.untyped_storage().data_ptr() not in own:
            held[x.untyped_storage().data_ptr()] = x
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        dit(*given).prediction.sum()
    return sum(x.untyped_storage().nbytes() for x in held.values())


def test_checkpointing_lowers_saved_bytes():
    everything, half, nothing = (kept_bytes(c) for c in (None, Checkpointing(blocks=2), Checkpointing()))
    assert everything > 1.5 * half
    assert half > 1.5 * nothing


@pytest.mark.parametrize(
    ("kernel", "dtype"),
    [("cpu", torch.float32), ("flash", torch.bfloat16), ("cpu", torch.bfloat16), ("plain", torch.float32)],
)
def test_kernels_of_torch_keep_attention(kernel, dtype):
    assert keeps_attention(kernel, torch.empty(1, 36, 2, 12, dtype=dtype, device="meta"))


@pytest.fixture
def package_without_operator(monkeypatch):
    """A stand-in for FlashAttention 2 that registers no operator with PyTorch."""
    package = SimpleNamespace(flash_attn_func=lambda q, k, v: v * 1.0)
    monkeypatch.setattr(attention, "import_module", lambda name: {"flash_attn": package}[name])


def test_kernel_without_torch_operator_cannot_be_kept(package_without_operator):
    assert not keeps_attention("flash_attn_2", torch.empty(1, 36, 2, 12, dtype=torch.bfloat16, device="meta"))


@pytest.mark.parametrize(("kernel", "keep", "warned"), [
    ("flash_attn_2", "attention", True), ("cpu", "attention", False), ("flash_attn_2", "nothing", False),
])  # fmt: skip
def test_unkept_attention_warns_once(package_without_operator, caplog, kernel, keep, warned):
    train = TrainConfig(precision="bf16", gradient_checkpointing=True, checkpoint_keep=keep)
    codec = CodecConfig(kind="wan_vae", channels=16, stride=8, weights="nowhere")
    warn_if_nothing_is_kept(RunConfig(model=ModelConfig(codec=codec), train=train), kernel)
    assert [record.getMessage().split(":")[0] for record in caplog.records] == ["train.checkpoint_keep"] * warned


@pytest.mark.slow
def test_compiled_blocks_equal_eager():
    """In a process of its own: the shape checks of the tests cannot be compiled."""
    worker = Path(__file__).with_name("compile_worker.py")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    run = subprocess.run([sys.executable, worker], env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-2000:]
    found = json.loads(run.stdout.splitlines()[-1])
    assert max(found["differences"].values()) < 1e-4
    made, needed = found["graphs"]
    assert made == needed == 18  # more than PyTorch's limit, and none is made twice
    # self and cross once; both again; only the cross one again
    assert found["attention_runs"] == {"None": 2 * LAYERS, "nothing": 4 * LAYERS, "attention": 3 * LAYERS}
