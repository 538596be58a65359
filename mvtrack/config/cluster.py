"""How work is spread over many devices and machines."""

import re
from collections.abc import Sequence
from typing import TypeVar

from mvtrack.config.checked import Count, config
from mvtrack.config.command_line import option

Item = TypeVar("Item")
Shard = tuple[int, int]  # (i, n): every n-th item, from the i-th on


@config
class RayOptions:
    """Over which workers tasks are spread: of the cluster at $RAY_ADDRESS, or of this machine without one."""

    ray: bool = option(False, "over a Ray cluster, or this machine's devices")
    ray_workers: Count | None = option(None, "default: one a GPU, or one a machine", metavar="N")

    def __post_init__(self) -> None:
        if self.ray_workers is not None and not self.ray:
            raise ValueError("--ray-workers is for --ray")


def parse_shard(text: str) -> Shard:
    """A shard such as 1/4, which says whose turn a process without Ray has."""
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise ValueError(f"must look like 1/4, got {text!r}")
    return int(match[1]), int(match[2])


def shard_of(items: Sequence[Item], shard: Shard) -> Sequence[Item]:
    """A process's share of the items; processes share nothing and cover all."""
    number, count = shard
    if not 1 <= number <= count:
        raise ValueError(f"shard {number}/{count} does not exist: the first is 1/{count}, the last {count}/{count}")
    return items[number - 1 :: count]
