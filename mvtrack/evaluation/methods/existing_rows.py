"""Rows of other programs' videos, and rows that earlier commands left in a results folder, ready to go on."""

from dataclasses import dataclass, field, replace
from pathlib import Path

from mvtrack.config.placement import EncoderSources, Placement
from mvtrack.evaluation.interface import Method, Skipped, failed
from mvtrack.evaluation.methods.baselines import Baseline
from mvtrack.evaluation.methods.model import ModelMethod
from mvtrack.evaluation.runner.records import read_record
from mvtrack.inference.sampler import SamplerOptions
from mvtrack.video.reader import VIDEO_SUFFIXES


@dataclass(frozen=True)
class ExternalVideos(Method):
    """folder: holds <case>.mp4 (any video suffix), <case>/ with images, or <case>/video.mp4, as `reshoot` writes it.

    resize: scale videos of another size to the benchmark's instead of refusing them.
    """

    name: str
    title: str
    folder: Path
    resize: bool = False
    backbone: str | None = None
    group: str = "Models"

    @property
    def settings(self) -> dict:
        return {"resize": self.resize}

    @property
    def origin(self) -> dict:
        return {"kind": "videos", "folder": str(self.folder.resolve())}

    @property
    def footnotes(self) -> tuple[str, ...]:
        return (f"{self.title}: videos resized to the benchmark's size.",) if self.resize else ()

    def find(self, key: str) -> Path | Skipped | None:
        files = [self.folder / f"{key}{suffix}" for suffix in sorted(VIDEO_SUFFIXES)]
        there = [p for p in (*files, self.folder / key / "video.mp4") if p.is_file()]
        if not there and (self.folder / key).is_dir():
            there = [self.folder / key]
        if len(there) > 1:
            return failed(f"{there[0]} and {there[1].name} both could be the video of {key}: keep one")
        return there[0] if there else failed(f"no video of this case: {self.folder / key}.mp4 does not exist")


@dataclass(frozen=True)
class ExistingRows:
    """methods: rows that can be made again. others: by name, where each of the rest came from; those keep their videos
    as they are."""

    methods: tuple[Method, ...] = ()
    others: dict[str, dict] = field(default_factory=dict)

    @property
    def lost_models(self) -> list[str]:
        return [name for name, origin in self.others.items() if origin.get("kind") == "model"]

    @property
    def notes(self) -> list[str]:
        """What a user must know of the rest, one line each."""
        return [
            f"{name}: its {origin.get('kind', 'origin')} {origin.get('folder', '')} is gone or has changed: its videos "
            "are scored as they are; name the row again to have them made"
            for name, origin in self.others.items()
        ]


def existing_rows(folder: Path, placement: Placement, check_memory: bool = True) -> ExistingRows:
    """The rows of a results folder. placement: where models are to work; their precision, tiles and encoders are the
    record's. check_memory: see `ModelMethod`."""
    methods, others = [], {}
    for path in sorted((folder / "methods").glob("*/method.json")):
        record = read_record(path)
        method = _recreated(record, placement, check_memory)
        if method is None:
            others[record["name"]] = record.get("origin", {})
        else:
            methods.append(method)
    return ExistingRows(tuple(methods), others)


def _recreated(record: dict, placement: Placement, check_memory: bool) -> Method | None:
    """The method of a record; None where it would not make the same videos any more."""
    try:
        method = _method(record, record["settings"], record["origin"], placement)
        method = replace(method, check_memory=check_memory) if isinstance(method, ModelMethod) else method
        same = method.settings == record["settings"]
    except (KeyError, TypeError, ValueError, OSError):
        return None  # written by another version, or the model is gone
    return method if same and Path(record["origin"].get("folder", ".")).exists() else None


def _method(record: dict, settings: dict, origin: dict, placement: Placement) -> Method:
    name, title, group, backbone = (record[key] for key in ("name", "title", "group", "backbone"))
    if origin["kind"] == "baseline":
        return Baseline(name, backbone)
    folder = Path(origin["folder"])
    if origin["kind"] == "videos":
        return ExternalVideos(name, title, folder, settings["resize"], backbone, group)
    sample = SamplerOptions(**settings["sample"])
    encoders = EncoderSources(**settings.get("encoders", {}))
    placement = replace(placement, precision=settings["precision"], tiled=settings["tiled"], encoders=encoders)
    negative, other_size = settings["negative"], settings["other_size"]
    method = ModelMethod(name, title, folder, sample, placement, negative, other_size, backbone, group)
    decoder = settings.get("decoder")
    return replace(method, decoder=Path(decoder["folder"])) if decoder else method
