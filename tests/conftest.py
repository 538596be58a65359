"""Shared fixtures. Shapes in signatures are checked at run time, in the tests only."""

import os
import shutil
import site
import sys
import sysconfig
import venv
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import jaxtyping
import numpy as np
import pytest
import torch
from beartype import BeartypeConf, beartype

_checked = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int passes for a float, as Python lets it


def _checked_when_called(function: Callable) -> Callable:
    """Writing a checker takes longer than importing its function, and most functions are never called by some tests."""
    made = []

    def call(*args, **kwargs) -> object:
        if not made:
            made.append(_checked(function))
        return made[0](*args, **kwargs)

    return call


_checker = ModuleType("mvtrack_shape_checker")  # the import hook takes a checker by name only
_checker.check = _checked_when_called
sys.modules[_checker.__name__] = _checker
jaxtyping.install_import_hook(["mvtrack", "tracking_head"], f"{_checker.__name__}.check")

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
GOLDEN = Path(__file__).resolve().parent / "golden"
SHARED = Path(__file__).resolve().parents[2] / "shared"  # public data and released lists, not part of the repository


def pytest_configure(config: pytest.Config) -> None:
    torch.set_num_threads(max(1, (os.cpu_count() or 2) // 2))


@pytest.fixture(scope="session", autouse=True)
def own_extensions(tmp_path_factory) -> None:
    """What DeepSpeed compiles is compiled in a folder of this run, where no killed process has left a lock."""
    os.environ["TORCH_EXTENSIONS_DIR"] = str(tmp_path_factory.mktemp("extensions"))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """What the machine lacks; of ../shared only the whole folder: a file missing from it is a failure."""
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    if item.get_closest_marker("shared") and not SHARED.exists():
        pytest.skip("read public data in ../shared, which is not beside this checkout (tests/golden/README.md)")


def pytest_terminal_summary(terminalreporter) -> None:
    """One line that says how many tests were skipped, and why."""
    skipped = terminalreporter.stats.get("skipped", [])
    reasons = Counter(report.longrepr[2].removeprefix("Skipped: ") for report in skipped)
    if reasons:
        why = "; ".join(f"{count} {reason}" for reason, count in reasons.most_common())
        terminalreporter.write_line(f"{len(skipped)} skipped: {why}")


@pytest.fixture
def shared(request) -> Callable[[str], Path]:
    """Path of a reference file beside the checkout, for tests with the marker `shared`."""

    def find(relative: str) -> Path:
        assert request.node.get_closest_marker("shared"), "a test that reads ../shared carries the marker `shared`"
        return SHARED / relative

    return find


@pytest.fixture
def shared_numbers(shared) -> Callable[[str], dict[str, np.ndarray]]:
    """Read arrays of a reference file beside the checkout, and close it."""

    def read(relative: str) -> dict[str, np.ndarray]:
        with np.load(shared(relative)) as file:
            return dict(file)

    return read


@pytest.fixture(scope="session")
def golden_numbers() -> Callable[[str], dict[str, np.ndarray]]:
    """Read arrays of tests/golden: what a public implementation gave for random inputs."""

    def read(name: str) -> dict[str, np.ndarray]:
        with np.load(GOLDEN / f"{name}.npz") as file:
            return dict(file)

    return read


@pytest.fixture(scope="session")
def key_rows(golden_numbers) -> Callable[[str], list[list[str]]]:
    """Rows of a released checkpoint's list: name, shape as `AxB`, dtype."""
    return lambda name: [row.decode().split("\t") for row in golden_numbers("checkpoint_keys")[name]]


@pytest.fixture(scope="session")
def released_shapes(key_rows) -> Callable[[str], dict[str, tuple[int, ...]]]:
    """Names and shapes of a released checkpoint's tensors."""
    return lambda name: {row[0]: tuple(map(int, row[1].split("x"))) for row in key_rows(name)}


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(7)


@pytest.fixture
def unchecked():
    """Switch the run-time shape checks off, to see the errors that users see."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def browser():
    """A real browser without a window: the Chromium or Chrome on PATH. Skips, saying why, where there is none."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        pytest.skip(f"needs a browser on PATH, one of {', '.join(BROWSERS)}: .ci/browser FOLDER gets it")
    flags = ["--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking",
             "--disable-component-update", "--disable-sync", "--use-angle=swiftshader",
             "--enable-unsafe-swiftshader"]  # fmt: skip
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=program, args=flags)
        yield started
        started.close()


@pytest.fixture(scope="session")
def video(tmp_path_factory) -> Path:
    """A video file of 7 frames, 90x160, with smooth colours that differ everywhere; its name has a space."""
    from mvtrack.video.writer import write_video

    y, x = torch.meshgrid(torch.linspace(0, 1, 90), torch.linspace(0, 1, 160), indexing="ij")
    frames = torch.stack([torch.sin(9 * x), torch.cos(7 * y), torch.sin(5 * x + 3 * y)]).expand(7, -1, -1, -1)
    return write_video(tmp_path_factory.mktemp("video") / "in put.mp4", frames, fps=12.0)


@pytest.fixture(scope="session")
def small_run(tmp_path_factory) -> dict:
    """A run config (as a tree) that trains in seconds: 24x32 pixels, 5 frames, 2 blocks."""
    root = tmp_path_factory.mktemp("bank")
    return {
        "model": {
            "dit": {
                "dim": 24, "ffn_dim": 32, "num_heads": 2, "num_layers": 2, "patch_size": [1, 1, 1], "in_channels": 12,
                "out_channels": 12, "text_dim": 0, "freq_dim": 16, "rope_frames": "shared", "rope_theta": 100.0,
                "role_embedding": True, "init": "open_gates",
            },
            "rays": {"token_px": 4, "stride": 4, "fourier_bands": 2, "kernel_size": 1, "proj_init": "normal"},
            "codec": {"channels": 12, "stride": 4},
            "flow": {"shift": 3.0, "prediction": "x0", "weighting": "none"},
            "tap_layer": 1,
            "sizes": [[24, 32]],
            "num_frames": 5,
        },
        "data": {
            "banks": [{"root": str(root / "24x32"), "size": [24, 32], "num_scenes": 6, "num_frames": 7,
                       "num_views": 2, "num_points": 11}],
            "num_frames": 5,
            "workers": 0,
        },
        "optim": {"lr": 0.002, "warmup_steps": 2},
        "loss": {"correspondence": 0.1},
        "train": {"steps": 4, "batch_size": 2, "micro_batch_size": 1, "log_every": 2, "save_every": 2,
                  "validate_every": 4, "validate_clips": 1},
    }  # fmt: skip


@pytest.fixture(scope="session")
def small_model(small_run):
    """An untrained model of `small_run`'s architecture with a fitted codec."""
    from mvtrack.config.run import RunConfig
    from mvtrack.config.tree import from_tree
    from mvtrack.data.loader import open_banks
    from mvtrack.models.reshoot_model import build_model

    config = from_tree(RunConfig, small_run, "small_run")
    model = build_model(config.model)
    bank = open_banks(config.data)[0]
    model.codec.fit([bank.clip(n, [0, 1], slice(0, 5)).video for n in range(3)], config.model.codec.whitening)
    return model


@pytest.fixture(scope="session")
def tracking_model(small_run, small_model):
    """The same with an untrained tracking head."""
    from mvtrack.config.model import ModelConfig
    from mvtrack.config.tree import from_tree
    from mvtrack.models.reshoot_model import ReshootModel, build_model

    head = {
        "dim": 16, "heads": 2, "layers": 1, "virtual_tracks": 3, "iterations": 2, "correlation_dim": 6,
        "correlation_hidden": 10, "correlation": {"levels": 2, "radius": 1, "base_stride_px": 2},
    }  # fmt: skip
    config = from_tree(ModelConfig, small_run["model"] | {"tracking": head}, "model")
    return ReshootModel(config, build_model(config, seed=4).dit, small_model.codec)


@pytest.fixture
def told_model(small_run, tracking_model, monkeypatch):
    """A model with a tracking head and a text branch; every caption has features of its own, without an encoder."""
    from mvtrack.config.encoders import TextConfig
    from mvtrack.config.model import DiTConfig
    from mvtrack.config.tree import from_tree
    from mvtrack.models import prompts
    from mvtrack.models.reshoot_model import ReshootModel, build_model

    def embed(captions, config, cache=None, device="cpu"):
        return torch.stack([torch.randn(5, 7, generator=torch.Generator().manual_seed(len(c or ""))) for c in captions])

    monkeypatch.setattr(prompts, "embed_captions", embed)
    dit = from_tree(DiTConfig, small_run["model"]["dit"] | {"text_dim": 7}, "dit")
    config = replace(tracking_model.config, dit=dit, text=TextConfig(weights="umt5"))
    model = ReshootModel(config, build_model(config, seed=4).dit, tracking_model.codec)
    for i, block in enumerate(model.dit.blocks):  # at its first weights a caption says little
        torch.nn.init.normal_(block.cross_attn.o.weight, generator=torch.Generator().manual_seed(i))
    return model


@pytest.fixture
def environment(tmp_path):
    """Make an interpreter with packages of one's own: sources by module path. Torch and the like come from here."""

    def make(modules: dict[str, str]) -> Path:
        root = tmp_path / "environment"
        venv.create(root, with_pip=False)
        paths = {"base": str(root), "platbase": str(root)}
        packages = Path(sysconfig.get_path("purelib", "venv", vars=paths))
        (packages / "outside.pth").write_text("\n".join(site.getsitepackages()) + "\n")
        for name, source in modules.items():
            path = packages / f"{name}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(source)
        return root / "bin/python"

    return make
