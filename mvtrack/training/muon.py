"""Muon (Jordan et al. 2024): momentum whose matrices are made nearly orthogonal before they are added."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.optim import Optimizer

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of x, x^3, x^5: the authors', steepest at 0
_STEPS = 5


class Muon(Optimizer):
    """Nesterov momentum; a matrix with more rows than columns takes larger steps, as `torch.optim.Muon` does it.

    A convolution's kernel is a matrix of outputs by everything that an output sees.

    Beside PyTorch's, matrices of one shape are done together, and in float32 where a CPU does not multiply bfloat16
    fast: without AVX-512 that takes twenty times as long, most of a step of the tiny model.
    """

    def __init__(self, params: list[dict], lr: float, momentum: float) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Tensor]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape.setdefault(parameter.shape, []).append(parameter)
            for shape, parameters in by_shape.items():
                updates = torch.stack([self._momentum(p, group["momentum"]).flatten(1) for p in parameters])
                updates = orthogonalised(updates.to(matrix_dtype(updates.device))).to(updates.dtype)
                scale = max(1.0, shape[0] / updates.shape[2]) ** 0.5
                steps = [update.view(shape) for update in updates]
                torch._foreach_add_(parameters, steps, alpha=-group["lr"] * scale)

    def _momentum(self, parameter: Tensor, momentum: float) -> Tensor:
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter.grad)
        state["momentum_buffer"].lerp_(parameter.grad, 1 - momentum)
        return parameter.grad.lerp(state["momentum_buffer"], momentum)


def matrix_dtype(device: torch.device) -> torch.dtype:
    """In which matrices are made orthogonal: bfloat16 where that is fast."""
    slow = device.type == "cpu" and not torch.backends.cpu.get_cpu_capability().startswith("AVX512")
    return torch.float32 if slow else torch.bfloat16


def orthogonalised(matrices: Float[Tensor, "n rows columns"]) -> Float[Tensor, "n rows columns"]:
    """Singular values brought near 1 (0.7 to 1.2) by five steps of a quintic Newton-Schulz iteration, vectors kept."""
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp_min(1e-7)
    a, b, c = _COEFFICIENTS
    for _ in range(_STEPS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x
