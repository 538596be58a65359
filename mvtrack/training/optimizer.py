"""The optimisers a run can ask for, and which parameters each of them gets."""

import fnmatch
import os
import re
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from torch.optim import Optimizer
from torch.utils.cpp_extension import get_default_build_root

from mvtrack.config.training import OptimConfig
from mvtrack.models.dit import WanDiT, parameter_names
from mvtrack.training.adapters import is_adapter, own_name
from mvtrack.training.muon import Muon


class MuonWithAdamW(Optimizer):
    """Muon on the matrices and convolutions inside the blocks and the tracking head, AdamW on everything else, in one
    state."""

    def __init__(self, muon_groups: list[dict], adamw_groups: list[dict], config: OptimConfig) -> None:
        self.muon = Muon(muon_groups, lr=config.muon_lr, momentum=config.muon_momentum)
        self.adamw = torch.optim.AdamW(
            adamw_groups, lr=config.lr, betas=config.betas, weight_decay=config.weight_decay, foreach=True
        )
        super().__init__([*self.muon.param_groups, *self.adamw.param_groups], {})
        self._share()

    def _share(self) -> None:
        """Let both see this optimiser's very groups and state, so that a schedule or a checkpoint reaches both."""
        count = len(self.muon.param_groups)
        self.muon.param_groups, self.adamw.param_groups = self.param_groups[:count], self.param_groups[count:]
        self.muon.state = self.adamw.state = self.state

    @torch.no_grad()
    def step(self, closure: Callable | None = None) -> None:
        if closure is not None:
            raise ValueError("MuonWithAdamW does not re-evaluate the model: call step() without a closure")
        self.muon.step()
        self.adamw.step()

    def load_state_dict(self, state_dict: dict) -> None:
        super().load_state_dict(state_dict)
        self._share()


def freeze(model: nn.Module, trainable: tuple[str, ...]) -> None:
    """Let only parameters whose names match one of the patterns be trained, and adapters.

    A pattern of a part that is switched off (a tracking head, ReCamMaster's branches, ...) is harmless. Raises
    ValueError for one that no model of this kind has, where nothing is left to train, and for a weight that has an
    adapter, too.
    """
    parameters = {own_name(name): p for name, p in model.named_parameters() if not is_adapter(name)}
    adapted = {own_name(name) for name, _ in model.named_parameters() if ".base_layer.weight" in name}
    names = list(parameters)
    unmatched = [pattern for pattern in trainable if not fnmatch.filter(names, pattern)]
    known = parameter_names(model.config) if unmatched and isinstance(model, WanDiT) else names
    for pattern in unmatched:
        if not fnmatch.filter(known, pattern):
            raise ValueError(f"optim.trainable pattern {pattern!r} matches no parameter; names look like {names[0]!r}")
    if len(unmatched) == len(trainable) and not adapted:
        raise ValueError(f"optim.trainable {list(trainable)} names switched-off parts only: nothing is left to train")
    for name, parameter in parameters.items():
        parameter.requires_grad_(any(fnmatch.fnmatch(name, pattern) for pattern in trainable))
        if parameter.requires_grad and name in adapted:
            raise ValueError(f"optim.trainable trains {name} whole and optim.lora.targets adapts it: choose one")


def build_optimizer(model: nn.Module, config: OptimConfig, on_cpu: bool = False) -> Optimizer:
    """Optimiser over the trainable parameters; gains, biases and embeddings get no weight decay.

    on_cpu: DeepSpeed's vectorised AdamW for offloaded state (compiled at first use).
    """
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    matrices = [p for name, p in named if _is_block_matrix(name, p)]
    decayed = [p for name, p in named if _ndim(p) >= 2 and not _is_block_matrix(name, p)]
    plain = [p for _, p in named if _ndim(p) < 2]
    if config.name == "muon":
        groups = [{"params": decayed}, {"params": plain, "weight_decay": 0.0}]
        filled = [g for g in groups if g["params"]] or groups[:1]  # adapters of blocks are matrices alone
        return MuonWithAdamW([{"params": matrices}], filled, config)
    groups = [{"params": matrices + decayed}, {"params": plain, "weight_decay": 0.0}]
    groups = [g for g in groups if g["params"]]
    settings = {"lr": config.lr, "betas": config.betas, "weight_decay": config.weight_decay}
    if on_cpu:
        from deepspeed.ops.adam import DeepSpeedCPUAdam

        refuse_left_lock("cpu_adam")
        return DeepSpeedCPUAdam(groups, **settings)
    return torch.optim.AdamW(groups, **settings)


def refuse_left_lock(extension: str) -> None:
    """Raise ValueError where compiling one of DeepSpeed's extensions would wait for a process that was killed.

    PyTorch compiles under a lock file that names no owner; one older than any compilation takes was left behind.
    """
    root = Path(os.environ.get("TORCH_EXTENSIONS_DIR") or get_default_build_root())
    for lock in root.glob(f"**/{extension}/lock"):
        minutes = (time.time() - lock.stat().st_mtime) / 60
        if minutes > 15:
            raise ValueError(
                f"{lock} is {minutes:.0f} minutes old: a process was killed while it compiled {extension}, and "
                "this one would wait for it without end; delete that file"
            )


# Stacks of hidden layers: of this project's transformer and head, of CAT3D's U-Net, of Hunyuan-DiT; of their condition
# encoder the convolutions between its input and its output.
_HIDDEN = re.compile(
    r"(unet\.(down|up|mid)_block|(transformer\.)?blocks\.|tracking_head\.(correlation_mlp|transformer\.layers)\.|"
    r"(unet\.add_conv_in|condition_encoder)\.conv[234]\.)"
)


def _is_block_matrix(name: str, parameter: nn.Parameter) -> bool:
    """Whether a weight is inside a stack of layers, between hidden units: not an input's, not an output's."""
    return _HIDDEN.match(name) is not None and _ndim(parameter) in (2, 4)


def _ndim(parameter: nn.Parameter) -> int:
    """Number of axes, also of a parameter that ZeRO-3 keeps partitioned."""
    return len(getattr(parameter, "ds_shape", parameter.shape))


def learning_rate_factor(step: int, config: OptimConfig, total_steps: int) -> float:
    """Linear warm-up, then cosine to `final_lr_ratio` (or constant)."""
    warm = min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
    if config.schedule == "constant":
        return warm
    progress = min(1.0, max(0, step - config.warmup_steps) / max(1, total_steps - config.warmup_steps))
    cosine = 0.5 * (1 + torch.cos(torch.tensor(torch.pi * progress)).item())
    return warm * (config.final_lr_ratio + (1 - config.final_lr_ratio) * cosine)
