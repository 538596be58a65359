"""Between nested dicts, as YAML and JSON hold them, and frozen dataclasses: every key and type is checked."""

import dataclasses
import difflib
import types
import typing
from dataclasses import fields
from typing import Literal

import yaml


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
    """Build a config dataclass from nested dicts, checking every key and type."""
    if not isinstance(tree, dict):
        raise ValueError(f"{where} must be a mapping of {cls.__name__} keys, got {tree!r}")
    hints = typing.get_type_hints(cls)
    known = [f.name for f in fields(cls)]
    for key in tree:
        if key not in known:
            close = difflib.get_close_matches(str(key), known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"
            raise ValueError(f"{where}: unknown key {key!r}; {hint}")
    values = {key: _convert(hints[key], value, f"{where}: {key}") for key, value in tree.items()}
    try:
        return cls(**values)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def _convert(hint: typing.Any, value: typing.Any, where: str) -> typing.Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        return from_tree(hint, value, where)
    if origin is Literal:
        if value not in args:
            raise ValueError(f"{where} must be one of {', '.join(map(str, args))}, got {value!r}")
        return value
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        return _convert(next(a for a in args if a is not type(None)), value, where)
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise ValueError(f"{where} must be a list, got {value!r}")
        inner = [args[0]] * len(value) if args[-1] is Ellipsis else list(args)
        if len(inner) != len(value):
            raise ValueError(f"{where} must have {len(inner)} entries, got {len(value)}")
        return tuple(_convert(h, v, f"{where}[{i}]") for i, (h, v) in enumerate(zip(inner, value, strict=True)))
    return _scalar(hint, value, where)


def _scalar(hint: type, value: typing.Any, where: str) -> typing.Any:
    if hint is float and isinstance(value, str):  # YAML reads 1e-4 as text
        try:
            return float(value)
        except ValueError:
            pass
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise ValueError(f"{where} must be {hint.__name__}, got {value!r}")
    return value


def to_tree(config: typing.Any) -> dict:
    """The opposite of `from_tree`: plain dicts and lists that YAML and JSON can hold."""
    return {f.name: _plain(getattr(config, f.name)) for f in fields(config)}


def _plain(value: typing.Any) -> typing.Any:
    if dataclasses.is_dataclass(value):
        return to_tree(value)
    return [_plain(v) for v in value] if isinstance(value, (list, tuple)) else value
