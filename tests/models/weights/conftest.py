"""Names and shapes of released checkpoints, and small files of the same layouts with random numbers."""

import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from mvtrack.models.diffsynth_parts import declare_torchvision_operators
from mvtrack.models.weights.checkpoint import Checkpoint
from mvtrack.models.weights.stored import Stored


@pytest.fixture
def released(released_shapes) -> Callable[[str], Checkpoint]:
    """A released checkpoint's names and shapes, without values."""

    def build(name: str) -> Checkpoint:
        return unstored(released_shapes(name), f"{name}.safetensors")

    return build


def unstored(shapes: dict[str, tuple[int, ...]], where: str) -> Checkpoint:
    tensors = {n: Stored(s, torch.float32, lambda s=s: torch.empty(s, device="meta")) for n, s in shapes.items()}
    return Checkpoint(Path(where), tensors)


@pytest.fixture
def invented() -> Callable[[dict[str, tuple[int, ...]]], Checkpoint]:
    """A checkpoint of any shapes, without values."""
    return lambda shapes: unstored(shapes, "invented.safetensors")


@pytest.fixture(scope="session")
def diffusers():
    """The package diffusers; skips where it is not installed."""
    declare_torchvision_operators()
    with warnings.catch_warnings():  # of the packages that it imports
        warnings.simplefilter("ignore")
        package = pytest.importorskip("diffusers", reason="diffusers is not installed")
        from diffusers.loaders.single_file_utils import convert_wan_vae_to_diffusers as convert_vae

        return SimpleNamespace(VAE=package.AutoencoderKLWan, DiT=package.WanTransformer3DModel, convert_vae=convert_vae)
