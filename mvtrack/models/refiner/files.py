"""The refiner and its file."""

import json
from collections.abc import Sequence
from pathlib import Path

from torch import nn

from mvtrack.files.tensor_file import file_in, load_strictly, open_tensors, write_tensors
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
    card = {"format": FORMAT, "settings": json.dumps(refiner.settings)}
    state = {name: value.half() for name, value in refiner.state_dict().items()}
    return write_tensors(Path(folder) / FILE, state, card)


def load_refiner(source: Path | str) -> Refiner:
    """A refiner from its file or its folder. Raises ValueError that names the file for anything else."""
    path = file_in(source, FILE, "refiner", "train-refiner")
    with open_tensors(path, FORMAT, "refiner") as file:
        card, state = file.metadata(), {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
    refiner = Refiner(**json.loads(card["settings"]))
    load_strictly(refiner, state, path)
    return refiner.eval().requires_grad_(False)
