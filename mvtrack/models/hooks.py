"""Looking into a running network: each layer's queries and keys, one layer at a time, nothing kept."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

from torch import Tensor

from mvtrack.models.backbone import MultiViewBackbone, check_layer


@contextmanager
def visiting_layers(
    backbone: MultiViewBackbone, visit: Callable[[int, Tensor, Tensor], None], layers: tuple[int, ...] | None = None
) -> Iterator[None]:
    """While open, `visit(layer, q, k)` is called as each layer has run; q and k are (B, N, heads, d).

    layers: those to visit, counted from 0; None: all. Raises ValueError for one that the network does not have.
    """
    for layer in layers or ():
        check_layer(backbone, layer)
    with ExitStack() as stack:
        for layer in range(backbone.num_layers) if layers is None else sorted(set(layers)):
            stack.enter_context(backbone.observed(layer, partial(visit, layer)))
        yield
