"""Attention in blocks of query rows with an ordinary softmax: the CPU's matrix products do the work.

Where a processor multiplies bfloat16 but has no AMX tiles, PyTorch's fused kernel reaches a fifth of what its plain
products do. Only one block's scores exist at a time, so memory stays linear in the tokens. One operator, so that
compiled blocks do not unroll the loop and recomputation can recognise what is to be kept.
"""

import torch
from jaxtyping import Float
from torch import Tensor

QUERY_ROWS = 256  # of one block: its scores of 4,480 keys fill 4.6 MB in float32


@torch.library.custom_op("mvtrack::blocked_attention", mutates_args=())
def blocked_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Softmax attention (B, H, N, d) of k and v (B, H, M, d): products in their precision, softmax in float32."""
    out, k_t = torch.empty_like(q), k.mT.contiguous()
    for rows in _blocks(q.shape[-2]):
        torch.matmul(_probabilities(q[:, :, rows], k_t).to(v.dtype), v, out=out[:, :, rows])
    return out


@torch.library.custom_op("mvtrack::blocked_attention_backward", mutates_args=())
def _blocked_attention_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v; every block's probabilities are computed again."""
    grad_q, k_t, v_t = torch.empty_like(q), k.mT.contiguous(), v.mT.contiguous()
    grad_k, grad_v = (torch.zeros_like(x, dtype=torch.float32) for x in (k, v))
    scale = q.shape[-1] ** -0.5
    for rows in _blocks(q.shape[-2]):
        p = _probabilities(q[:, :, rows], k_t)
        g = grad[:, :, rows]
        grad_v += p.to(v.dtype).mT @ g
        inner = (g.float() * out[:, :, rows].float()).sum(-1, keepdim=True)  # equals the row sums of p * (g v^T)
        grad_scores = ((g @ v_t).float() - inner).mul_(p).mul_(scale).to(q.dtype)
        torch.matmul(grad_scores, k, out=grad_q[:, :, rows])
        grad_k += grad_scores.mT @ q[:, :, rows]
    return grad_q, grad_k.to(k.dtype), grad_v.to(v.dtype)


def _blocks(rows: int) -> list[slice]:
    return [slice(start, min(start + QUERY_ROWS, rows)) for start in range(0, rows, QUERY_ROWS)]


def _probabilities(q: Float[Tensor, "B H n d"], k_t: Float[Tensor, "B H d M"]) -> Float[Tensor, "B H n M"]:
    """In float32."""
    return (q @ k_t).float().mul_(q.shape[-1] ** -0.5).softmax(-1)


@blocked_attention.register_fake
def _(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.empty_like(q)


@_blocked_attention_backward.register_fake
def _(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)


def _save(ctx, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:  # noqa: ANN001
    ctx.save_for_backward(*inputs, output)


def _backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # noqa: ANN001
    return _blocked_attention_backward(grad.contiguous(), *ctx.saved_tensors)


blocked_attention.register_autograd(_backward, setup_context=_save)
