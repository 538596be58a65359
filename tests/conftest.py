"""Shared fixtures. Shapes in signatures are checked at run time, in the tests only."""

import os
import sys
from pathlib import Path
from types import ModuleType

import jaxtyping
import pytest
import torch
from beartype import BeartypeConf, beartype

# The import hook takes a checker by name only; this one lets an int pass for a float, as Python does.
_checker = ModuleType("mvtrack_shape_checker")
_checker.check = beartype(conf=BeartypeConf(is_pep484_tower=True))
sys.modules[_checker.__name__] = _checker
jaxtyping.install_import_hook(["mvtrack", "tracking_head"], f"{_checker.__name__}.check")

SHARED = Path(__file__).resolve().parents[2] / "shared"


def pytest_configure(config: pytest.Config) -> None:
    torch.set_num_threads(max(1, (os.cpu_count() or 2) // 2))


def shared_file(relative: str) -> Path:
    path = SHARED / relative
    if not path.exists():
        pytest.skip(f"reference data {relative} is not beside this checkout")
    return path


@pytest.fixture
def shared():
    """Path of a reference file beside the checkout; skips, saying why, where there is none."""
    return shared_file


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(7)


@pytest.fixture
def unchecked():
    """Switch the run-time shape checks off, to see the errors that users see."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
