"""Which kernel computes attention: chosen once per device and precision, reported, never one that writes the scores.

A full-size pair of views has 65,520 tokens; its attention matrix would be 192 GiB. PyTorch falls back to writing it
where its fused kernels do not apply, so the kernel is fixed here and tried before it is used.
"""

import warnings
from collections.abc import Callable
from importlib import import_module, util

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from mvtrack.config.schema import AttentionKernel

PLAIN_SCORES_LIMIT = 2**26  # scores that may be written at once: 128 MiB of bfloat16

_FUSED = {
    "cpu": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
}
_PACKAGES = {"flash_attn_3": "flash_attn_interface", "flash_attn_2": "flash_attn", "sage": "sageattention"}
# Best first. Sage rounds q and k to 8 bits, so it is used only when it is asked for.
_AUTO = {"cpu": ("cpu",), "cuda": ("flash_attn_3", "cudnn", "flash_attn_2", "flash", "efficient")}


def attend(
    q: Float[Tensor, "B N H d"], k: Float[Tensor, "B M H d"], v: Float[Tensor, "B M H d"], kernel: str
) -> Float[Tensor, "B N D"]:
    """Softmax attention by a named kernel, see `choose_kernel`."""
    if kernel in _PACKAGES:
        return _by_package(q, k, v, kernel).flatten(2)
    q, k, v = (rearrange(x, "b n h d -> b h n d") for x in (q, k, v))
    if kernel in _FUSED:
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
    """The kernel to use: the wanted one, or with "auto" the best that works here. Every candidate is tried.

    tokens: of one sample, all views. Raises ValueError that says what is missing, or how much memory the attention
    matrix would need where no kernel avoids it. Only one of at most `PLAIN_SCORES_LIMIT` scores is let through.
    """
    names = _AUTO.get(device.type, ()) if wanted == "auto" else (wanted,)
    reasons = {}
    for name in names:
        reasons[name] = why_not(name, device, dtype, head_dim, training)
        if reasons[name] is None:
            return name
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
    if name == "cpu" and device.type != "cpu":
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
