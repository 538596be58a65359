"""An exponential moving average of the trained weights: float32, and spread over the ranks as the weights are."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from mvtrack.training.zero_shards import fragments, gathered


class EMA:
    """Averages this rank's fragments. Early steps forget the random start: decay (step + 1) / (step + 10) at most."""

    def __init__(self, engine, decay: float) -> None:
        self.decay = decay
        self.shadow = {f.name: (f.start, f.weight.clone()) for f in fragments(engine) if f.writes}

    @torch.no_grad()
    def update(self, engine, step: int) -> None:
        """Move towards the current weights. `step` counts finished updates from 0."""
        decay = min(self.decay, (step + 1) / (step + 10))
        mine = [f for f in fragments(engine) if f.writes]
        if mine:
            torch._foreach_lerp_([self.shadow[f.name][1] for f in mine], [f.weight for f in mine], 1 - decay)

    @contextmanager
    def swapped_in(self, engine) -> Iterator[None]:
        """Run a block with the averaged weights in the module. Collective; the live weights come back after it."""
        module, kept = engine.module, {}
        for name, parameter in module.named_parameters():
            if not parameter.requires_grad:
                continue
            if hasattr(parameter, "ds_id"):
                kept[name] = parameter.ds_tensor.data.clone()
                if name in self.shadow:
                    values = self.shadow[name][1]
                    parameter.ds_tensor.data.view(-1)[: values.numel()].copy_(values)
                _forget_whole(parameter)
            else:
                kept[name] = parameter.data.clone()
                parameter.data.copy_(gathered(parameter, name, self.shadow))
        training = module.training
        module.eval()
        try:
            yield
        finally:
            module.train(training)
            for name, values in kept.items():
                parameter = module.get_parameter(name)
                (parameter.ds_tensor if hasattr(parameter, "ds_id") else parameter).data.copy_(values)
                _forget_whole(parameter)


def _forget_whole(parameter: torch.nn.Parameter) -> None:
    """ZeRO-3 keeps small parameters gathered between steps: have this one gathered anew from the ranks' fragments."""
    if hasattr(parameter, "ds_id") and parameter.ds_status.name == "AVAILABLE":
        parameter.partition()
