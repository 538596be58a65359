"""The one place that imports DiffSynth: Wan's VAE, text encoder, tokenizer and image encoder.

The import takes seconds and pulls many packages, so it happens when a part is needed and not before. Where the compiled
operators of torchvision do not load (a build for CUDA beside a CPU build of PyTorch), its Python half cannot be
imported either, nor can DiffSynth, which needs none of these operators for these models: their schemas are declared.
"""

import importlib
import importlib.util
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import torch

OPERATORS = ("nms", "qnms")
_declared: list[torch.library.Library] = []  # an operator lives as long as its library object


def diffsynth_module(name: str) -> ModuleType:
    """`diffsynth.models.<name>`. Raises ValueError with the command that installs it, or why it cannot be imported."""
    if importlib.util.find_spec("diffsynth") is None:
        raise ValueError("Wan's VAE and encoders need the package diffsynth: pip install -e '.[wan]'")
    declare_torchvision_operators()
    with warnings.catch_warnings(), _told_that_there_is_no_gpu():  # of the packages that DiffSynth imports
        warnings.simplefilter("ignore")
        try:
            return importlib.import_module(f"diffsynth.models.{name}")
        except (ImportError, RuntimeError, AttributeError, OSError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ValueError(
                f"diffsynth is installed but cannot be imported ({reason}): Wan's VAE and encoders need it; install "
                "what the message names, or pip install -e '.[wan]' in a fresh environment"
            ) from error


@contextmanager
def _told_that_there_is_no_gpu() -> Iterator[None]:
    """DeepSpeed, which DiffSynth imports where it is installed, looks for a GPU and writes a warning to the standard
    output where it finds none, unless it is told beforehand."""
    told = "DS_ACCELERATOR" in os.environ or torch.cuda.is_available()
    if not told:
        os.environ["DS_ACCELERATOR"] = "cpu"
    try:
        yield
    finally:
        if not told:
            del os.environ["DS_ACCELERATOR"]


def declare_torchvision_operators() -> None:
    """Declare the operators that torchvision's Python half expects, where its compiled half does not load."""
    spec = importlib.util.find_spec("torchvision")
    if _declared or spec is None or hasattr(torch.ops.torchvision, OPERATORS[0]):
        return
    try:
        for compiled in Path(spec.origin).parent.glob("_C*.so"):
            torch.ops.load_library(str(compiled))
    except OSError:
        library = torch.library.Library("torchvision", "DEF")
        for operator in OPERATORS:
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _declared.append(library)
