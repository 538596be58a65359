"""A head in a file of its own: weights with their config, for use on any features without the rest of the project."""

import json
from dataclasses import asdict, fields
from pathlib import Path

from torch import Tensor

from tracking_head.config import HeadConfig
from tracking_head.head import TrackingHead
from tracking_head.pyramid import CorrelationConfig

FORMAT = "tracking-head-1"
FILE_NAME = "tracking_head.safetensors"


def save_head(head: TrackingHead, path: Path | str) -> Path:
    """Write a head; see `write_head`."""
    return write_head(head.config, head.state_dict(), path)


def write_head(config: HeadConfig, weights: dict[str, Tensor], path: Path | str) -> Path:
    """Write one safetensors file that carries the config, aside first and then renamed. A path without the ending
    .safetensors is a folder, made where it is missing; the file is then `tracking_head.safetensors` in it."""
    from safetensors.torch import save_file

    path = Path(path)
    path = path if path.suffix == ".safetensors" else path / FILE_NAME
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(".partial")
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    save_file(state, aside, metadata={"format": FORMAT, "config": json.dumps(asdict(config))})
    aside.chmod(0o644)  # safetensors writes files that only their owner may read
    aside.replace(path)
    return path


def load_head(path: Path | str) -> TrackingHead:
    """Rebuild a head from its file, or from the folder that holds it, ready for use.

    Needs safetensors. Raises ValueError that names the file when it is missing, damaged, of another format, or does not
    fit its config.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    path = path / FILE_NAME if path.is_dir() else path
    if not path.is_file():
        raise ValueError(f"no tracking head at {path}: expected a folder with {FILE_NAME}, or that file")
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is not a whole safetensors file ({error}); export it again") from error
    if metadata.get("format") != FORMAT:
        raise ValueError(
            f"{path} is not a tracking head (format {metadata.get('format')!r}, need {FORMAT!r}): make one with "
            "`mvtrack export MODEL OUT --part tracking_head`"
        )
    head = TrackingHead(_config(json.loads(metadata["config"]), path))
    expected = {name: tuple(tensor.shape) for name, tensor in head.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    if found != expected:
        wrong = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
        raise ValueError(f"{path} does not fit its config: {wrong[0]} and {len(wrong) - 1} more weights differ")
    head.load_state_dict(weights)
    return head.eval()


def _config(tree: dict, path: Path) -> HeadConfig:
    """The config as it was written. An unknown key is an error: a later version knew an option that this one lacks."""
    correlation = tree.get("correlation", {})
    known = {field.name for field in fields(HeadConfig)}, {field.name for field in fields(CorrelationConfig)}
    unknown = [*(tree.keys() - known[0]), *(correlation.keys() - known[1])]
    if unknown:
        raise ValueError(f"the config in {path} has unknown keys {sorted(unknown)}: it needs a newer version")
    return HeadConfig(**(tree | {"correlation": CorrelationConfig(**correlation)}))
