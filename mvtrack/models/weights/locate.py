"""Which file of a folder holds which part of a model.

The folders that exist: the official Wan release (everything side by side), a diffusers pipeline (a folder per part), a
diffusers part on its own, and a folder with a single weights file, as ReCamMaster and ReDirector publish theirs.
"""

import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Literal

from mvtrack.models.weights.checkpoint import INDEX_SUFFIX, SAFETENSORS_SUFFIX, WEIGHTS_SUFFIXES, shard_names
from mvtrack.models.weights.layouts import Part

MODEL_FILE = "model.safetensors"  # of this project's models
Wanted = Part | Literal["tokenizer", "model"]  # model: one of this project

_DIFFUSERS_FILES = ("diffusion_pytorch_model.safetensors.index.json", "diffusion_pytorch_model.safetensors")
_TRANSFORMERS_FILES = ("model.safetensors.index.json", "model.safetensors")
TOKENIZER_FILES = ("tokenizer.json", "spiece.model")
TOKENIZER_CONFIG = "tokenizer_config.json"  # without it a tokenizer loads and fails later: it knows no padding

FILES: dict[Wanted, tuple[str, ...]] = {
    "dit": (*(f"transformer/{name}" for name in _DIFFUSERS_FILES), *_DIFFUSERS_FILES),
    "vae": ("Wan2.1_VAE.safetensors", "Wan2.1_VAE.pth", *(f"vae/{name}" for name in _DIFFUSERS_FILES)),
    "text": (
        "models_t5_umt5-xxl-enc-bf16.safetensors",
        "models_t5_umt5-xxl-enc-bf16.pth",
        *(f"text_encoder/{name}" for name in _TRANSFORMERS_FILES),
    ),
    "image": ("models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth",),
    "tokenizer": tuple(f"{folder}/{name}" for folder in ("google/umt5-xxl", "tokenizer") for name in TOKENIZER_FILES),
    "model": (MODEL_FILE,),
}
_RELEASE = {name for names in FILES.values() for name in names if "/" not in name} - {*_DIFFUSERS_FILES, MODEL_FILE}
_SHARD = re.compile(r"-(\d{5})-of-(\d{5})\.safetensors$")


def choose(wanted: Wanted, names: Iterable[str]) -> str | None:
    """The file among `names` (relative, with /) of a part, or None. A tokenizer's file stands for its folder."""
    names = set(names)
    for name in FILES[wanted]:
        if name in names:
            return name
    top = sorted(name for name in names if "/" not in name)
    if wanted == "tokenizer":
        return next((name for name in TOKENIZER_FILES if name in top), None)
    if wanted == "model":  # any other file is released weights, which must be converted first
        return None
    weights = [name for name in top if name.endswith((INDEX_SUFFIX, *WEIGHTS_SUFFIXES))]
    if any(name in _RELEASE for name in weights):  # the official release: what it holds, it holds under known names
        return None
    indices = [name for name in weights if name.endswith(INDEX_SUFFIX)]
    whole = [name for name in weights if name not in indices and not _SHARD.search(name)]
    alone = indices or whole
    return alone[0] if len(alone) == 1 else None


def names_in(folder: Path) -> list[str]:
    """Files of a folder and two levels below, relative, hidden ones left out."""
    found = [p for pattern in ("*", "*/*", "*/*/*") for p in folder.glob(pattern) if p.is_file()]
    names = (p.relative_to(folder).as_posix() for p in found)
    return sorted(name for name in names if not name.startswith("."))


def find(wanted: Wanted, path: Path) -> Path:
    """The file (for a tokenizer: the folder) of a part, in a folder or given itself.

    Raises ValueError that names what is missing, and says so when a download was interrupted.
    """
    if path.is_file():
        chosen, path = path.name, path.parent
    else:
        chosen = _chosen_in(path, wanted)
    lacking = missing_files(path / chosen)
    if lacking:
        verb = "names" if chosen.endswith(INDEX_SUFFIX) else "needs beside it"
        raise ValueError(
            f"{path / chosen} {verb} {lacking[0]}, which is not there{_interrupted(path)}: download it again"
        )
    return (path / chosen).parent if wanted == "tokenizer" else path / chosen


def _chosen_in(path: Path, wanted: Wanted) -> str:
    names = names_in(path)
    chosen = choose(wanted, names)
    if chosen is None:
        raise ValueError(_why_not(wanted, path, names))
    return chosen


def missing_files(file: Path) -> list[str]:
    """What belongs to a file and is not beside it: shards that an index names, a tokenizer's config."""
    needed = shard_names(file) if file.name.endswith(INDEX_SUFFIX) else []
    needed = [TOKENIZER_CONFIG] if file.name in TOKENIZER_FILES else needed
    return [name for name in needed if not (file.parent / name).is_file()]


def companions(chosen: str) -> list[str]:
    """Patterns of all files that belong to a chosen one."""
    folder = PurePosixPath(chosen).parent
    if PurePosixPath(chosen).name in TOKENIZER_FILES:
        return [f"{folder}/*"] if str(folder) != "." else ["*.json", "*.model"]
    if chosen.endswith(INDEX_SUFFIX):
        return [chosen, chosen.removesuffix(INDEX_SUFFIX) + "-*" + SAFETENSORS_SUFFIX]
    return [chosen, "vae/config.json"] if str(folder) == "vae" else [chosen]


def _why_not(wanted: Wanted, path: Path, names: list[str]) -> str:
    shards = sorted(name for name in names if _SHARD.search(name))
    if shards:
        return (
            f"{path} has shards such as {shards[0]} but no index ({INDEX_SUFFIX}){_interrupted(path)}: download it too"
        )
    weights = [name for name in names if name.endswith((INDEX_SUFFIX, *WEIGHTS_SUFFIXES))]
    shown = f"; it has {', '.join(weights[:4])}: name the file" if weights and wanted != "tokenizer" else ""
    return f"no {wanted} weights in {path}{_interrupted(path)}: expected {' or '.join(FILES[wanted][:3])}{shown}"


def _interrupted(path: Path) -> str:
    """Words about files that a download left unfinished."""
    blobs = path.parent.parent / "blobs"  # a snapshot of the hub's cache
    unfinished = [*path.rglob("*.incomplete"), *path.rglob("*.part"), *(blobs.glob("*.incomplete"))]
    return f" (a download stopped half-way: {unfinished[0].name})" if unfinished else ""
