"""Safetensors files of this project: written whole or not at all, checked when they are opened."""

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from mvtrack.files.atomic_io import write_aside


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> Path:
    """Write a file, in a folder that is made where it is missing, aside first and then renamed."""
    state = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}

    def write(aside: Path) -> None:
        save_file(state, aside, metadata)
        aside.chmod(0o644)  # safetensors writes files that only their owner may read

    path.parent.mkdir(parents=True, exist_ok=True)
    write_aside(path, write)
    return path


def open_tensors(path: Path, file_format: str, what: str, hint: str = ""):
    """An open file whose metadata say that it is of a format. what: it holds, hint: what else to do, for errors."""
    try:
        file = safe_open(path, "pt")
    except SafetensorError as error:
        raise ValueError(f"{path} is not a whole safetensors file ({error}); download or copy it again") from error
    found = (file.metadata() or {}).get("format")
    if found != file_format:
        raise ValueError(f"{path} is no {what} of this project (format {found!r}, need {file_format!r}){hint}")
    return file


def file_in(source: Path | str, name: str, what: str, command: str) -> Path:
    """A file that may be given as its folder. Raises ValueError where there is none."""
    path = Path(source)
    path = path / name if path.is_dir() else path
    if not path.is_file():
        raise ValueError(f"no {what} at {path}: give a folder with {name}, as `mvtrack {command}` writes it")
    return path


def load_strictly(module: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Give a module the tensors of a file. Raises ValueError that shows the first differences of names and shapes."""
    own = module.state_dict()
    problems = [f"missing {k}" for k in own.keys() - state.keys()]
    problems += [f"unexpected {k}" for k in state.keys() - own.keys()]
    problems += [
        f"{k} is {tuple(state[k].shape)}, expected {tuple(own[k].shape)}"
        for k in own.keys() & state.keys()
        if own[k].shape != state[k].shape
    ]
    if problems:
        shown = "; ".join(sorted(problems)[:3])
        raise ValueError(f"{path} holds another architecture: {shown} ({len(problems)} differences)")
    module.load_state_dict(state, assign=True)
