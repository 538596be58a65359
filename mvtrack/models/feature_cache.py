"""Features of captions and pictures on disk, so that their encoders are read once."""

from pathlib import Path

from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from mvtrack.files.tensor_file import write_tensors


def read_features(file: Path) -> Float[Tensor, "n c"] | None:
    """Cached features; None when they are not there, or only half (they are computed again)."""
    try:
        return load_file(file)["features"] if file.is_file() else None
    except SafetensorError:
        return None


def write_features(file: Path, features: Float[Tensor, "n c"]) -> None:
    """Written aside and renamed: several processes may fill one cache."""
    write_tensors(file, {"features": features})
