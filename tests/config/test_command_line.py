"""A command of one of each kind of option, typed well and badly."""

from pathlib import Path
from typing import Literal

import pytest

from mvtrack.config.checked import Count, Positive, config
from mvtrack.config.command_line import (
    Command,
    changed_flags,
    option,
    overrides,
    parse,
    positional,
    refuse_unused,
    run,
    section,
    typed,
    with_text,
)


def _size(text: str) -> tuple[int, int]:
    height, _, width = text.partition("x")
    if not (height.isdigit() and width.isdigit()):
        raise ValueError(f"must look like 11x13, got {text!r}")
    return int(height), int(width)


@config
class Lens:
    kind: Literal["wide", "tele"] = option("wide", "of the lens")
    focal_px: Positive | None = option(None, "100% of it", metavar="PX")
    inner: float = 7.0  # no option

    def __post_init__(self) -> None:
        if self.kind == "tele" and self.focal_px is None:
            raise ValueError("--kind tele needs --focal-px")


@config(kw_only=True)
class Film(Command):
    """Film something."""

    scene: Path | None = positional("what is filmed", None)
    steps: Count = option(3, "how many")
    name: str = option(..., "of the film", flag="--call")
    layers: tuple[int, ...] = option((), "several at once")
    skip: tuple[str, ...] = option((), "several, one by one", repeat=True)
    size: tuple[int, int] | None = option(None, "of pictures", parse=_size)
    sound: bool = option(True, "leave it out")
    loud: bool = option(False, "more")
    fast: bool | None = option(None, "quicker; default: where that pays")
    by_day: str | None = option(None, "light", alone="light")
    by_night: str | None = option(None, "light", alone="light")
    lens: Lens = section(Lens, "the lens", prefix="lens-", kind="tele", focal_px=5.0)
    second: Lens = section(Lens, "another", without=("focal_px",))
    changes: tuple[str, ...] = overrides()


def film(*arguments) -> Film:
    return parse(Film, ["--call", "x", *map(str, arguments)], "film")


def test_defaults_are_those_of_the_fields():
    assert film() == Film(name="x")
    assert film().lens == Lens("tele", 5.0)


def test_every_kind_of_option_is_read():
    made = film("park", "--steps", 5, "--layers", 2, 3, "--skip", "a", "--skip", "b", "--size", "11x13", "--no-sound")
    assert (made.scene, made.steps, made.layers, made.skip) == (Path("park"), 5, (2, 3), ("a", "b"))
    assert (made.size, made.sound, made.loud) == ((11, 13), False, False)
    made = film("--lens-kind=wide", "--lens-focal-px", 2e3, "--kind", "wide", "--loud", "--debug")
    assert (made.lens, made.second, made.loud, made.debug) == (Lens("wide", 2000.0), Lens(), True, True)
    assert [film(*said).fast for said in ((), ("--fast",), ("--no-fast",))] == [None, True, False]
    with pytest.raises(ValueError, match="unknown option --no-loud"):
        film("--no-loud")


def test_overrides_stand_anywhere():
    assert film("a.b=1", "--steps", 2, "park", "c.d=x y").changes == ("a.b=1", "c.d=x y")
    assert film("a.b=1", "park").scene == Path("park")
    assert film("a.b=1").scene is None
    assert film("park", "c=d").changes == ("c=d",)  # refused where it is applied


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--stepz", "3"], "unknown option --stepz; did you mean '--steps'?"),
        (["--set", "a.b=1"], "--set is gone: write a.b=1"),
        (["--steps", "many"], "--steps must be a whole number, got 'many'"),
        (["--steps", "0"], "--steps must be at least 1, got 0"),
        (["--steps"], "--steps: expected one argument"),
        (["--lens-focal-px", "-2"], "--lens-focal-px must be above 0, got -2.0"),
        (["--lens-focal-px", "nan"], "--lens-focal-px must be a number, got nan"),
        (["--lens-kind", "telle"], "--lens-kind must be one of wide, tele, got 'telle'; did you mean 'tele'?"),
        (["--size", "big"], "--size must look like 11x13, got 'big'"),
        (["--by-day", "a", "--by-night", "b"], "--by-night: not allowed with argument --by-day"),
        (["--kind", "tele"], "--kind tele needs --focal-px"),
    ],
)
def test_bad_arguments_are_one_line_that_names_the_flag(capsys, arguments, message):
    retired = {"--set": "write a.b=1"}
    code = run(Film, lambda _: pytest.fail("it ran"), ["--call", "x", *arguments], "film", retired=retired)
    said = capsys.readouterr().err
    assert code == 2
    assert said.startswith(f"film: {message}")
    assert said.count("\n") == 1


def test_messages_name_fields_as_they_are_typed(capsys):
    """Of the command that runs, with its prefix; of another one where it has no such flag; in Python by name."""

    def work(_):
        raise ValueError(" ".join(typed(Lens, name, "`film develop`") for name in ("kind", "focal_px", "inner")))

    assert run(Film, work, ["--call", "x"], "film") == 2
    assert capsys.readouterr().err == "film: --lens-kind --lens-focal-px --inner of `film develop`\n"
    assert typed(Lens, "focal_px", "`film develop`") == "focal_px"


def test_checks_of_a_base_class_hold_for_those_built_on_it():
    @config
    class Zoom(Lens):
        factor: Positive = 2.0

    with pytest.raises(ValueError, match="--kind tele needs --focal-px"):
        Zoom("tele")


def test_a_needed_option_is_named(capsys):
    assert run(Film, pytest.fail, [], "film") == 2
    assert capsys.readouterr().err == "film: --call is needed: of the film\n"


def test_help_lists_every_option_with_its_default(capsys):
    with pytest.raises(SystemExit):
        film("--help")
    told = capsys.readouterr().out
    for text in ("Film something.", "--steps STEPS", "default: 3", "{wide,tele}", "100% of it", "the lens:", "[scene]"):
        assert text in told
    assert "--focal-px" not in told.replace("--lens-focal-px", "")
    assert "--inner" not in told


def test_options_are_replaced_by_text():
    made = with_text(film("--loud"), {"steps": "7", "lens-focal-px": "2"})
    assert (made.steps, made.loud, made.lens, made.second) == (7, True, Lens("tele", 2.0), Lens())
    with pytest.raises(ValueError, match="--steps must be a whole number, got 'x'"):
        with_text(film(), {"steps": "x"})


def test_options_without_effect_are_refused():
    made = film("--lens-focal-px", 9, "--loud")
    assert changed_flags(made, "lens", "loud", "steps") == ["--loud", "--lens-focal-px"]
    assert changed_flags(made, "focal_px", "loud") == ["--loud"]  # another one may be --focal-px
    refuse_unused(made, "steps", "second", why="")
    with pytest.raises(ValueError, match="--lens-focal-px has no effect, it is for lenses: leave it out"):
        refuse_unused(made, "lens", why="it is for lenses: leave it out")
