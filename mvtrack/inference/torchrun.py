"""`torchrun -m mvtrack reshoot ...`: the first process does the work, the others share its passes until it is done.

The first tells the others through the launcher's store when there is a network to share, and when all is over.
"""

import itertools
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache

import torch
import torch.distributed as dist

from mvtrack.config.placement import Placement, launched_processes
from mvtrack.inference.ranks import TIMEOUT, Ranks, join

_OVER = "over"


def among_launched(work: Callable[[], int]) -> int:
    """The exit code of `work`, which the first process does."""
    if os.environ["RANK"] != "0":
        return _serve()
    _store()  # which the others wait for
    try:
        return work()
    finally:
        _tell(_OVER)


def with_launched(placement: Placement) -> Placement:
    """Over all processes of a launcher. Raises ValueError for `gpus` that says otherwise."""
    count = launched_processes()
    if count == 1:
        return placement
    if placement.gpus not in (1, count):
        raise ValueError(f"torchrun started {count} processes, --gpus asks for {placement.gpus}: leave it out")
    Ranks.launched = lambda device: join(_tell(device.type), 0, count, device)
    return replace(placement, gpus=count)


@lru_cache(maxsize=1)
def _store() -> dist.Store:
    store, _, _ = next(iter(dist.rendezvous("env://")))
    store.set_timeout(TIMEOUT)
    return store


_told = itertools.count()


def _tell(what: str) -> dist.Store:
    """The next word to the others, and the store of the group that it makes."""
    number = next(_told)
    _store().set(f"mvtrack/{number}", what)
    return dist.PrefixStore(f"mvtrack/group{number}", _store())


def _serve() -> int:
    from mvtrack.inference.rank_worker import serve

    rank, count = int(os.environ["RANK"]), launched_processes()
    with suppress(dist.DistNetworkError):  # the first process has gone, and the store with it
        for number in itertools.count():
            what = _store().get(f"mvtrack/{number}").decode()
            if what == _OVER:
                break
            device = torch.device(what, int(os.environ["LOCAL_RANK"])) if what == "cuda" else torch.device(what)
            join(dist.PrefixStore(f"mvtrack/group{number}", _store()), rank, count, device)
            serve(device)
    return 0
