"""Which model a file holds and under which project's names, told by keys alone; then the same under official names."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from mvtrack.models.weights.checkpoint import Checkpoint, open_checkpoint
from mvtrack.models.weights.naming import DIT_DIFFUSERS, TEXT_TRANSFORMERS, VAE_DIFFUSERS, Naming

Part = Literal["dit", "vae", "text", "image"]

DELTA = "self-attention delta"

PART_NAMES: dict[Part, str] = {
    "dit": "a video transformer", "vae": "a VAE", "text": "a text encoder", "image": "an image encoder",
}  # fmt: skip


@dataclass(frozen=True)
class Layout:
    """How a project writes one kind of model.

    marker: a key that no other layout has. naming: table to official names; None where the names are official.
    without: keys that say that it is not this layout. duplicates: (key, original) of tied tensors: the key is left out
    where the original is there, else it takes its place. foreign: beginnings of keys that belong to another model in
    the same file and are left out.
    """

    part: Part
    name: str
    marker: str
    naming: Naming | None = None
    without: tuple[str, ...] = ()
    duplicates: tuple[tuple[str, str], ...] = ()
    foreign: tuple[str, ...] = ()


LAYOUTS = (
    Layout("dit", "diffusers", "condition_embedder.time_embedder.linear_1.weight", DIT_DIFFUSERS),
    Layout("dit", "official", "head.modulation"),
    Layout("dit", DELTA, "blocks.0.self_attn.q.weight", without=("head.modulation",)),
    Layout("vae", "diffusers", "decoder.mid_block.resnets.0.norm1.gamma", VAE_DIFFUSERS),
    Layout("vae", "official", "decoder.middle.0.residual.0.gamma"),
    Layout("text", "official", "blocks.0.pos_embedding.embedding.weight"),
    Layout(
        "text", "transformers", "encoder.block.0.layer.0.SelfAttention.q.weight", TEXT_TRANSFORMERS,
        duplicates=(("encoder.embed_tokens.weight", "shared.weight"),),
    ),
    Layout("image", "official", "visual.cls_embedding", foreign=("textual.", "log_scale")),
)  # fmt: skip


@dataclass(frozen=True)
class Identified:
    """A layout and the beginning that all keys carry before it (a wrapper's name, such as `model.`)."""

    layout: Layout
    prefix: str


def identify(checkpoint: Checkpoint) -> Identified:
    """Which layout a checkpoint has. Raises ValueError that shows what it holds instead."""
    for layout in LAYOUTS:
        prefix = _prefix(checkpoint, layout)
        if prefix is not None and not any(prefix + key in checkpoint.tensors for key in layout.without):
            return Identified(layout, prefix)
    shown = ", ".join(list(checkpoint.tensors)[:3])
    raise ValueError(
        f"{checkpoint.where} is not a known kind of Wan weights: its {len(checkpoint.tensors)} tensors begin with "
        f"{shown}; known are {', '.join(f'{x.name} {x.part}' for x in LAYOUTS)}"
    )


def _prefix(checkpoint: Checkpoint, layout: Layout) -> str | None:
    """What stands before the marker; None without the marker. Only whole words count."""
    for key in checkpoint.tensors:
        if key == layout.marker or key.endswith("." + layout.marker):
            return key.removesuffix(layout.marker)
    return None


def with_official_names(checkpoint: Checkpoint, part: Part) -> Checkpoint:
    """A checkpoint of `part` under official names, whatever it carries now.

    Nothing is left out but what the layout lists: duplicates and other models in the same file. Raises ValueError when
    it is another part, or a name has no official counterpart.
    """
    found = identify(checkpoint)
    if found.layout.part != part:
        raise ValueError(f"{checkpoint.where} is {PART_NAMES[found.layout.part]}, {PART_NAMES[part]} was expected")
    checkpoint = checkpoint.renamed(lambda name: _without_prefix(checkpoint, name, found.prefix))
    left_out = [n for n in checkpoint.tensors if n.startswith(found.layout.foreign)] if found.layout.foreign else []
    checkpoint = checkpoint.without(left_out)
    for copy, original in found.layout.duplicates:
        if original in checkpoint.tensors:
            checkpoint = checkpoint.without([copy])
        else:
            checkpoint = checkpoint.renamed(lambda name, c=copy, o=original: o if name == c else name)
    naming = found.layout.naming
    if naming is None:
        return checkpoint
    unknown = [name for name in checkpoint.tensors if naming.to_official(name) is None]
    if unknown:
        raise ValueError(
            f"{checkpoint.where}: {len(unknown)} names of the {found.layout.name} layout have no official counterpart, "
            f"{unknown[0]} first"
        )
    return checkpoint.renamed(naming.to_official)


def _without_prefix(checkpoint: Checkpoint, name: str, prefix: str) -> str:
    if not name.startswith(prefix):
        raise ValueError(f"{checkpoint.where}: {name} lacks the beginning {prefix!r} that the others carry")
    return name.removeprefix(prefix)


class DiTFile(NamedTuple):
    """A transformer under official names; is_delta: it holds self-attention only, to be laid over a base."""

    checkpoint: Checkpoint
    is_delta: bool


def open_dit(path: Path) -> DiTFile:
    """Open a transformer's file in any layout."""
    checkpoint = open_checkpoint(path)
    return DiTFile(with_official_names(checkpoint, "dit"), identify(checkpoint).layout.name == DELTA)
