"""Configs check their values when they are made, in Python as in YAML."""

import dataclasses
import importlib
import pkgutil
import types
import typing
from pathlib import Path
from typing import Annotated, Literal

import pytest

import mvtrack
import tracking_head
from mvtrack.config.checked import Count, Positive, Range, config
from mvtrack.config.losses import CorrespondenceLossConfig
from mvtrack.config.model import DiTConfig, FlowConfig, ModelConfig
from mvtrack.config.placement import Placement
from mvtrack.config.run import RunConfig
from mvtrack.evaluation.ablation.experiment import Arm
from mvtrack.geometry.trajectory import CameraMotion, CameraPath
from tracking_head import CorrelationConfig, HeadConfig, TrackLossConfig


@config
class Inner:
    rate: Positive = 1


@config
class Outer:
    kind: Literal["a", "b", 1] = "a"
    count: Count | None = 3
    share: Annotated[float, Range(0, 1, high_open=True)] = 0.5
    pair: tuple[int, int] = (1, 2)
    names: tuple[str, ...] = ()
    inner: Inner = Inner()
    is_on: bool = False

    def __post_init__(self) -> None:
        if self.is_on and self.count is None:
            raise ValueError("is_on needs count")


def test_allowed_values_pass():
    made = Outer(kind=1, count=None, share=0, pair=(3, 4), names=("x",), inner=Inner(0.5))
    assert (made.kind, made.share, made.inner.rate) == (1, 0, 0.5)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "aa"}, "kind must be one of a, b, 1, got 'aa'; did you mean 'a'?"),
        ({"kind": True}, "kind must be one of a, b, 1, got True"),
        ({"count": 0}, "count must be at least 1, got 0"),
        ({"count": 1.0}, "count must be int, got 1.0"),
        ({"count": True}, "count must be int, got True"),
        ({"share": 1.0}, r"share must lie in [0, 1), got 1.0"),
        ({"share": float("nan")}, "share must be a number, got nan"),
        ({"share": "0.5"}, "share must be float, got '0.5'"),
        ({"pair": [1, 2]}, "pair must be a tuple, got [1, 2]"),
        ({"pair": (1, 2, 3)}, "pair must have 2 entries, got 3"),
        ({"pair": (1, "2")}, "pair[1] must be int, got '2'"),
        ({"names": "x"}, "names must be a tuple, got 'x'"),
        ({"inner": {}}, "inner must be Inner, got {}"),
        ({"is_on": 1}, "is_on must be bool, got 1"),
        ({"is_on": None}, "is_on must be bool, got None"),
        ({"is_on": True, "count": None}, "is_on needs count"),
    ],
)
def test_wrong_values_are_named_with_the_allowed_ones(values, message):
    with pytest.raises(ValueError) as raised:  # noqa: PT011
        Outer(**values)
    assert str(raised.value) == message


def test_values_are_checked_when_replaced():
    with pytest.raises(ValueError, match=r"rate must be above 0, got -1"):
        dataclasses.replace(Inner(), rate=-1)


NEEDED = {  # a value of each type that fields without a default have
    Path: Path("x"), tuple[Path, ...]: (Path("x"),), str: "x", int: 1, CameraMotion: CameraPath("arc_left"),
    tuple[Arm, ...]: (Arm("x", "x"), Arm("y", "y")),
}  # fmt: skip


def public_configs() -> list[type]:
    """Every config of the project, by its name or since it was made by `config`."""
    found = {}
    for package in (mvtrack, tracking_head):
        for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if ".workers" in info.name or info.name.endswith("__main__"):  # run in other environments
                continue
            module = importlib.import_module(info.name)
            for name, thing in vars(module).items():
                is_own = isinstance(thing, type) and dataclasses.is_dataclass(thing) and thing.__module__ == info.name
                if is_own and (name.endswith(("Config", "Options")) or hasattr(thing, "__checked__")):
                    found[f"{info.name}.{name}"] = thing
    return [found[name] for name in sorted(found)]


def _literals(cls: type) -> list[str]:
    """Names of the fields that are chosen from a list."""
    return [name for name, hint in typing.get_type_hints(cls).items() if _choices(hint)]


def _choices(hint: object) -> tuple:
    if typing.get_origin(hint) is Literal:
        return typing.get_args(hint)
    is_union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return next(filter(None, map(_choices, typing.get_args(hint))), ()) if is_union else ()


@pytest.mark.usefixtures("unchecked")
def test_every_choice_of_every_config_is_checked():
    """A wrong word in any field that is a choice is refused, and the allowed ones are named."""
    configs = public_configs()
    assert {CorrespondenceLossConfig, CorrelationConfig, FlowConfig, DiTConfig, Placement, HeadConfig} <= set(configs)
    accepted = []
    for cls in configs:
        needed = [f for f in dataclasses.fields(cls) if f.default is f.default_factory is dataclasses.MISSING]
        for name in _literals(cls):
            hints = typing.get_type_hints(cls)
            values = {f.name: NEEDED[hints[f.name]] for f in needed}
            allowed = ", ".join(map(str, _choices(hints[name])))
            try:
                cls(**values | {name: "no such word"})
            except ValueError as error:
                if f"{name} must be one of {allowed}, got 'no such word'" in str(error):
                    continue
            accepted.append(f"{cls.__module__}.{cls.__qualname__}.{name}")
    assert not accepted


def test_defaults_are_a_whole_config():
    assert ModelConfig().codec.kind == "wan_vae"
    assert RunConfig().model == ModelConfig()


@pytest.mark.parametrize(
    ("cls", "values", "message"),
    [
        (TrackLossConfig, {"position": -1.0}, "position must be at least 0, got -1.0"),
        (TrackLossConfig, {"gamma": "1"}, "gamma must be float, got '1'"),
        (CorrelationConfig, {"levels": 2.0}, "levels must be int, got 2.0"),
        (CorrelationConfig, {"chunk_points": 0}, "chunk_points must be at least 1, got 0"),
        (HeadConfig, {"time_length": "9"}, "time_length must be int or NoneType, got '9'"),
        (HeadConfig, {"correlation": None}, "correlation must be CorrelationConfig, got None"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_the_tracking_head_checks_its_own_configs(cls, values, message):
    with pytest.raises(ValueError) as raised:  # noqa: PT011
        cls(**values)
    assert str(raised.value) == message
