"""A benchmark in memory, a rendered DAVIS and iPhone of a few pixels, and metrics that do as they are told."""

import runpy
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mvtrack.config import errors
from mvtrack.config.command_line import parse
from mvtrack.config.views import ViewsConfig
from mvtrack.evaluation.benchmarks.davis import Davis
from mvtrack.evaluation.benchmarks.davis_miniature import DavisMiniatureStyle, write_davis_miniature
from mvtrack.evaluation.benchmarks.iphone import IPhone
from mvtrack.evaluation.benchmarks.iphone_miniature import IphoneMiniatureStyle, write_iphone_miniature
from mvtrack.evaluation.command import RETIRED, BenchmarkCommand
from mvtrack.evaluation.interface import Benchmark, Column, Estimator, Inputs, Metric, failed, skipped
from mvtrack.evaluation.report.columns import CAMERA, VBENCH
from mvtrack.geometry.camera import Camera, intrinsics_from_fov
from mvtrack.models.reshoot_model import ReshootModel, build_model

ROOT = Path(__file__).parents[2]
T, H, W = 5, 13, 17


@dataclass
class Toy(Benchmark):
    """Three cases of smooth random videos; `broken` cases cannot be read, `content` stands for the files' bytes."""

    broken: tuple[str, ...] = ()
    content: str = "as released"
    names: tuple[str, ...] = ("bear", "cows", "dog")
    name: str = "davis"
    title: str = "Toy"
    size: tuple[int, int] = (H, W)
    num_frames: int = 7
    settings: dict = field(default_factory=lambda: {"version": 1})
    footnotes: tuple[str, ...] = ("Toys are not scored by others.",)
    is_miniature: bool = False
    paper_columns: dict = field(
        default_factory=lambda: {"Visual": VBENCH, "Geometric": ("met3r", "met3r_dynamic"), "Camera": CAMERA}
    )

    def case_keys(self) -> list[str]:
        return list(self.names)

    def digest(self, key: str) -> str:
        if key in self.broken:
            raise ValueError(f"sequence {key} is missing: no .jpg in {key}/")
        return f"{key}, {self.content}"

    def load(self, key: str) -> Inputs:
        self.digest(key)
        g = torch.Generator().manual_seed(len(key))
        video = torch.rand(T, 3, H, W, generator=g) * 1.8 - 0.9
        camera = Camera(torch.eye(4).expand(2, T, 4, 4), intrinsics_from_fov(50.0, (H, W)).expand(2, T, 3, 3), (H, W))
        return Inputs(key, video, camera, target=video[1:4].flip(-1), target_frames=(1, 2, 3))


@dataclass
class Told(Metric):
    """A metric that gives what it is told, by case; counts its calls."""

    values: dict
    name: str = "told"
    version: int = 1
    columns: tuple[Column, ...] = (Column("score", "Score", "higher", 2),)
    needs: tuple[str, ...] = ()
    absent: str | None = None
    settings: dict = field(default_factory=dict)
    footnotes: tuple[str, ...] = ("Scores as told.",)
    calls: list = field(default_factory=list)

    def missing(self) -> str | None:
        return self.absent

    def score(self, sample):
        self.calls.append(sample.inputs.key)
        value = self.values[sample.inputs.key]
        if isinstance(value, Exception):
            raise value
        return value if not isinstance(value, float) else {self.columns[0].key: value}


@dataclass
class Weigh(Estimator):
    """An estimator of depth that fails for some cases; counts its calls."""

    fails: tuple[str, ...] = ()
    name: str = "weigh"
    version: int = 1
    gives: str = "depth"
    needs: tuple[str, ...] = ()
    settings: dict = field(default_factory=dict)
    footnotes: tuple[str, ...] = ()
    calls: list = field(default_factory=list)

    def estimate(self, inputs, video, subject):
        self.calls.append((inputs.key, subject))
        if inputs.key in self.fails:
            return failed("no feature matched")
        return {"depth": video.mean(1).numpy().astype(np.float32)}


@pytest.fixture
def run(monkeypatch, capsys):
    """Run a script of eval/ as a user does; returns its exit code, stdout and stderr."""

    def script(name: str, *arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        monkeypatch.setattr(errors, "leave", sys.exit)  # this process goes on
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(ROOT / "eval" / name), run_name="__main__")
        shown = capsys.readouterr()
        return ended.value.code, shown.out, shown.err

    return script


@pytest.fixture(scope="session")
def still_model(small_model):
    """A model that makes views of still scenes, as images or along a path."""

    def make(encoding: str, count: int = 3, seed: int = 0, scale: str = "median_depth") -> ReshootModel:
        views = ViewsConfig(count, (1, 2), encoding)
        dit = replace(small_model.config.dit, rope_frames="by_view")
        rays = replace(small_model.config.rays, scale=scale)
        config = replace(small_model.config, views=views, num_frames=views.num_frames, dit=dit, rays=rays)
        return ReshootModel(config, build_model(config, seed=seed).dit, small_model.codec)

    return make


@pytest.fixture
def toy() -> Toy:
    return Toy()


@pytest.fixture
def told():
    return Told


@pytest.fixture
def weigh():
    return Weigh


@pytest.fixture
def command():
    """The options of a benchmark's command, as typed."""
    return lambda *words: parse(BenchmarkCommand, ["--workers", "1", *map(str, words)], "test", RETIRED)


@pytest.fixture
def decline():
    return {"skipped": skipped, "failed": failed}


@pytest.fixture(scope="session")
def davis(tmp_path_factory) -> Davis:
    """Two rendered sequences of 5 frames, read at 24x32."""
    root = tmp_path_factory.mktemp("davis")
    cases = write_davis_miniature(root, DavisMiniatureStyle(num_sequences=2, num_frames=5, size=(36, 52)))
    return Davis(root, cases, (24, 32), num_frames=5)


@pytest.fixture(scope="session")
def iphone(tmp_path_factory) -> IPhone:
    """One rendered sequence of 8 frames with two still cameras, read at 28x24."""
    root = tmp_path_factory.mktemp("iphone")
    names = write_iphone_miniature(root, IphoneMiniatureStyle(num_sequences=1, num_frames=8, size=(48, 36)))
    return IPhone(root, names, (28, 24), num_frames=8)


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture
def contents():
    """All files of a folder with their bytes."""
    return files_of
