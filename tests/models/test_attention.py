"""The choice of attention kernels, and every kernel that runs here against plain softmax."""

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

import pytest
import torch

from mvtrack.config.model import DiTConfig
from mvtrack.models import attention, blocked_attention
from mvtrack.models.attention import attend, choose_kernel, kernel_report, why_not
from mvtrack.models.dit import WanDiT

CPU = torch.device("cpu")
B, N, M, H, D = 2, 37, 41, 3, 16


def tensors(dtype=torch.float32, requires_grad=False):
    g = torch.Generator().manual_seed(0)
    shapes = [(B, N, H, D), (B, M, H, D), (B, M, H, D)]
    return [torch.randn(s, generator=g).to(dtype).requires_grad_(requires_grad) for s in shapes]


def by_softmax(q, k, v):
    logits = torch.einsum("bnhd,bmhd->bhnm", q.double(), k.double()) * D**-0.5
    return torch.einsum("bhnm,bmhd->bnhd", logits.softmax(-1), v.double()).flatten(2)


def choose(wanted="auto", dtype=torch.float32, tokens=65520, training=False, device=CPU):
    return choose_kernel(wanted, device, dtype, heads=12, head_dim=128, tokens=tokens, training=training)


@pytest.fixture(autouse=True)
def short_blocks(monkeypatch):
    monkeypatch.setattr(blocked_attention, "QUERY_ROWS", 11)  # 37 queries make three blocks and a rest


@pytest.mark.parametrize("kernel", ["cpu", "blocked", "flash", "plain"])
@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 1e-6), (torch.bfloat16, 0.02)])
def test_kernels_equal_softmax(kernel, dtype, atol):
    q, k, v = tensors(dtype)
    torch.testing.assert_close(attend(q, k, v, kernel).double(), by_softmax(q, k, v), atol=atol, rtol=0)


def on_gpu(*kernels):
    return [pytest.param(kernel, "cuda", torch.bfloat16, marks=pytest.mark.gpu) for kernel in kernels]


@pytest.mark.parametrize(
    ("kernel", "device", "dtype"),
    [
        ("cpu", "cpu", torch.float32), ("flash", "cpu", torch.bfloat16), ("plain", "cpu", torch.float32),
        ("blocked", "cpu", torch.float32), ("blocked", "cpu", torch.bfloat16),
        *on_gpu("cudnn", "flash", "efficient", "flash_attn_2", "flash_attn_3"),
    ],
)  # fmt: skip
def test_kernels_equal_softmax_gradients(kernel, device, dtype):
    if device == "cuda":
        reason = why_not(kernel, torch.device(device), dtype, D, training=True)
        if reason:
            pytest.skip(f"{kernel}: {reason}")
    ours = [x.to(device, dtype).requires_grad_() for x in tensors()]
    exact = [x.detach().double().requires_grad_() for x in ours]
    out, expected = attend(*ours, kernel), by_softmax(*exact)
    weights = torch.randn(B, N, H * D, generator=torch.Generator().manual_seed(1)).to(device)
    found = torch.autograd.grad((out.float() * weights).sum(), ours)
    wanted = torch.autograd.grad((expected * weights).sum(), exact)
    atol = 1e-5 if dtype == torch.float32 else 0.05
    for one, other in zip((out, *found), (expected, *wanted), strict=True):
        torch.testing.assert_close(one.double(), other, atol=atol, rtol=0)


def test_cpu_kernels_cover_every_use():
    for dtype in (torch.float32, torch.float64):
        for training in (False, True):
            assert choose(dtype=dtype, training=training) == "cpu"
    assert kernel_report(CPU, torch.float32, 128, training=True) == {"cpu": "works", "blocked": "works"}


@pytest.mark.parametrize(("ratio", "expected"), [(0.5, "blocked"), (0.95, "cpu"), (3.0, "cpu")])
def test_cpu_bfloat16_takes_faster_kernel(monkeypatch, ratio, expected):
    timed = []

    def seconds(kernel, qkv, training):
        timed.append((kernel, tuple(qkv[0].shape), tuple(qkv[1].shape), training))
        return ratio if kernel == "blocked" else 1.0

    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    monkeypatch.setattr(attention, "_seconds", seconds)
    attention.faster_on_cpu.cache_clear()
    for _ in range(2):  # the second time it is known
        assert choose(dtype=torch.bfloat16, tokens=5003, training=True) == expected
    attention.faster_on_cpu.cache_clear()
    threads = torch.get_num_threads()
    rows, keys = (1, 768, threads, 128), (1, 4096, threads, 128)
    assert timed == [("cpu", rows, keys, True), ("blocked", rows, keys, True)] * 3


def test_blocked_attention_compiles():
    """Its shapes and strides without storage are those that it makes, forwards and backwards."""
    qkv = [x.transpose(1, 2).detach().requires_grad_() for x in tensors()]
    torch.library.opcheck(blocked_attention.blocked_attention, tuple(qkv))


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        ("flash_attn_2", "flash_attn_2: the package flash_attn is not installed; works here: auto, cpu, blocked"),
        ("sage", "the package sageattention is not installed"),
        ("cudnn", "attention kernel cudnn: .*works here: auto, cpu, blocked"),
    ],
)
def test_unavailable_kernel_raises_by_name(wanted, reason):
    with pytest.raises(ValueError, match=reason):
        choose(wanted)


def test_full_score_fallback_raises_with_size(monkeypatch):
    monkeypatch.setattr(attention, "why_not", lambda *_: "it is broken")
    with pytest.raises(
        ValueError,
        match=r"float32 on cpu \(cpu: it is broken; blocked: it is broken\).*65520 tokens would take 191\.9 GiB",
    ):
        choose()
    with pytest.raises(ValueError, match=r"works here: auto$"):
        choose("flash")
    assert choose(tokens=2000) == "plain"


def test_meta_tensors_take_any_kernel():
    assert choose(device=torch.device("meta")) == "plain"


class FakePackage(ModuleType):
    """A stand-in for an attention package: softmax attention that remembers how it was called."""

    def __init__(self, name, function, with_log_sums=False):
        super().__init__(name)
        self.__spec__ = ModuleSpec(name, None)
        self.calls = []

        def attention(q, k, v, **options):
            self.calls.append(options)
            out = by_softmax(q, k, v).unflatten(-1, (q.shape[2], -1)).to(q.dtype)
            return (out, None) if with_log_sums else out

        setattr(self, function, attention)


@pytest.mark.parametrize(
    ("kernel", "module", "function", "with_log_sums", "options"),
    [
        ("flash_attn_3", "flash_attn_interface", "flash_attn_func", True, {}),
        ("flash_attn_2", "flash_attn", "flash_attn_func", False, {}),
        ("sage", "sageattention", "sageattn", False, {"tensor_layout": "NHD"}),
    ],
)
def test_installed_kernel_packages_are_used(monkeypatch, kernel, module, function, with_log_sums, options):
    package = FakePackage(module, function, with_log_sums)
    monkeypatch.setitem(sys.modules, module, package)
    assert choose(kernel) == kernel
    q, k, v = tensors()
    torch.testing.assert_close(attend(q, k, v, kernel).double(), by_softmax(q, k, v), atol=1e-6, rtol=0)
    assert package.calls[-1] == options
    monkeypatch.setitem(attention._AUTO, "cpu", ("sage", "flash_attn_3", "flash_attn_2", "cpu"))
    assert choose(training=False) == kernel
    assert choose(training=True) == (kernel if kernel != "sage" else "cpu")
    assert why_not("sage", CPU, torch.float32, D, training=True) is not None


def test_transformer_chooses_kernel_once_per_precision(monkeypatch):
    config = DiTConfig(
        dim=24, ffn_dim=28, num_heads=2, num_layers=2, in_channels=5, out_channels=5, text_dim=0, freq_dim=10
    )
    dit, seen = WanDiT(config), []

    def choose_and_note(wanted, device, dtype, heads, head_dim, tokens, training):
        seen.append((wanted, device.type, dtype, heads, head_dim, tokens, training))
        return "cpu"

    monkeypatch.setattr("mvtrack.models.dit.choose_kernel", choose_and_note)
    latents, time = torch.randn(1, 2, 3, 5, 4, 6), torch.tensor([500.0])
    with torch.no_grad():
        dit(latents, time)
        dit(latents, time)
        with torch.autocast("cpu", torch.bfloat16):
            dit(latents, time)
    dit.attention = "flash"
    dit.bfloat16()(latents, time)
    assert seen == [
        ("auto", "cpu", torch.float32, 2, 12, 36, False),
        ("auto", "cpu", torch.bfloat16, 2, 12, 36, False),
        ("flash", "cpu", torch.bfloat16, 2, 12, 36, True),
    ]
