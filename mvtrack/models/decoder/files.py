"""Files of aligning decoders: one safetensors file that says what it holds. The codec's own weights are not in it."""

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from mvtrack.config.encoders import CodecConfig
from mvtrack.files.atomic_io import write_aside
from mvtrack.models.decoder.small import SmallAligner
from mvtrack.models.decoder.wan import WanAligner

FILE = "decoder.safetensors"
FORMAT = "mvtrack-decoder-1"
KINDS: dict[str, type[nn.Module]] = {"pca": SmallAligner, "wan_vae": WanAligner}  # by the codec they stand behind


def build_aligner(codec: CodecConfig, settings: dict | None = None) -> nn.Module:
    """A fresh one for a codec; it changes nothing until it is trained."""
    return KINDS[codec.kind](**(settings or {}))


def save_aligner(aligner: nn.Module, codec: CodecConfig, folder: Path | str) -> Path:
    """Write `decoder.safetensors`; written aside and renamed."""
    path = Path(folder) / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    card = {"format": FORMAT, "codec": codec.kind, "settings": json.dumps(aligner.settings)}
    state = {name: value.detach().cpu().contiguous() for name, value in aligner.state_dict().items()}
    write_aside(path, lambda aside: save_file(state, aside, metadata=card))
    return path


def decoder_file(source: Path | str) -> Path:
    """The file of a decoder, which may be given as its folder. Raises ValueError where there is none."""
    path = Path(source)
    path = path / FILE if path.is_dir() else path
    if not path.is_file():
        raise ValueError(f"no decoder at {path}: give a folder with {FILE}, as `mvtrack train-decoder` writes it")
    return path


def load_aligner(source: Path | str, codec: CodecConfig) -> nn.Module:
    """Rebuild one for a model's codec. Raises ValueError that names the file for anything else than that."""
    path = decoder_file(source)
    try:
        with safe_open(path, "pt") as file:
            card = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is not a whole safetensors file ({error}); copy it again") from error
    if card.get("format") != FORMAT:
        raise ValueError(f"{path} is no decoder of this project (format {card.get('format')!r}, need {FORMAT!r})")
    if card["codec"] != codec.kind:
        raise ValueError(f"{path} stands behind the codec {card['codec']}, the model has {codec.kind}")
    aligner = build_aligner(codec, json.loads(card["settings"]))
    try:
        aligner.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"{path} holds other weights than it says: {str(error).splitlines()[-1].strip()}") from error
    return aligner.eval().requires_grad_(False)
