"""Looking into a running transformer: each block's queries and keys, one layer at a time, nothing kept."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import Tensor

from mvtrack.models.dit import WanDiT


@contextmanager
def visiting_layers(
    dit: WanDiT, visit: Callable[[int, Tensor, Tensor], None], layers: tuple[int, ...] | None = None
) -> Iterator[None]:
    """While open, `visit(layer, q, k)` is called as each block has run; q and k are (B, N, heads, d).

    layers: blocks to visit, counted from 0; None: all. Raises ValueError for one that the network does not have.
    """
    for layer in layers or ():
        check_layer(dit, layer)

    def hook(layer: int):
        return lambda _module, _inputs, output: visit(layer, output[1].q, output[1].k)

    visited = [(i, block) for i, block in enumerate(dit.blocks) if layers is None or i in layers]
    handles = [block.register_forward_hook(hook(i)) for i, block in visited]
    for _, block in visited:
        block.shows_heads = True
    try:
        yield
    finally:
        for (_, block), handle in zip(visited, handles, strict=True):
            block.shows_heads = False
            handle.remove()


def check_layer(dit: WanDiT, layer: int) -> None:
    """Raise ValueError for a layer that the network does not have."""
    if not 0 <= layer < len(dit.blocks):
        raise ValueError(f"layer {layer} does not exist: this model has layers 0 .. {len(dit.blocks) - 1}")
