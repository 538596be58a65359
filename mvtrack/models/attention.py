"""Which kernel computes attention: chosen once per device and precision, reported, never one that writes the scores.

A full-size pair of views has 65,520 tokens; its attention matrix would be 192 GiB. PyTorch falls back to writing it
where its fused kernels do not apply, so the kernel is fixed here and tried before it is used.
"""

import math
import time
import warnings
from collections.abc import Callable
from functools import cache
from importlib import import_module, util

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from mvtrack.config.placement import AttentionKernel
from mvtrack.models.blocked_attention import blocked_attention

PLAIN_SCORES_LIMIT = 2**26  # scores that may be written at once: 128 MiB of bfloat16
TRIAL_ROWS, TRIAL_KEYS = 768, 4096  # of the attention that candidates are timed on: the fused kernel's full blocks
TRIAL_MARGIN = 0.9  # of the fused kernel's time: a candidate that is hardly faster is not worth another order of sums

_FUSED = {
    "cpu": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
}
_PACKAGES = {"flash_attn_3": "flash_attn_interface", "flash_attn_2": "flash_attn", "sage": "sageattention"}
# Best first. Sage rounds q and k to 8 bits, so it is used only when it is asked for.
_AUTO = {"cpu": ("cpu", "blocked"), "cuda": ("flash_attn_3", "cudnn", "flash_attn_2", "flash", "efficient")}


def attend(
    q: Float[Tensor, "B N H d"], k: Float[Tensor, "B M H d"], v: Float[Tensor, "B M H d"], kernel: str
) -> Float[Tensor, "B N D"]:
    """Softmax attention by a named kernel, see `choose_kernel`."""
    if kernel in _PACKAGES:
        return _by_package(q, k, v, kernel).flatten(2)
    q, k, v = (rearrange(x, "b n h d -> b h n d") for x in (q, k, v))
    if kernel == "blocked":
        out = blocked_attention(q, k, v)
    elif kernel in _FUSED:
        with sdpa_kernel(_FUSED[kernel]):
            out = F.scaled_dot_product_attention(q, k, v)
    else:
        out = F.scaled_dot_product_attention(q, k, v)
    return rearrange(out, "b h n d -> b n (h d)")


def _by_package(q: Tensor, k: Tensor, v: Tensor, kernel: str) -> Float[Tensor, "B N H d"]:
    package = import_module(_PACKAGES[kernel])
    if kernel == "sage":
        return package.sageattn(q, k, v, tensor_layout="NHD")
    out = package.flash_attn_func(q, k, v)
    return out[0] if isinstance(out, tuple) else out  # some releases also return the log-sum-exps


def choose_kernel(
    wanted: AttentionKernel, device: torch.device, dtype: torch.dtype, heads: int, head_dim: int, tokens: int,
    training: bool,
) -> str:  # fmt: skip
    """The kernel to use: the wanted one, or with "auto" the best that works here. Every candidate is tried, and on a
    CPU timed where it multiplies bfloat16: which one is faster depends on the processor.

    tokens: that attend to each other. Raises ValueError that says what is missing, or how much memory the attention
    matrix would need where no kernel avoids it. Only one of at most `PLAIN_SCORES_LIMIT` scores is let through.
    """
    names = _AUTO.get(device.type, ()) if wanted == "auto" else (wanted,)
    reasons = {}
    for name in names:
        reasons[name] = why_not(name, device, dtype, head_dim, training)
        if reasons[name] is None:
            timed = wanted == "auto" and device.type == "cpu" and dtype == torch.bfloat16
            return faster_on_cpu(head_dim, tokens, training, torch.get_num_threads()) if timed else name
    if wanted == "auto" and (device.type == "meta" or heads * tokens**2 <= PLAIN_SCORES_LIMIT):
        return "plain"
    tried = "; ".join(f"{name}: {reason}" for name, reason in reasons.items()) or "none is known for this device"
    if wanted != "auto":
        working = [n for n in _AUTO.get(device.type, ()) if why_not(n, device, dtype, head_dim, training) is None]
        raise ValueError(f"attention kernel {tried}; works here: auto{''.join(', ' + n for n in working)}")
    gib = heads * tokens**2 * dtype.itemsize / 2**30
    raise ValueError(
        f"no attention kernel works for {str(dtype).removeprefix('torch.')} on {device.type} ({tried}), and writing "
        f"the scores of {tokens} tokens would take {gib:.1f} GiB a sample and layer; use bfloat16, or fewer frames or "
        f"pixels"
    )


@cache
def faster_on_cpu(head_dim: int, tokens: int, training: bool, threads: int) -> str:
    """`cpu` (fused) or `blocked`: what a few milliseconds of bfloat16 attention of one head take, backwards too in
    training. In float32 the fused kernel is as fast as the processor's products and is not timed.

    threads: PyTorch's, because the answer is for them.
    """
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return "cpu"  # plain bfloat16 products would run without vector instructions
    rows, keys = min(tokens, TRIAL_ROWS), min(tokens, TRIAL_KEYS)
    shapes = ((1, rows, threads, head_dim), *[(1, keys, threads, head_dim)] * 2)
    seconds = {"cpu": math.inf, "blocked": math.inf}
    with torch.enable_grad() if training else torch.no_grad():
        qkv = [torch.randn(shape, dtype=torch.bfloat16, requires_grad=training) for shape in shapes]
        for _ in range(3):  # by turns; the first one warms up
            for kernel in seconds:
                seconds[kernel] = min(seconds[kernel], _seconds(kernel, qkv, training))
    return "blocked" if seconds["blocked"] < TRIAL_MARGIN * seconds["cpu"] else "cpu"


def _seconds(kernel: str, qkv: list[Tensor], training: bool) -> float:
    start = time.perf_counter()
    out = attend(*qkv, kernel)
    if training:
        torch.autograd.grad(out, qkv, out)
    return time.perf_counter() - start


def kernel_report(device: torch.device, dtype: torch.dtype, head_dim: int, training: bool) -> dict[str, str]:
    """Every kernel for a device with "works" or the reason why not, the order being that of "auto"."""
    names = _AUTO.get(device.type, ()) + (("sage",) if device.type == "cuda" else ())
    return {name: why_not(name, device, dtype, head_dim, training) or "works" for name in names}


def why_not(name: str, device: torch.device, dtype: torch.dtype, head_dim: int, training: bool) -> str | None:
    """The reason why a kernel cannot be used, or None. It is tried on a few tokens, backwards too in training."""
    if name in _PACKAGES and util.find_spec(_PACKAGES[name]) is None:
        return f"the package {_PACKAGES[name]} is not installed"
    if name == "sage" and training:
        return "it has no backward pass"
    if name in ("cpu", "blocked") and device.type != "cpu":
        return f"it does not run on {device.type}"
    return _failure(lambda *qkv: attend(*qkv, name), device, dtype, head_dim, training)


def _failure(
    function: Callable[..., Tensor], device: torch.device, dtype: torch.dtype, head_dim: int, training: bool
) -> str | None:
    with torch.enable_grad() if training else torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch warns once for every reason against a kernel
        probe = [torch.zeros(1, 64, 2, head_dim, device=device, dtype=dtype, requires_grad=training) for _ in range(3)]
        try:
            out = function(*probe)
            if training:
                out.sum().backward()
        except (RuntimeError, ImportError, TypeError, ValueError, AssertionError) as error:
            return str(error).strip().splitlines()[0].rstrip(".") or type(error).__name__
    return None
