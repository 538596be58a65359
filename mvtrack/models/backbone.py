"""What loss, analysis and samplers ask of a multi-view network: WanDiT, CAT3D's U-Net, Hunyuan-DiT, or another."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Literal, NamedTuple, Protocol, runtime_checkable

from jaxtyping import Float, Real
from torch import Tensor

from mvtrack.models.conditioning import Conditioning

Visit = Callable[[Float[Tensor, "B N heads d"], Float[Tensor, "B N heads d"]], None]


class Tap(NamedTuple):
    """Query and key of one layer as they enter its attention, after QK-norm and RoPE: its features (method §3).

    WanDiT with dit.tap_features before_rope gives them without RoPE: what tokens look like, not where they are.
    """

    q: Float[Tensor, "B V f h w heads d"]
    k: Float[Tensor, "B V f h w heads d"]


class DiTOutput(NamedTuple):
    """A network's prediction for every view, and the taps that were asked for, in ascending order of layers; hidden:
    what the blocks around them return, (B V f h w D) each."""

    prediction: Float[Tensor, "B V f c h w"]
    taps: tuple[Tap, ...]
    hidden: tuple[Tensor, ...] = ()


@runtime_checkable
class AttentionLayer(Protocol):
    """One self-attention. scope: which tokens attend to each other: all, those of a view, or of a moment.

    attend: (q, k, v, kernel), each (B, N, heads, d), to (B, N, heads d); k and v may begin with those of references
    that have run before. Setting it on the instance replaces the attention, deleting it there brings the class's own
    back.
    """

    scope: Literal["all", "view", "moment"]
    attend: Callable[[Tensor, Tensor, Tensor, str], Tensor]


@runtime_checkable
class MultiViewBackbone(Protocol):
    """A network over V views, each of f latent frames (a still view has one)."""

    @property
    def num_layers(self) -> int:
        """How many layers of self-attention it has; they are numbered from 0 in the order in which they run."""

    def self_attention(self, layer: int) -> AttentionLayer:
        """The self-attention of a layer."""

    def observed(self, layer: int, visit: Visit) -> AbstractContextManager[None]:
        """While open, `visit(q, k)` is called in each pass; tokens are ordered view, frame, row, column."""

    def __call__(
        self, latents: Float[Tensor, "B V f c h w"], timestep: Real[Tensor, "B"], conditioning: Conditioning,
        tap_layers: tuple[int, ...] = (),
    ) -> DiTOutput:  # fmt: skip
        """latents: references clean, targets noised. timestep: one per scene, in [0, 1000). conditioning: cameras, and
        which views are references."""


def check_layer(backbone: MultiViewBackbone, layer: int) -> None:
    """Raise ValueError for a layer that the network does not have."""
    if not 0 <= layer < backbone.num_layers:
        raise ValueError(f"layer {layer} does not exist: this model has layers 0 .. {backbone.num_layers - 1}")
