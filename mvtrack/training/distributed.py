"""One process or many: the few facts about ranks that the training loop needs."""

import os
from collections.abc import Sequence
from typing import TypeVar

import torch
import torch.distributed as dist

from mvtrack.models.sequence_parallel import SequenceGroup

T = TypeVar("T")


def prepare_environment() -> None:
    """Set the variables that torch.distributed expects, from SLURM's where it started the tasks, or for one process."""
    if "RANK" in os.environ:
        return
    if "SLURM_PROCID" in os.environ and int(os.environ.get("SLURM_NTASKS", "1")) > 1:
        for name, source in (("RANK", "SLURM_PROCID"), ("WORLD_SIZE", "SLURM_NTASKS"), ("LOCAL_RANK", "SLURM_LOCALID")):
            os.environ[name] = os.environ[source]
        if "MASTER_ADDR" not in os.environ:
            raise ValueError(
                "started by SLURM without MASTER_ADDR: export it as configs/slurm/train.sbatch does "
                "(scontrol show hostnames), with MASTER_PORT"
            )
        os.environ.setdefault("MASTER_PORT", "29500")
        return
    # A process alone opens no port, see `engine.start_distributed`; DeepSpeed asks that the variable is there.
    os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT="29500")


def device() -> torch.device:
    """This rank's device."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    return torch.device("cpu")


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else int(os.environ.get("RANK", "0"))


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else int(os.environ.get("WORLD_SIZE", "1"))


def ranks_here() -> int:
    """Ranks on this machine; all of them where the launcher does not say."""
    return int(os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("LOCAL_SIZE") or world_size())


def any_rank(flag: bool) -> bool:
    """Whether the flag is set on at least one rank; every rank gets the same answer."""
    if world_size() == 1:
        return flag
    votes = torch.tensor([float(flag)], device=device())
    dist.all_reduce(votes, dist.ReduceOp.MAX)
    return bool(votes.item())


def mean_over_ranks(values: dict[str, float]) -> dict[str, float]:
    """Average each number over all ranks; every rank must hold the same names."""
    if world_size() == 1:
        return values
    packed = torch.tensor([values[name] for name in sorted(values)], dtype=torch.float64, device=device())
    dist.all_reduce(packed)
    return dict(zip(sorted(values), (packed / world_size()).tolist(), strict=True))


def share_of(items: Sequence[T], together: int = 1) -> list[T]:
    """This rank's items; so many neighbours have the same. Every rank has equally many (the last ones are repeated),
    because at ZeRO stage 3 forward passes are collective."""
    world, mine = world_size() // together, rank() // together
    return [items[min(i * world + mine, len(items) - 1)] for i in range(-(-len(items) // world))]


def sequence_group(size: int) -> SequenceGroup:
    """This rank and its neighbours, so many ranks that share each sample's tokens. Collective."""
    if size == 1:
        return SequenceGroup(None)
    groups = [dist.new_group(list(range(first, first + size))) for first in range(0, world_size(), size)]
    return SequenceGroup(groups[rank() // size])


def barrier() -> None:
    """Wait for every rank."""
    if world_size() > 1:
        dist.barrier()
