"""ReCamMaster / MultiCamVideo `camera_extrinsics.json`: Unreal poses as strings of row vectors, in centimetres.

`frame{i}` -> `cam{nn}` -> "[r r r 0] [r r r 0] [r r r 0] [x y z 1]", the transpose of a camera-to-world matrix, in
Unreal's left-handed axes (x forward, y right, z up). Camera *and* world are turned to right-handed axes here, so the
rotations are true ones (the released code mirrors the camera only: its absolute poses have determinant -1, relative
poses agree).
"""

import json
import re
from dataclasses import replace

import torch

from mvtrack.config.pose_files import ReadOptions
from mvtrack.geometry.camera import Camera
from mvtrack.geometry.pose_files.geometry import axes_from_opencv, axes_to_opencv
from mvtrack.geometry.pose_files.options import image_size, lens_matrix, needed
from mvtrack.geometry.pose_files.parse import Fields, Place, frame_count, show, text_number
from mvtrack.geometry.pose_files.sequence import CameraSequence, refuse_distortion
from mvtrack.geometry.pose_files.source import LENS_OPTIONS, PoseFormat, PoseSource

_CM = 100.0
_SENSOR_MM = 23.76  # width of the sensor that MultiCamVideo was rendered with
_FRAME = re.compile(r"frame(0|[1-9][0-9]{0,8})", re.ASCII)
_ROWS = re.compile(r"\s*" + r"\s*".join([r"\[([^\[\]]{1,400})\]"] * 4) + r"\s*")
_STRIDE = 4  # ReCamMaster's own files may hold every fourth frame: one for each latent frame


def read(source: PoseSource, options: ReadOptions) -> CameraSequence:
    """One camera of the file (`camera`: its name or number; not needed where there is only one).

    focal_mm without sensor_mm is on MultiCamVideo's sensor.
    """
    place, document = source.place, source.document
    count = frame_count(len(document.tree), place)
    odd = next((key for key in document.tree if not _FRAME.fullmatch(key)), None)
    if odd is not None:
        raise place.field(odd).error("expected only the fields frame0, frame1, …")
    names = [f"frame{index * _STRIDE}" for index in range(count)]
    if not all(name in document for name in names):
        names = [f"frame{index}" for index in range(count)]
    missing = next((name for name in names if name not in document), None)
    if missing is not None:
        raise place.error(f"{missing} is missing among {count} frames")
    frames = [Fields(document[name], place.field(name)) for name in names]
    camera = _choose(frames[0].tree, options, frames[0].place)
    rows = [_matrix(frame[camera], frame.at(camera)) for frame in frames]
    c2w = torch.tensor(rows, dtype=torch.float64).mT.contiguous()
    c2w[:, :3, 3] /= _CM
    size = image_size(options, place)
    if options.focal_mm is not None and options.sensor_mm is None:
        options = replace(options, sensor_mm=_SENSOR_MM)
    K = lens_matrix(options, size, place).expand(count, 3, 3)
    return CameraSequence(
        Camera(axes_to_opencv(c2w, "unreal"), K, size, scale_known=True),
        tuple(names),
        convention=f"ReCamMaster JSON, {camera}: Unreal axes, row vectors, camera-to-world, centimetres",
        file_axes="unreal",
    )


def _choose(frame: dict, options: ReadOptions, place: Place) -> str:
    """The name of the camera that was asked for."""
    wanted = options.camera
    if wanted is None and len(frame) == 1:
        return next(iter(frame))
    shown = ", ".join(sorted(show(name)[1:-1] for name in frame)[:12])
    if wanted is None:
        raise place.error(f"holds {len(frame)} cameras: {needed('camera')}, one of {shown}")
    name = str(wanted)
    if name not in frame and re.fullmatch(r"[0-9]{1,4}", name, re.ASCII):
        name = f"cam{int(name):02d}"
    if name not in frame:
        raise place.error(f"has no camera {show(name)}; it has {shown}")
    return name


def _matrix(value: object, place: Place) -> list[list[float]]:
    """The four rows of a string; the last column must be 0 0 0 1."""
    found = _ROWS.fullmatch(value) if isinstance(value, str) and len(value) <= 2000 else None
    if found is None:
        raise place.error(f"expected a string of four bracketed rows '[a b c d] …', got {show(value)}")
    rows = []
    for index, row in enumerate(found.groups()):
        tokens = row.split()
        if len(tokens) != 4:
            raise place.item(index).error(f"expected 4 numbers, got {len(tokens)}")
        at = place.item(index)
        rows.append([text_number(token, at) for token in tokens])
    last = [row[3] for row in rows]
    if last != [0, 0, 0, 1]:
        raise place.error(f"the last column is {last}, expected [0, 0, 0, 1] (row vectors)")
    return rows


def write(sequence: CameraSequence) -> bytes:
    """The file's bytes, one camera `cam01`. Intrinsics, names and times have no place in this format.

    Raises ValueError for an unknown scale (the format is in centimetres) or a distorted lens.
    """
    if not sequence.camera.scale_known:
        raise ValueError(
            "recammaster files are in centimetres and the scale of these cameras is unknown: scale them to metres "
            "(Camera.scaled) and set scale_known"
        )
    refuse_distortion(sequence, "recammaster files")
    rows = axes_from_opencv(sequence.camera.c2w.double(), "unreal")
    rows[:, :3, 3] *= _CM
    tree = {}
    for index, matrix in enumerate(rows.mT.tolist()):
        text = " ".join("[" + " ".join(repr(v + 0.0) for v in row) + "]" for row in matrix)
        tree[f"frame{index}"] = {"cam01": text + " "}
    return json.dumps(tree, indent=1).encode()


def _detect(source: PoseSource) -> bool:
    first = source.fields.get("frame0")
    return isinstance(first, dict) and any(isinstance(value, str) for value in first.values())


RECAMMASTER = PoseFormat(
    "recammaster", "ReCamMaster / MultiCamVideo camera_extrinsics.json", "unreal", "c2w", "centimetres", _detect,
    read, write, ("camera", *LENS_OPTIONS), ("unit",),
)  # fmt: skip
