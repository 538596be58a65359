"""Config dataclasses as command lines: each option is declared once, as a field with its type, default and help.

    @config(kw_only=True)
    class Preview(Command):
        "See a camera path before rendering it."

        video: Path = positional("video file, GIF, image, or folder of images")
        port: Count = option(8080, "of the page")  # --port 8080
        shot: ShotOptions = section(ShotOptions, "the shot")  # its fields are flags, too

    def main(arguments: list[str] | None = None) -> int:
        return run(Preview, _preview, arguments, "mvtrack preview")  # calls _preview(options: Preview)

A field without `option`, `positional` or `section` is no option. A bool is a switch, `bool | None` one that can be set
either way (--compile, --no-compile), `Literal` names choices, a tuple takes several values; types and bounds are
checked as `config` checks them. `section(..., prefix="pose-")` prefixes the flags of a dataclass, `section(...,
fit="pad")` changes its defaults. Where an option would have no effect, `refuse_unused(options, "fov", why=...)` says
so. A field made by `overrides()` takes `section.key=value`.

Built on argparse, not tyro: flags in people's scripts keep their spelling, an error is one line that names the flag,
the value and the nearest known one (tyro draws boxes), and start-up stays short (importing tyro takes 0.1 s).
"""

import argparse
import dataclasses
import re
import sys
import typing
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import MISSING, dataclass, field
from typing import Annotated, Any, Literal, NamedTuple

from mvtrack.config.checked import check, config, field_types, without_none
from mvtrack.config.errors import did_you_mean, run_command

_running: ContextVar[type | None] = ContextVar("_running", default=None)  # the command's class
_OVERRIDE = re.compile(r"[A-Za-z_]\w*(\.\w+)+=.*", re.DOTALL)


@dataclass(frozen=True)
class _Option:
    """How a field is typed.

    parse: makes a value of text; its ValueError completes a sentence that begins with the flag. repeat: a tuple by
    giving the flag several times. alone: name of a group of which only one may be given.
    """

    kind: Literal["flag", "positional", "section", "overrides"]
    help: str
    flag: str | None = None
    metavar: str | None = None
    parse: Callable[[str], Any] | None = None
    repeat: bool = False
    alone: str | None = None
    required: tuple[str, ...] = ()
    without: tuple[str, ...] = ()


def _field(option: _Option, default: Any = MISSING) -> Any:
    return field(default=default, metadata={"option": option})


def option(
    default: Any, help: str, *, flag: str | None = None, metavar: str | None = None,
    parse: Callable[[str], Any] | None = None, repeat: bool = False, alone: str | None = None,
) -> Any:  # fmt: skip
    """A field that is a flag; default `...`: it has to be given. See `_Option`."""
    return _field(_Option("flag", help, flag, metavar, parse, repeat, alone), MISSING if default is ... else default)


def positional(help: str, default: Any = ..., *, metavar: str | None = None) -> Any:
    """A field that is typed without a flag."""
    return _field(_Option("positional", help, metavar=metavar), MISSING if default is ... else default)


def overrides(help: str = "change single settings") -> Any:
    """A field tuple[str, ...] of `section.key=value`, which may stand anywhere."""
    return _field(_Option("overrides", help, metavar="section.key=value"), ())


def section(
    cls: type, title: str, *, prefix: str = "", required: tuple[str, ...] = (), without: tuple[str, ...] = (),
    **defaults: Any,
) -> Any:  # fmt: skip
    """A field that holds another config, whose options are a group of the help.

    prefix: of the flags. required: fields that have to be given here. without: fields that are no options here.
    """
    option = _Option("section", title, flag=prefix, required=required, without=without)
    return field(default_factory=lambda: cls(**defaults), metadata={"option": option})


@config(kw_only=True)
class Command:
    """What every command takes."""

    debug: bool = option(False, "show a traceback when something fails")


class _Flag(NamedTuple):
    """One option of a command. path: of its field, through sections. owner: the class that the field is one of.
    default: MISSING where it has to be given."""

    path: tuple[str, ...]
    prefix: str
    owner: type
    option: _Option
    type: Any
    default: Any
    typed: str
    title: str

    @property
    def has_two_ways(self) -> bool:
        """Whether it is a switch that may be set either way, or left alone."""
        return self.type is not bool and _base(self.type) is bool

    @property
    def spellings(self) -> list[str]:
        return [self.typed, self.typed.replace("--", "--no-", 1)] if self.has_two_ways else [self.typed]

    @property
    def key(self) -> str:
        return ".".join(self.path)


def _flags(cls: type, default: Any = MISSING, within: _Flag | None = None, prefix: str = "") -> Iterator[_Flag]:
    hints, above = field_types(cls), within.option if within else _Option("section", "")
    for f in sorted(dataclasses.fields(cls), key=lambda f: _place(cls, f)):
        opt = f.metadata.get("option")
        if opt is None or f.name in above.without:
            continue
        path = (*(within.path if within else ()), f.name)
        known = getattr(default, f.name) if default is not MISSING else f.default
        if f.name in above.required:
            known = MISSING
        if opt.kind == "section":
            made = f.default_factory() if default is MISSING else known
            yield from _flags(
                type(made), made, _Flag(path, prefix, cls, opt, type(made), made, "", opt.help), prefix + opt.flag
            )
            continue
        name = f.name.replace("_", "-")
        typed = opt.flag or f"--{prefix}{'no-' if known is True else ''}{name}"
        yield _Flag(
            path,
            prefix,
            cls,
            opt,
            hints[f.name],
            known,
            name if opt.kind != "flag" else typed,
            within.title if within else "",
        )


def _place(cls: type, f: dataclasses.Field) -> int:
    """Positionals keep their order; of the others those of a class stand before those of its base classes."""
    if "option" in f.metadata and f.metadata["option"].kind == "positional":
        return -1
    return next(i for i, base in enumerate(cls.__mro__) if f.name in base.__dict__.get("__annotations__", {}))


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> typing.NoReturn:
        raise ValueError(f"{message.removeprefix('argument ')} (--help lists the options)")


def _parser(cls: type, flags: list[_Flag], prog: str) -> _Parser:
    needed = [f"{flag.typed} {_metavar(_base(flag.type), flag)}" for flag in flags if _is_needed(flag)]
    words = [(_metavar(_base(flag.type), flag), flag.default is MISSING) for flag in flags if not _is_flag(flag)]
    words = [word if is_needed else f"[{word}]" for word, is_needed in words]
    usage = _escaped(" ".join([prog, *words, *needed, "[options]"]))
    parser = _Parser(
        prog=prog, usage=usage, description=_escaped(cls.__doc__ or ""), argument_default=argparse.SUPPRESS
    )
    groups: dict[str, Any] = {"": parser}
    for flag in flags:
        group = groups.setdefault(flag.title, None) or parser.add_argument_group(_escaped(flag.title))
        groups[flag.title] = group
        if flag.option.alone:
            key = f"{flag.title}/{flag.option.alone}"
            group = groups.setdefault(key, None) or group.add_mutually_exclusive_group()
            groups[key] = group
        _add(group, flag)
    return parser


def _is_flag(flag: _Flag) -> bool:
    return flag.option.kind == "flag"


def _is_needed(flag: _Flag) -> bool:
    return _is_flag(flag) and flag.default is MISSING


def _add(group: Any, flag: _Flag) -> None:
    opt, hint = flag.option, _base(flag.type)
    several, has_default = typing.get_origin(hint) is tuple and opt.parse is None, flag.default is not MISSING
    known: dict[str, Any] = {"help": _escaped(opt.help) + _shown_default(flag), "dest": flag.key}
    if hint is bool:
        action = argparse.BooleanOptionalAction if flag.has_two_ways else "store_true"
        group.add_argument(flag.typed, action=action, **known)
        return
    known["metavar"] = _metavar(hint, flag)
    if opt.kind != "flag":
        known["nargs"] = ("*" if has_default else "+") if several else "?" if has_default else None
        group.add_argument(**known)
    elif opt.repeat:
        group.add_argument(flag.typed, action="append", **known)
    else:
        group.add_argument(flag.typed, nargs="+" if several else None, **known)


def _base(hint: Any) -> Any:
    """An annotation without None and bounds."""
    hint = without_none(hint)[0]
    return _base(typing.get_args(hint)[0]) if typing.get_origin(hint) is Annotated else hint


def _metavar(hint: Any, flag: _Flag) -> str:
    if flag.option.metavar:
        return flag.option.metavar
    if typing.get_origin(hint) is tuple:
        hint = _base(typing.get_args(hint)[0])
    if typing.get_origin(hint) is Literal:
        return "{" + ",".join(map(str, typing.get_args(hint))) + "}"
    return flag.typed if flag.option.kind != "flag" else flag.path[-1].upper()


def _shown_default(flag: _Flag) -> str:
    shown = flag.default
    if shown is MISSING or shown in (None, (), "") or isinstance(shown, bool) or "default" in flag.option.help:
        return ""
    text = " ".join(map(str, shown)) if isinstance(shown, tuple) else shown
    return _escaped(f"; default: {text}")


def _escaped(text: str) -> str:
    return text.replace("%", "%%")


def parse(cls: type, arguments: list[str] | None, prog: str, retired: dict[str, str] | None = None) -> Any:
    """An instance of a command's class from typed arguments (None: the process's own).

    retired: flags that are gone, with what to type instead. Raises ValueError of one line that names the flag.
    """
    arguments, flags = list(sys.argv[1:] if arguments is None else arguments), list(_flags(cls))
    _refuse_unknown(arguments, [typed for flag in flags if _is_flag(flag) for typed in flag.spellings], retired or {})
    given = vars(_parser(cls, flags, prog).parse_intermixed_args(arguments))
    if any(flag.option.kind == "overrides" for flag in flags):
        _sort_words(given, flags)
    values = {}
    for flag in flags:
        if flag.key in given:
            values[flag.key] = _value(flag, given[flag.key])
        elif flag.default is MISSING:
            raise ValueError(f"{flag.typed} is needed: {flag.option.help}")
    return _build(cls, values)


def _refuse_unknown(arguments: list[str], known: list[str], retired: dict[str, str]) -> None:
    known = [*known, "--help"]
    for argument in arguments:
        if argument == "--":
            return
        name = argument.split("=")[0]
        if name in retired:
            raise ValueError(f"{name} is gone: {retired[name]}")
        if name.startswith("--") and not any(flag.startswith(name) for flag in known):
            raise ValueError(f"unknown option {name}{did_you_mean(name, known) or '; --help lists the options'}")


def _sort_words(given: dict[str, Any], flags: list[_Flag]) -> None:
    """Give what looks like an override to that field, wherever it stood, and the other words to the positionals."""
    places = [flag for flag in flags if flag.option.kind != "flag"]
    words = []
    for flag in places:
        said = given.pop(flag.key, ())
        words += [said] if isinstance(said, str) else said
    plain = [word for word in words if not _OVERRIDE.fullmatch(word)]
    for flag in places:
        if flag.option.kind == "positional" and plain:
            given[flag.key] = plain.pop(0)
        elif flag.option.kind == "overrides":
            given[flag.key] = plain + [word for word in words if _OVERRIDE.fullmatch(word)]


def _value(flag: _Flag, said: Any) -> Any:
    if isinstance(said, bool):  # a switch
        return said if flag.has_two_ways else flag.default is not True
    if isinstance(said, list):
        inner = typing.get_args(_base(flag.type))[0]
        value = tuple(_from_text(inner, text, flag) for text in said)
    else:
        value = _from_text(flag.type, said, flag)
    check(flag.type, value, flag.typed)
    return value


def _from_text(hint: Any, text: str, flag: _Flag) -> Any:
    if flag.option.parse is not None:
        try:
            return flag.option.parse(text)
        except ValueError as error:
            raise ValueError(f"{flag.typed} {error}") from error
    hint = _base(hint)
    if typing.get_origin(hint) is Literal:
        return next((choice for choice in typing.get_args(hint) if str(choice) == text), text)
    try:
        return hint(text)
    except ValueError as error:
        kind = "a whole number" if hint is int else "a number"
        raise ValueError(f"{flag.typed} must be {kind}, got {text!r}") from error


def _build(cls: type, values: dict[str, Any], base: Any = None, at: str = "") -> Any:
    own = {}
    for f in dataclasses.fields(cls):
        key = f"{at}{f.name}"
        if key in values:
            own[f.name] = values[key]
        elif "option" in f.metadata and f.metadata["option"].kind == "section":
            default = f.default_factory() if base is None else getattr(base, f.name)
            own[f.name] = _build(type(default), values, default, f"{key}.")
    return cls(**own) if base is None else dataclasses.replace(base, **own)


def with_text(options: Any, texts: dict[str, str]) -> Any:
    """The same options with other values, by their flags' names without dashes, as if they had been typed."""
    flags = {flag.typed.removeprefix("--"): flag for flag in _flags(type(options))}
    return _build(type(options), {flags[name].key: _value(flags[name], text) for name, text in texts.items()}, options)


def changed_flags(options: Any, *names: str) -> list[str]:
    """The flags, as typed, of these fields (of a section: of all its fields) whose values are not the defaults; fields
    whose flags have a prefix only by their section's name."""
    changed = []
    for flag in _flags(type(options)):
        value = options
        for name in flag.path:
            value = getattr(value, name)
        fields = flag.path[:-1] if flag.prefix else flag.path
        if value != flag.default and set(names) & set(fields):
            changed.append(flag.typed)
    return changed


def typed(cls: type, name: str, elsewhere: str) -> str:
    """How a field of a section's class is given, for messages: its flag in the command that runs, such as --pose-fov;
    where that has none, the flag of the command `elsewhere`; where no command runs, the field's name."""
    command = _running.get()
    if command is None:
        return name
    flags = (flag.typed for flag in _flags(command) if flag.path[-1] == name and issubclass(flag.owner, cls))
    return next(flags, f"--{name.replace('_', '-')} of {elsewhere}")


def refuse_unused(options: Any, *names: str, why: str) -> None:
    """Raise ValueError for the first of these fields that was given, since nothing reads it. why: `it is for ...`."""
    for flag in changed_flags(options, *names)[:1]:
        raise ValueError(f"{flag} has no effect, {why}")


def run(
    cls: type, work: Callable[[Any], None], arguments: list[str] | None, prog: str, less_memory: str = "",
    retired: dict[str, str] | None = None,
) -> int:  # fmt: skip
    """Parse, work, and return the exit code; see `parse` and `run_command`. Until then `typed` gives this command's
    flags."""
    before = _running.set(cls)
    try:
        try:
            options = parse(cls, arguments, prog, retired)
        except ValueError as error:
            sys.stderr.write(f"{prog}: {error}\n")
            return 2
        return run_command(lambda: work(options), prog, options.debug, less_memory)
    finally:
        _running.reset(before)
