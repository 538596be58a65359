"""Weights that are on this machine already: looking for them downloads nothing."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mvtrack.models.weights.locate import Wanted
from mvtrack.models.weights.sources import resolve


def resolve_here(source: str | Path, part: Wanted) -> Path:
    """Where a part lies. Raises ValueError where it would have to be downloaded, or is nowhere."""
    with without_network():
        return resolve(source, part)


@contextmanager
def without_network() -> Iterator[None]:
    """While open, the hub's client looks into its cache only."""
    try:
        from huggingface_hub import constants
    except ImportError:
        yield
        return
    before, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
