"""Checkpoint to module, strictly: every difference is either named beforehand or an error."""

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from mvtrack.models.weights.checkpoint import Checkpoint


@dataclass(frozen=True)
class Gaps:
    """What may differ between a checkpoint and a model, as patterns of names (`*` stands for anything).

    new: parameters that a checkpoint may lack, all that match a pattern or none of them. dropped: tensors of the
    checkpoint that are left out on purpose.
    """

    new: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()


@dataclass(frozen=True)
class Match:
    """What goes where: names that are read, parameters that start fresh, tensors that are left out."""

    read: tuple[str, ...]
    new: tuple[str, ...]
    dropped: tuple[str, ...]


def match(expected: dict[str, tuple[int, ...]], checkpoint: Checkpoint, gaps: Gaps | None = None) -> Match:
    """Compare names and shapes. Raises ValueError that shows the first differences and the fix."""
    gaps = gaps or Gaps()
    found = checkpoint.shapes
    dropped = [name for name in found if _matches(name, gaps.dropped)]
    unused = [p for p in gaps.dropped if not any(fnmatchcase(name, p) for name in found)]
    if unused:
        raise ValueError(f"{checkpoint.where} has nothing that {unused[0]!r} could drop: leave that pattern out")
    read = [name for name in found if name in expected and name not in dropped]
    new = _new(expected, set(read), gaps, checkpoint)
    missing = [name for name in expected if name not in found and name not in new]
    unexpected = [name for name in found if name not in expected and name not in dropped]
    shapes = [
        f"{name} is {list(found[name])}, the model has {list(expected[name])}"
        for name in read
        if found[name] != tuple(expected[name])
    ]
    problems = [f"{n} is missing" for n in missing] + [f"{n} has no place in the model" for n in unexpected] + shapes
    if problems:
        hint = "use the config that it was made with"
        if unexpected and not missing and not shapes:
            hint += f", or drop them on purpose (drop {pattern_of(unexpected[0])!r})"
        shown = "; ".join(problems[:3])
        raise ValueError(f"{checkpoint.where} does not fit the model: {shown} ({len(problems)} differences): {hint}")
    return Match(tuple(read), tuple(new), tuple(dropped))


def _new(expected: Iterable[str], read: set[str], gaps: Gaps, checkpoint: Checkpoint) -> list[str]:
    """Parameters that start fresh. A group of which the checkpoint has a part was cut off: that is an error."""
    new = []
    for pattern in gaps.new:
        group = [name for name in expected if fnmatchcase(name, pattern)]
        absent = [name for name in group if name not in read]
        if absent and len(absent) < len(group):
            raise ValueError(
                f"{checkpoint.where} has {len(group) - len(absent)} of {len(group)} {pattern!r} and lacks {absent[0]}: "
                "it was cut off or is of another depth"
            )
        new += absent
    return [name for name in expected if name in set(new)]


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def pattern_of(name: str) -> str:
    """The pattern of a name in every block."""
    return ".".join("*" if part.isdigit() and i == 1 else part for i, part in enumerate(name.split(".")[:-1])) + ".*"


def load_into(
    module: nn.Module, checkpoint: Checkpoint, gaps: Gaps | None = None, dtype: torch.dtype | None = None
) -> Match:
    """Give a module (of meta tensors, as a rule) the checkpoint's tensors, without copying them where types agree.

    dtype: floating-point type of the result; None keeps the file's. New parameters are left as they are.
    """
    own = module.state_dict()
    matched = match({name: tuple(tensor.shape) for name, tensor in own.items()}, checkpoint, gaps)
    state = {name: convert(checkpoint.read(name), dtype) for name in matched.read}
    module.load_state_dict(state, assign=True, strict=not matched.new)
    return matched


def convert(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    """A floating-point tensor in another type; others, and those of that type, as they are."""
    return tensor.to(dtype) if dtype is not None and tensor.is_floating_point() else tensor
