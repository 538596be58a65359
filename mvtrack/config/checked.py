"""Config dataclasses that check their values when they are made, from Python as from YAML and the command line.

    @config
    class FlowConfig:
        shift: Positive = 5.0
        weighting: Literal["wan", "none"] = "wan"

`@config` makes a frozen dataclass, compares every value with its annotation (`Literal` names the allowed values,
`Annotated[int, Range(...)]` bounds numbers), and then runs the class's own `__post_init__`, for what fields mean
together.
"""

import dataclasses
import math
import types
import typing
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

from mvtrack.config.errors import did_you_mean

if TYPE_CHECKING:
    from typing_extensions import dataclass_transform
else:

    def dataclass_transform(**_):
        return lambda decorator: decorator


class Range(NamedTuple):
    """Bounds of a number, both included unless they are open."""

    low: float | None = None
    high: float | None = None
    low_open: bool = False
    high_open: bool = False

    def holds(self, value: float) -> bool:
        above = self.low is None or (value > self.low if self.low_open else value >= self.low)
        below = self.high is None or (value < self.high if self.high_open else value <= self.high)
        return above and below

    def __str__(self) -> str:
        if self.high is None:
            return f"be above {self.low:g}" if self.low_open else f"be at least {self.low:g}"
        left, right = "(" if self.low_open else "[", ")" if self.high_open else "]"
        return f"lie in {left}{self.low:g}, {self.high:g}{right}"


Count = Annotated[int, Range(1)]
NonNegativeInt = Annotated[int, Range(0)]
Positive = Annotated[float, Range(0, low_open=True)]
NonNegative = Annotated[float, Range(0)]
Share = Annotated[float, Range(0, 1)]


@dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field,))
def config(cls: type | None = None, /, *, kw_only: bool = False) -> Any:
    """Class decorator: a frozen dataclass that raises ValueError for values which its annotations do not allow."""
    if cls is None:
        return lambda decorated: config(decorated, kw_only=kw_only)
    own_checks = getattr(cls, "__post_init__", None)  # a base's, too: those of what fields mean together

    def check_values(self) -> None:
        for name, hint in field_types(type(self)).items():
            check(hint, getattr(self, name), name)
        if own_checks is not None:
            own_checks(self)

    cls.__post_init__, cls.__checked__ = check_values, True
    return dataclasses.dataclass(frozen=True, kw_only=kw_only)(cls)


@cache
def field_types(cls: type) -> dict[str, Any]:
    """The resolved annotation of every field, by name."""
    hints = typing.get_type_hints(cls, include_extras=True)
    return {f.name: hints[f.name] for f in dataclasses.fields(cls)}


def without_none(hint: Any) -> list[Any]:
    """The alternatives of a union without None; of another annotation itself."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return [arg for arg in typing.get_args(hint) if arg is not type(None)]
    return [hint]


def check(hint: Any, value: Any, where: str) -> None:
    """Raise ValueError, which names `where`, the allowed values and the given one, if a value is not of a type."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        check(args[0], value, where)
        for bounds in args[1:]:
            if isinstance(bounds, Range) and not bounds.holds(value):
                raise ValueError(f"{where} must {bounds}, got {value}")
    elif origin is Literal:
        if not any(type(value) is type(arg) and value == arg for arg in args):
            allowed = ", ".join(map(str, args))
            raise ValueError(f"{where} must be one of {allowed}, got {value!r}{did_you_mean(value, args)}")
    elif origin in (typing.Union, types.UnionType):
        _check_union(hint, value, where)
    elif origin is tuple:
        if not isinstance(value, tuple):
            raise ValueError(f"{where} must be a tuple, got {value!r}")
        inner = args[:1] * len(value) if args[-1] is Ellipsis else args
        if len(inner) != len(value):
            raise ValueError(f"{where} must have {len(inner)} entries, got {len(value)}")
        for i, (entry_hint, entry) in enumerate(zip(inner, value, strict=True)):
            check(entry_hint, entry, f"{where}[{i}]")
    else:
        _check_plain(hint if origin is None else origin, value, where)


def _check_union(hint: Any, value: Any, where: str) -> None:
    if value is None and type(None) in typing.get_args(hint):
        return
    wrong = []
    for alternative in without_none(hint):
        try:
            check(alternative, value, where)
        except ValueError as error:
            wrong.append(error)
        else:
            return
    raise wrong[0]


def _check_plain(hint: Any, value: Any, where: str) -> None:
    if not isinstance(hint, type):  # Any, a type variable
        return
    is_number = hint in (int, float) and isinstance(value, (int, float) if hint is float else int)
    fits = is_number and not isinstance(value, bool) if hint in (int, float) else isinstance(value, hint)
    if not fits:
        raise ValueError(f"{where} must be {hint.__name__}, got {value!r}")
    if hint is float and math.isnan(value):
        raise ValueError(f"{where} must be a number, got nan")
