"""Configs that refuse values which their annotations do not allow."""

import dataclasses
import types
import typing
from typing import Any, Literal


def check_fields(config: Any, at_least: dict[str, int] | None = None) -> None:
    """Raise ValueError, which names the field and the allowed values, for a field of another type or too small.

    Knows `Literal`, bool, int, float, `X | None` and dataclasses. at_least: lower bounds, by name; None passes.
    """
    hints = typing.get_type_hints(type(config))
    for field in dataclasses.fields(config):
        value, allowed = getattr(config, field.name), _alternatives(hints[field.name])
        choices = [choice for kind in allowed if typing.get_origin(kind) is Literal for choice in typing.get_args(kind)]
        if not any(_fits(value, kind) for kind in allowed):
            names = ", ".join(map(str, choices)) if choices else " or ".join(kind.__name__ for kind in allowed)
            raise ValueError(f"{field.name} must be {'one of ' if choices else ''}{names}, got {value!r}")
        low = (at_least or {}).get(field.name)
        if low is not None and value is not None and value < low:
            raise ValueError(f"{field.name} must be at least {low}, got {value}")


def _alternatives(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)


def _fits(value: Any, kind: Any) -> bool:
    if typing.get_origin(kind) is Literal:
        return any(type(value) is type(choice) and value == choice for choice in typing.get_args(kind))
    if kind in (int, float):
        return isinstance(value, (int, kind)) and not isinstance(value, bool) and value == value  # not nan
    return isinstance(value, kind)
