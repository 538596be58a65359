"""The list of pose formats: what each one means and holds, and how it is recognised, read and written."""

import difflib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mvtrack.geometry.pose_files import (
    colmap_binary,
    colmap_text,
    dycheck,
    nerfstudio,
    plain_json,
    plain_npz,
    realestate10k,
    recammaster,
    tum,
)
from mvtrack.geometry.pose_files.parse import Place, lines_of, place_of, read_bytes, read_json
from mvtrack.geometry.pose_files.sequence import CameraSequence

_MAX_TEXT_BYTES = 64 << 20
HOLDABLE = ("names", "times", "intrinsics", "size", "distortion", "unit")


@dataclass(frozen=True)
class PoseFormat:
    """One format. `axes` and `direction` are those of its numbers; `unit` says what a length of 1 is.

    options: those of `ReadOptions` that reading takes. holds: which of `HOLDABLE` a file can carry. read takes a path
    and options (and, for JSON, the document where it is already parsed); write gives one file's bytes, or a folder's
    files by name.
    """

    name: str
    title: str
    axes: str
    direction: str
    unit: str
    options: tuple[str, ...]
    holds: tuple[str, ...]
    read: Callable[..., CameraSequence]
    write: Callable[[CameraSequence], bytes | dict[str, bytes]]
    is_folder: bool = False


_ALL_BUT_TIMES = ("names", "intrinsics", "size", "distortion")

FORMATS = {
    found.name: found
    for found in (
        PoseFormat(
            "recammaster", "ReCamMaster / MultiCamVideo camera_extrinsics.json", "unreal", "c2w", "centimetres",
            recammaster.OPTIONS, ("unit",), recammaster.read, recammaster.write,
        ),
        PoseFormat(
            "nerfstudio", "nerfstudio and instant-ngp transforms.json", "opengl", "c2w", "unknown",
            nerfstudio.OPTIONS, _ALL_BUT_TIMES, nerfstudio.read, nerfstudio.write,
        ),
        PoseFormat(
            "colmap_text", "COLMAP model as text (folder)", "opencv", "w2c", "unknown",
            colmap_text.OPTIONS, _ALL_BUT_TIMES, colmap_text.read, colmap_text.write, True,
        ),
        PoseFormat(
            "colmap_binary", "COLMAP model, binary (folder)", "opencv", "w2c", "unknown",
            colmap_binary.OPTIONS, _ALL_BUT_TIMES, colmap_binary.read, colmap_binary.write, True,
        ),
        PoseFormat(
            "realestate10k", "RealEstate10K txt", "opencv", "w2c", "unknown",
            realestate10k.OPTIONS, ("times", "intrinsics"), realestate10k.read, realestate10k.write,
        ),
        PoseFormat(
            "tum", "TUM trajectory txt", "opencv", "c2w", "unknown",
            tum.OPTIONS, ("times",), tum.read, tum.write,
        ),
        PoseFormat(
            "dycheck", "dycheck / iPhone camera JSON (folder, one file a frame)", "opencv", "w2c", "unknown",
            dycheck.OPTIONS, _ALL_BUT_TIMES, dycheck.read, dycheck.write, True,
        ),
        PoseFormat(
            "json", "plain arrays as JSON, and mvtrack's cameras.json", "stated", "stated", "stated",
            plain_json.OPTIONS, HOLDABLE, plain_json.read, plain_json.write,
        ),
        PoseFormat(
            "npz", "plain arrays as npz", "stated", "stated", "stated",
            plain_npz.OPTIONS, HOLDABLE, plain_npz.read, plain_npz.write,
        ),
    )
}  # fmt: skip

_JSON = {"recammaster": recammaster, "nerfstudio": nerfstudio, "dycheck": dycheck, "json": plain_json}
_COLMAP_FILES = {
    "colmap_text": (colmap_text.CAMERAS, colmap_text.IMAGES, colmap_text.POINTS),
    "colmap_binary": (colmap_binary.CAMERAS, colmap_binary.IMAGES, colmap_binary.POINTS),
}
_SUBFOLDERS = ("sparse/0", "sparse", "colmap/sparse/0", "camera")


def find_format(name: str) -> PoseFormat:
    """A format by name; ValueError that suggests the right one."""
    if name in FORMATS:
        return FORMATS[name]
    close = difflib.get_close_matches(str(name), FORMATS, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ";"
    raise ValueError(f"unknown pose format {name!r}{hint} known: {', '.join(FORMATS)}")


def detect(path: Path) -> tuple[PoseFormat, dict | None]:
    """The format of a file or folder by its contents, and the JSON document if it is one.

    Raises ValueError where no format fits, or more than one does.
    """
    place = place_of(path)
    if os.path.isdir(path):
        return FORMATS[_only(_of_folder(path), place, _folder_hint(path))], None
    for name, files in _COLMAP_FILES.items():
        if path.name in files:
            return FORMATS[name], None
    start = read_bytes(path, _MAX_TEXT_BYTES)[: 1 << 16]
    if start.startswith(b"PK"):
        return FORMATS["npz"], None
    if start.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"{":
        document = read_json(path)
        fitting = [name for name, module in _JSON.items() if module.looks_like(document)]
        return FORMATS[_only(fitting, place, "its fields are those of no known format")], document
    return FORMATS[_only(_of_text(start), place, "it is neither JSON nor npz nor rows of 8 or 19 numbers")], None


def _of_folder(path: Path) -> list[str]:
    fitting = [name for name, (cameras, images, _) in _COLMAP_FILES.items()
               if (path / cameras).exists() and (path / images).exists()]  # fmt: skip
    if (path / nerfstudio.FILE_NAME).exists():
        return [*fitting, "nerfstudio"]
    return fitting or (["dycheck"] if dycheck.camera_files(path) else [])


def _folder_hint(path: Path) -> str:
    inside = next((sub for sub in _SUBFOLDERS if (path / sub).is_dir() and _of_folder(path / sub)), None)
    return f"but {inside} in it has: give that folder" if inside else "it holds no cameras that are known"


def _of_text(start: bytes) -> list[str]:
    lines = [line for line in lines_of(start.decode("utf-8-sig", "replace")) if line.strip()][:50]
    plain = [line for line in lines if not line.lstrip().startswith("#")]
    return [
        name
        for name, fits in (("tum", tum.looks_like(plain)), ("realestate10k", realestate10k.looks_like(lines)))
        if fits
    ]


def _only(fitting: list[str], place: Place, reason: str) -> str:
    if not fitting:
        raise place.error(f"has no known pose format: {reason}. Known formats: {', '.join(FORMATS)}")
    if len(fitting) > 1:
        raise place.error(f"may be {' or '.join(fitting)}: say which format it is")
    return fitting[0]


def held_back(sequence: CameraSequence, found: PoseFormat) -> list[str]:
    """What the sequence has and the format cannot carry, in words."""
    present = {
        "names": sequence.names != tuple(str(i) for i in range(sequence.num_frames)),
        "times": sequence.timestamps_s is not None,
        "intrinsics": True,
        "size": True,
        "distortion": sequence.distortion is not None,
        "unit": sequence.camera.scale_known,
    }
    return [what for what in HOLDABLE if present[what] and what not in found.holds]
