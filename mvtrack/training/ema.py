"""An exponential moving average of the trained weights, in float32."""

import torch
from torch import Tensor, nn


class EMA:
    """Averages the trainable parameters; frozen ones are read from the model when weights are asked for.

    Early steps use a shorter memory, (step + 1) / (step + 10), so that the random start is forgotten.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.shadow = {n: p.detach().float().clone() for n, p in model.named_parameters() if p.requires_grad}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        decay = min(self.decay, (step + 1) / (step + 10))
        live = {n: p for n, p in model.named_parameters() if n in self.shadow}
        torch._foreach_lerp_(list(self.shadow.values()), [live[n].float() for n in self.shadow], 1 - decay)

    def weights(self, model: nn.Module) -> dict[str, Tensor]:
        """A full state dict with the averaged parameters in place."""
        return {n: self.shadow.get(n, t.detach()) for n, t in model.state_dict().items()}

    def state_dict(self) -> dict[str, Tensor]:
        return self.shadow

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        for name, value in self.shadow.items():
            value.copy_(state[name])
