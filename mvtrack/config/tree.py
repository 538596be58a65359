"""Between nested dicts, as YAML and JSON hold them, and config dataclasses: every key and value is checked."""

import dataclasses
import typing
from pathlib import Path

import yaml

from mvtrack.config.checked import check, field_types, without_none
from mvtrack.config.errors import did_you_mean


def apply_override(tree: dict, override: str) -> None:
    """Set one value of a tree in place, from text such as section.key=value."""
    key, separator, text = override.partition("=")
    if not separator:
        raise ValueError(f"override {override!r} must look like section.key=value")
    node = tree
    *parents, last = key.split(".")
    for parent in parents:
        node = node.setdefault(parent, {})
        if not isinstance(node, dict):
            raise ValueError(f"override {override!r}: {parent!r} is not a section")
    node[last] = yaml.safe_load(text)


def from_tree(cls: type, tree: typing.Any, where: str) -> typing.Any:
    """Build a config dataclass from nested dicts. Raises ValueError that names the place, key and allowed values."""
    if not isinstance(tree, dict):
        raise ValueError(f"{where} must be a mapping of {cls.__name__} keys, got {tree!r}")
    hints = field_types(cls)
    values = {}
    for key, value in tree.items():
        if key not in hints:
            hint = did_you_mean(key, hints) or f"; known: {', '.join(hints)}"
            raise ValueError(f"{where}: unknown key {key!r}{hint}")
        values[key] = _convert(hints[key], value, f"{where}: {key}")
        check(hints[key], values[key], f"{where}: {key}")
    try:
        return cls(**values)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def _convert(hint: typing.Any, value: typing.Any, where: str) -> typing.Any:
    """Dicts to dataclasses, lists to tuples, text to paths, and numbers to float where that is meant."""
    if typing.get_origin(hint) is typing.Annotated:
        hint = typing.get_args(hint)[0]
    hint = without_none(hint)[0]
    if value is None:
        return None
    if hint is Path and isinstance(value, str):
        return Path(value).expanduser()
    if dataclasses.is_dataclass(hint):
        return from_tree(hint, value, where)
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, (list, tuple)):
            raise ValueError(f"{where} must be a list, got {value!r}")
        args = typing.get_args(hint)
        inner = args[:1] * len(value) if args[-1] is Ellipsis else args
        if len(inner) != len(value):
            raise ValueError(f"{where} must have {len(inner)} entries, got {len(value)}")
        return tuple(_convert(h, v, f"{where}[{i}]") for i, (h, v) in enumerate(zip(inner, value, strict=True)))
    return _number(value) if hint is float else value


def _number(value: typing.Any) -> typing.Any:
    """YAML reads 1e-4 as text and 1 as a whole number."""
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        return value
    try:
        return float(value)
    except ValueError:
        return value


def to_tree(config: typing.Any) -> dict:
    """The opposite of `from_tree`: plain dicts and lists that YAML and JSON can hold."""
    return {f.name: _plain(getattr(config, f.name)) for f in dataclasses.fields(config)}


def _plain(value: typing.Any) -> typing.Any:
    if dataclasses.is_dataclass(value):
        return to_tree(value)
    if isinstance(value, Path):
        return str(value)
    return [_plain(v) for v in value] if isinstance(value, (list, tuple)) else value
