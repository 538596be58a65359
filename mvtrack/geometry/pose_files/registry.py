"""The pose formats. A new one is a file with a `PoseFormat` in it, and a line here."""

import difflib
from pathlib import Path

from mvtrack.geometry.pose_files import colmap, nerfstudio_viewer, plain, predictions
from mvtrack.geometry.pose_files.dycheck import DYCHECK
from mvtrack.geometry.pose_files.kitti import KITTI
from mvtrack.geometry.pose_files.llff import LLFF
from mvtrack.geometry.pose_files.nerfstudio import TRANSFORMS
from mvtrack.geometry.pose_files.options import needed
from mvtrack.geometry.pose_files.polycam import POLYCAM
from mvtrack.geometry.pose_files.realestate10k import REALESTATE10K
from mvtrack.geometry.pose_files.recammaster import RECAMMASTER
from mvtrack.geometry.pose_files.record3d import RECORD3D
from mvtrack.geometry.pose_files.sequence import CameraSequence
from mvtrack.geometry.pose_files.source import HOLDABLE, PoseFormat, PoseSource
from mvtrack.geometry.pose_files.tum import TUM
from mvtrack.geometry.pose_files.vipe import VIPE

_ALL = (
    RECAMMASTER, TRANSFORMS, nerfstudio_viewer.CAMERA_PATH, nerfstudio_viewer.EXPORT, colmap.TEXT, colmap.BINARY,
    REALESTATE10K, TUM, KITTI, LLFF, DYCHECK, POLYCAM, RECORD3D, VIPE, predictions.MEGASAM, predictions.VGGT,
    plain.JSON, plain.NPZ,
)  # fmt: skip
FORMATS = {known.name: known for known in _ALL}
_SUBFOLDERS = ("sparse/0", "sparse", "colmap/sparse/0", "camera", "keyframes/corrected_cameras", "keyframes/cameras")


def find_format(name: str) -> PoseFormat:
    """A format by name; ValueError that suggests the right one."""
    if name in FORMATS:
        return FORMATS[name]
    close = difflib.get_close_matches(str(name), FORMATS, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ";"
    raise ValueError(f"unknown pose format {name!r}{hint} known: {', '.join(FORMATS)}")


def detect(source: PoseSource) -> PoseFormat:
    """The format of a file or folder by its contents. Raises ValueError where none fits, or more than one does."""
    fitting = [known for known in FORMATS.values() if known.detect(source)]
    if len(fitting) > 1:
        names = " or ".join(known.name for known in fitting)
        raise source.place.error(f"may be {names}: {needed('format')}")
    if not fitting:
        raise source.place.error(
            f"has no known pose format: {_why_unknown(source)}. Known formats: {', '.join(FORMATS)}"
        )
    return fitting[0]


def _why_unknown(source: PoseSource) -> str:
    if source.is_folder:
        inside = next((sub for sub in _SUBFOLDERS if _is_known_folder(source.path / sub)), None)
        return f"but {inside} in it has: give that folder" if inside else "it holds no cameras that are known"
    if source.is_npz:
        return f"its arrays are {', '.join(source.npz.names[:8])}, and neither c2w nor w2c is among them"
    if source.fields:
        return "its fields are those of no known format"
    return "it is neither JSON nor npz nor rows of 8, 12 or 19 numbers"


def _is_known_folder(path: Path) -> bool:
    return path.is_dir() and any(known.detect(PoseSource(path)) for known in FORMATS.values())


def held_back(sequence: CameraSequence, target: PoseFormat) -> list[str]:
    """What the sequence has and the format cannot carry, in words."""
    present = {
        "names": sequence.names != tuple(str(i) for i in range(sequence.num_frames)),
        "times": sequence.timestamps_s is not None,
        "intrinsics": True,
        "size": True,
        "distortion": sequence.distortion is not None,
        "unit": sequence.camera.scale_known,
        "points": sequence.points is not None,
    }
    return [what for what in HOLDABLE if present[what] and what not in target.holds]
