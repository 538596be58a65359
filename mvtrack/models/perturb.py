"""Taking one layer's attention away, wholly or between the views, to see what the pictures lose (CAMEO §3.2)."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, get_args

from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from mvtrack.models.backbone import MultiViewBackbone

Perturbation = Literal["identity", "own_view"]
PERTURBATIONS: tuple[Perturbation, ...] = get_args(Perturbation)


@contextmanager
def perturbed_attention(backbone: MultiViewBackbone, layer: int, kind: Perturbation, views: int = 2) -> Iterator[None]:
    """While open, the self-attention of one layer (counted from 0) is replaced; the rest of the network stays.

    identity: every token gets its own value, as if it attended to itself alone. own_view: tokens attend to their own
    view only, which removes what passes between the views. views: how many the network is given, reference included.
    Raises ValueError for another layer or kind.
    """
    attention = backbone.self_attention(layer)
    roles_apart = getattr(getattr(backbone, "config", None), "reference_attention", "joint") == "own"
    if roles_apart and kind == "own_view" and views != 2:
        raise ValueError("own_view with dit.reference_attention own is for one reference and one target view")
    if kind not in PERTURBATIONS:
        raise ValueError(f"unknown perturbation {kind!r}; known: {', '.join(PERTURBATIONS)}")

    attend = attention.attend

    def identity(
        q: Float[Tensor, "B N H d"], _k: Tensor, v: Float[Tensor, "B M H d"], _kernel: str
    ) -> Float[Tensor, "B N D"]:
        return v[:, -q.shape[1] :].flatten(2)  # those of references may stand before them

    def own_view(
        q: Float[Tensor, "B N H d"], k: Float[Tensor, "B M H d"], v: Float[Tensor, "B M H d"], kernel: str
    ) -> Float[Tensor, "B N D"]:
        if attention.scope == "view" or roles_apart:
            return attend(q, k[:, -q.shape[1] :], v[:, -q.shape[1] :], kernel)
        if q.shape[1] % views:
            raise ValueError(f"{q.shape[1]} tokens are not those of {views} views")
        apart = (rearrange(x, "b (v n) h d -> (b v) n h d", v=views) for x in (q, k, v))
        return rearrange(attend(*apart, kernel), "(b v) n d -> b (v n) d", v=views)

    attention.attend = {"identity": identity, "own_view": own_view}[kind]
    try:
        yield
    finally:
        del attention.attend
