"""Files of aligning decoders: one safetensors file that says what it holds. Of the codec's weights only those are in it
that were tuned or fitted along."""

import json
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from mvtrack.config.encoders import CodecConfig
from mvtrack.config.tree import from_tree, to_tree
from mvtrack.files.tensor_file import file_in, load_strictly, open_tensors, write_tensors
from mvtrack.models.decoder.sd import SDAligner
from mvtrack.models.decoder.small import SmallAligner
from mvtrack.models.decoder.wan import WanAligner
from mvtrack.models.pca_codec import VideoCodec, build_codec

FILE = "decoder.safetensors"
FORMAT = "mvtrack-decoder-1"
_FITTED, _HOST = "codec.", "host."
KINDS: dict[str, type[nn.Module]] = {  # by the codec they stand behind
    "pca": SmallAligner, "wan_vae": WanAligner, "sd_vae": SDAligner, "svd_vae": SDAligner,
}  # fmt: skip


def build_aligner(codec: CodecConfig, settings: dict | None = None) -> nn.Module:
    """A fresh one for a codec; it changes nothing until it is trained."""
    return KINDS[codec.kind](**(settings or {}))


def save_aligner(
    aligner: nn.Module, codec: CodecConfig, folder: Path | str, fitted: Mapping[str, Tensor] | None = None
) -> Path:
    """Write `decoder.safetensors`; written aside and renamed. fitted: the state of a codec that no model holds."""
    card = {"format": FORMAT, "codec": codec.kind, "settings": json.dumps(aligner.settings)}
    tuned = getattr(aligner, "tuned", {})
    tensors = {**aligner.state_dict(), **{_HOST + name: x for name, x in tuned.items()}}
    tensors |= {_FITTED + name: x for name, x in (fitted or {}).items()}
    if fitted:
        card["codec_config"] = json.dumps(to_tree(codec))
    return write_tensors(Path(folder) / FILE, tensors, card)


def load_fitted_codec(source: Path | str) -> VideoCodec:
    """The codec that was fitted with a decoder. Raises ValueError where a model holds it."""
    path = decoder_file(source)
    with open_tensors(path, FORMAT, "decoder") as file:
        card, names = file.metadata(), [name for name in file.keys() if name.startswith(_FITTED)]  # noqa: SIM118
        state = {name.removeprefix(_FITTED): file.get_tensor(name) for name in names}
    if "codec_config" not in card:
        raise ValueError(f"{path} stands behind a model's codec: load the model")
    codec = build_codec(from_tree(CodecConfig, json.loads(card["codec_config"]), str(path)))
    codec.load_state_dict(state)
    return codec


def decoder_file(source: Path | str) -> Path:
    """The file of a decoder, which may be given as its folder. Raises ValueError where there is none."""
    return file_in(source, FILE, "decoder", "train --config configs/decoder_tiny.yaml")


def load_aligner(source: Path | str, codec: CodecConfig) -> nn.Module:
    """Rebuild one for a model's codec. Raises ValueError that names the file for anything else than that."""
    path = decoder_file(source)
    with open_tensors(path, FORMAT, "decoder") as file:
        names = [name for name in file.keys() if not name.startswith(_FITTED)]  # noqa: SIM118
        card, state = file.metadata(), {name: file.get_tensor(name) for name in names}
    if card["codec"] != codec.kind:
        raise ValueError(f"{path} stands behind the codec {card['codec']}, the model has {codec.kind}")
    aligner = build_aligner(codec, json.loads(card["settings"]))
    tuned = {name.removeprefix(_HOST): state.pop(name) for name in list(state) if name.startswith(_HOST)}
    load_strictly(aligner, state, path)
    if tuned:
        aligner.tuned = tuned
    return aligner.eval().requires_grad_(False)
