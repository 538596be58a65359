"""A source of weights: a file, a folder, or a model of the Hugging Face hub, written `owner/name[@revision][:file]`.

What the hub's cache holds is used without any network; `HF_HOME` and `HF_HUB_OFFLINE` mean what they mean elsewhere.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from mvtrack.models.weights.checkpoint import WEIGHTS_SUFFIXES, Checkpoint, open_checkpoint
from mvtrack.models.weights.layouts import Part, with_official_names
from mvtrack.models.weights.locate import MODEL_FILE, Wanted, choose, companions, find, missing_files, names_in

T = TypeVar("T")

_HUB_ID = re.compile(r"(?P<repo>[\w-][\w.-]*/[\w-][\w.-]*)(?:@(?P<revision>[\w./-]+))?(?::(?P<file>.+))?")


@dataclass(frozen=True)
class HubModel:
    """A model on the hub. file: one file of it; None: chosen by what is wanted."""

    repo: str
    revision: str | None = None
    file: str | None = None


def open_part(source: str | Path, part: Part) -> Checkpoint:
    """A part of a model from any source, under official names."""
    return with_official_names(open_checkpoint(resolve(source, part)), part)


def resolve(source: str | Path, wanted: Wanted) -> Path:
    """The local file (for a tokenizer: the folder) of a part; downloads only what the hub's cache lacks."""
    path = Path(source).expanduser()
    if path.exists():
        return find(wanted, path)
    hub = parse_hub(str(source))
    if hub is None:
        raise ValueError(
            f"weights {source} do not exist: give a file, a folder, or a hub id such as Wan-AI/Wan2.1-T2V-1.3B"
        )
    return _from_hub(hub, wanted)


def pipeline_folder(hub: HubModel, files: tuple[str, ...]) -> Path:
    """The hub's folder of a pipeline that holds some of its files; downloads them only where the cache lacks any."""
    try:
        import huggingface_hub
    except ImportError as error:
        raise ValueError(
            f"{hub.repo} is a hub id, which needs huggingface_hub: pip install -e '.[sd]', or give a local folder"
        ) from error
    snapshot = _cached(hub)
    if snapshot is not None and all((snapshot / name).is_file() for name in files):
        return snapshot

    def download(hub: HubModel) -> str:
        return huggingface_hub.snapshot_download(hub.repo, revision=hub.revision, allow_patterns=list(files))

    folder = Path(_online(hub, download))
    missing = next((name for name in files if not (folder / name).is_file()), None)
    if missing is not None:
        raise ValueError(f"{hub.repo} has no {missing}: it is another kind of pipeline")
    return folder


def parse_hub(source: str) -> HubModel | None:
    """A hub id, or None where the text can only be a path."""
    found = _HUB_ID.fullmatch(source)
    if not found or source.startswith(("./", "../")) or Path(found["repo"]).suffix in WEIGHTS_SUFFIXES:
        return None
    return HubModel(found["repo"], found["revision"], found["file"])


def _from_hub(hub: HubModel, wanted: Wanted) -> Path:
    """From the cache where it is complete there, else by the network unless that is switched off."""
    try:
        from huggingface_hub import constants
    except ImportError as error:
        raise ValueError(
            f"{hub.repo} is a hub id, which needs huggingface_hub: pip install -e '.[wan]', or give a local path"
        ) from error
    snapshot = _cached(hub)
    names = names_in(snapshot) if snapshot else []
    chosen = hub.file if hub.file in names else choose(wanted, names) if hub.file is None else None
    if chosen and not missing_files(snapshot / chosen):
        return find(wanted, snapshot / chosen)
    if constants.HF_HUB_OFFLINE:
        lacking = f"{chosen} of it is not complete" if chosen else f"its {hub.file or wanted} is not there"
        raise ValueError(
            f"{hub.repo} is not in the cache {constants.HF_HUB_CACHE} ({lacking}) and HF_HUB_OFFLINE is set: unset it, "
            f"or run `hf download {hub.repo}` where there is a network"
        )
    chosen = hub.file or choose(wanted, _online(hub, _list_files))
    if chosen is None:
        if wanted == "model":
            raise ValueError(f"{hub.repo} has no {MODEL_FILE}: it holds no model of this project")
        raise ValueError(f"{hub.repo} has no {wanted} weights that are known by name: give {hub.repo}:FILE")
    return find(wanted, _online(hub, lambda h: _download(h, chosen)) / chosen)


def _list_files(hub: HubModel) -> list[str]:
    import huggingface_hub

    info = huggingface_hub.HfApi().model_info(hub.repo, revision=hub.revision)
    return [sibling.rfilename for sibling in info.siblings]


def _download(hub: HubModel, chosen: str) -> Path:
    import huggingface_hub

    patterns = companions(chosen)
    return Path(huggingface_hub.snapshot_download(hub.repo, revision=hub.revision, allow_patterns=patterns))


def _online(hub: HubModel, work: Callable[[HubModel], T]) -> T:
    """Work that needs the network; whatever fails there becomes one line."""
    try:
        return work(hub)
    except Exception as error:  # noqa: BLE001  (which network library raises depends on the hub client's version)
        raise ValueError(
            f"{hub.repo} could not be had from the hub ({_first_line(error)}): check the name, the network and, for a "
            "model that asks for it, `hf auth login`"
        ) from error


def local_folder(name: str) -> Path | None:
    """A folder as it is, or where the hub's cache holds a model of that id; None: not on this machine. No network."""
    if Path(name).exists():
        return Path(name)
    hub = parse_hub(name)
    return None if hub is None else _cached(hub)


def _cached(hub: HubModel) -> Path | None:
    """The folder of a model in the hub's cache, complete or not."""
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(huggingface_hub.snapshot_download(hub.repo, revision=hub.revision, local_files_only=True))
    except LocalEntryNotFoundError:
        return None


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
