"""The refiner and its file."""

import json
from collections.abc import Sequence
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from mvtrack.files.atomic_io import write_aside
from mvtrack.models.refiner.blend import Blend
from mvtrack.models.refiner.source_depth import SourceDepth

FILE = "refiner.safetensors"
FORMAT = "mvtrack-refiner-1"


class Refiner(nn.Module):
    """What brings a small result to the source's resolution: depth of the source, and the blend."""

    def __init__(self, depth: Sequence[int] = (32, 64, 96, 128), blend: Sequence[int] = (32, 64, 96)) -> None:
        super().__init__()
        self.settings = {"depth": list(depth), "blend": list(blend)}
        self.depth, self.blend = SourceDepth(depth), Blend(blend)


def save_refiner(refiner: Refiner, folder: Path | str) -> Path:
    """Write `refiner.safetensors` in half precision; written aside and renamed."""
    path = Path(folder) / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    card = {"format": FORMAT, "settings": json.dumps(refiner.settings)}
    state = {name: value.detach().cpu().half().contiguous() for name, value in refiner.state_dict().items()}
    write_aside(path, lambda aside: save_file(state, aside, metadata=card))
    return path


def load_refiner(source: Path | str) -> Refiner:
    """A refiner from its file or its folder. Raises ValueError that names the file for anything else."""
    path = Path(source)
    path = path / FILE if path.is_dir() else path
    if not path.is_file():
        raise ValueError(f"no refiner at {path}: give a folder with {FILE}, as `mvtrack train-refiner` writes it")
    try:
        with safe_open(path, "pt") as file:
            card = file.metadata() or {}
            state = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is not a whole safetensors file ({error}); copy it again") from error
    if card.get("format") != FORMAT:
        raise ValueError(f"{path} is no refiner of this project (format {card.get('format')!r}, need {FORMAT!r})")
    refiner = Refiner(**json.loads(card["settings"]))
    try:
        refiner.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"{path} holds other weights than it says: {str(error).splitlines()[-1].strip()}") from error
    return refiner.eval().requires_grad_(False)
