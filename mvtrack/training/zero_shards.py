"""One view of weights and optimiser state for every ZeRO stage: which flat range of which parameter this rank holds.

Saving, loading and averaging work on these fragments alone, so none of them gathers a model, and what one layout wrote
another can read: stage 0 holds whole parameters, stages 1 and 2 ranges of a flat float32 copy, stage 3 an even share.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mvtrack.training import distributed


@dataclass(frozen=True)
class Fragment:
    """Elements [start, start + len(weight)) of one flattened trainable parameter, as this rank holds them.

    weight: live float32 master values. state: live optimiser tensors by name, empty before the first step.
    writes: whether this rank is the one that saves the range (several hold it at stage 0).
    """

    name: str
    shape: tuple[int, ...]
    start: int
    weight: Tensor
    state: dict[str, Tensor]
    writes: bool

    @property
    def stop(self) -> int:
        return self.start + self.weight.numel()


def fragments(engine) -> Iterator[Fragment]:
    """This rank's fragments of every trainable parameter, in the model's order."""
    inner = getattr(engine.optimizer, "optimizer", engine.optimizer)
    for i, (name, parameter) in enumerate(engine.module.named_parameters()):
        if not parameter.requires_grad:
            continue
        if hasattr(parameter, "ds_id"):
            yield from _stage3(name, parameter)
        elif hasattr(parameter, "_hp_mapping"):
            yield from _stage1(name, parameter, engine.optimizer)
        else:
            state = {k: v.view(-1) for k, v in inner.state.get(parameter, {}).items() if _is_elementwise(v, parameter)}
            mine = i % distributed.world_size() == distributed.rank()
            yield Fragment(name, tuple(parameter.shape), 0, parameter.data.view(-1), state, mine)


def _stage1(name: str, parameter: nn.Parameter, optimizer) -> Iterator[Fragment]:
    mapping = parameter._hp_mapping
    if mapping is None:  # all of it lies on other ranks
        return
    # DeepSpeed's own links to optimiser state miss every parameter group but the first, so look it up here
    masters = getattr(optimizer, "single_partition_of_fp32_groups", None) or optimizer.fp32_groups_flat_partition
    flat = masters[mapping.param_group_index]
    where = mapping.hp_fragment_address
    state = {
        k: v.narrow(0, where.start, where.numel)
        for k, v in optimizer.optimizer.state.get(flat, {}).items()
        if _is_elementwise(v, flat)
    }
    start = mapping.lp_fragment_address.start
    yield Fragment(name, tuple(parameter.shape), start, mapping.hp_fragment.data, state, writes=True)


def _stage3(name: str, parameter: nn.Parameter) -> Iterator[Fragment]:
    share = parameter.ds_tensor.numel()
    start = share * distributed.rank()
    count = min(share, parameter.ds_numel - start)  # the last rank's share is padded
    if count <= 0:
        return
    optimizer = parameter._z3_optimizer
    weight, group = optimizer._get_fp32_opt_state_partition(parameter, release_swap_buffers=True)
    flat = optimizer.fp32_partitioned_groups_flat[group]
    names = [k for k, v in optimizer.optimizer.state.get(flat, {}).items() if _is_elementwise(v, flat)]
    state = {
        k: optimizer._get_fp32_opt_state_partition(parameter, release_swap_buffers=True, optim_state_key=k)[0][:count]
        for k in names
    }
    yield Fragment(name, tuple(parameter.ds_shape), start, weight.data[:count], state, writes=True)


def frozen_pieces(module: nn.Module) -> Iterator[tuple[str, tuple[int, ...], int, Tensor]]:
    """(name, shape, start, values) of what this rank should save of the parameters that are not trained."""
    for i, (name, parameter) in enumerate(module.named_parameters()):
        if parameter.requires_grad:
            continue
        if hasattr(parameter, "ds_id"):
            share = parameter.ds_tensor.numel()
            start = share * distributed.rank()
            values = parameter.ds_tensor.view(-1)[: max(0, parameter.ds_numel - start)]
            yield name, tuple(parameter.ds_shape), start, values
        elif i % distributed.world_size() == distributed.rank():
            yield name, tuple(parameter.shape), 0, parameter.data.view(-1)


def _is_elementwise(value, parameter: Tensor) -> bool:
    return torch.is_tensor(value) and value.numel() == parameter.numel() and value.ndim == parameter.ndim


def optimizer_step_count(engine) -> int:
    """How many updates the optimiser's bias correction has counted."""
    inner = getattr(engine.optimizer, "optimizer", engine.optimizer)
    counts = [int(state["step"]) for state in inner.state.values() if "step" in state]
    return max(counts, default=0)


def set_optimizer_step_count(engine, count: int) -> None:
    """The counterpart of `optimizer_step_count`."""
    inner = getattr(engine.optimizer, "optimizer", engine.optimizer)
    for state in inner.state.values():
        if torch.is_tensor(state.get("step")):
            state["step"].fill_(count)
        elif "step" in state:
            state["step"] = count


@torch.no_grad()
def publish_weights(engine) -> None:
    """Make the working copies equal to the float32 masters, after these were changed behind the optimiser's back."""
    for fragment in fragments(engine):
        parameter = engine.module.get_parameter(fragment.name)
        if hasattr(parameter, "ds_id"):
            parameter.ds_tensor.data.view(-1)[: fragment.weight.numel()].copy_(fragment.weight)
    for parameter in engine.module.parameters():
        if parameter.requires_grad and not hasattr(parameter, "ds_id") and hasattr(parameter, "_hp_mapping"):
            parameter.data.copy_(parameter.get_full_hp_param())


def gathered(parameter: nn.Parameter, name: str, mine: dict[str, tuple[int, Tensor]]) -> Tensor:
    """Assemble a full float32 tensor of a parameter's shape from every rank's (start, values). Collective."""
    shape = tuple(getattr(parameter, "ds_shape", parameter.shape))
    device = distributed.device()
    full = torch.zeros(torch.Size(shape).numel(), device=device)
    if name in mine:
        start, values = mine[name]
        full[start : start + values.numel()] = values.to(device)
    if distributed.world_size() > 1:
        dist.all_reduce(full)
    return full.view(shape)
