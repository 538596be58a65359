"""Plain arrays as JSON, and the `cameras.json` of a re-shot video, which has one entry a view."""

import json
from pathlib import Path

import torch
from torch import Tensor

from mvtrack.geometry.pose_files.options import ReadOptions
from mvtrack.geometry.pose_files.parse import (
    Place,
    frame_count,
    items,
    mapping,
    matrix,
    name,
    number,
    place_of,
    read_json,
    required,
    show,
    side_px,
    vector,
)
from mvtrack.geometry.pose_files.plain import CONVENTION, FIELDS, PlainArrays, assemble, full_poses, pose_key
from mvtrack.geometry.pose_files.plain import OPTIONS as PLAIN_OPTIONS
from mvtrack.geometry.pose_files.sequence import CameraSequence

OPTIONS = (*PLAIN_OPTIONS, "view")


def looks_like(document: dict) -> bool:
    return "c2w" in document or "w2c" in document or isinstance(document.get("views"), list)


def read(path: Path, options: ReadOptions, document: dict | None = None) -> CameraSequence:
    """The arrays of a file, or those of one view (`view`: its name, or its number from 0) of a cameras.json."""
    place = place_of(path)
    document = read_json(path) if document is None else document
    if "views" in document:
        chosen, at = _view(document, options, place)
        shared = {key: value for key, value in document.items() if key != "views"}
        document, place = {**shared, **chosen}, at
    elif options.view is not None:
        raise place.error("has no views: the option view is for a cameras.json with several")
    return assemble(_arrays(document, place), options, place, "JSON")


def _view(document: dict, options: ReadOptions, place: Place) -> tuple[dict, Place]:
    at = place.field("views")
    views = [mapping(view, at.item(i)) for i, view in enumerate(items(document["views"], at))]
    titles = [
        name(view["name"], at.item(i).field("name")) if "name" in view else str(i) for i, view in enumerate(views)
    ]
    shown = ", ".join(show(title)[1:-1] for title in titles[:12])
    if options.view is None and len(views) != 1:
        raise at.error(f"holds {len(views)} views: the option view is needed, one of {shown}")
    matches = [i for i, title in enumerate(titles) if options.view in (None, title)]
    if not matches and options.view.isascii() and options.view.isdigit() and len(options.view) < 6:
        matches = [int(options.view)] if int(options.view) < len(views) else []
    if len(matches) != 1:
        raise at.error(f"holds {len(matches)} views named {show(options.view)}; it has {shown}")
    view = {key: value for key, value in views[matches[0]].items() if key != "name"}
    return view, at.item(matches[0])


def _arrays(document: dict, place: Place) -> PlainArrays:
    key = pose_key(document, place)
    at = place.field(key)
    poses = items(document[key], at)
    frame_count(len(poses), at)
    rows = 3 if isinstance(poses[0], list) and len(poses[0]) == 3 else 4
    c2w = torch.tensor([matrix(pose, at.item(i), rows, 4) for i, pose in enumerate(poses)], dtype=torch.float64)
    given = {}
    if "K" in document:
        given["K"] = _table(document["K"], place.field("K"), 3)
    if "size" in document:
        given["size"] = _size(document["size"], place.field("size"))
    if "names" in document:
        at = place.field("names")
        given["names"] = tuple(name(value, at.item(i)) for i, value in enumerate(items(document["names"], at)))
    if "timestamps_s" in document:
        at = place.field("timestamps_s")
        times = items(document["timestamps_s"], at)
        given["timestamps_s"] = torch.tensor(vector(times, at, len(times)), dtype=torch.float64)
    if "fps" in document:
        given["fps"] = number(document["fps"], place.field("fps"), 1e-3, 1e6)
    if "distortion" in document:
        given["distortion"] = _lens(document["distortion"], place.field("distortion"))
    ignored = [field for field in document if field not in FIELDS]
    return PlainArrays(
        key, full_poses(c2w), convention=document.get("convention"), unit=document.get("unit"), ignored=ignored, **given
    )


def _table(value: object, place: Place, side: int) -> Tensor:
    """A square matrix, or one a frame."""
    outer = items(value, place)
    if outer and isinstance(outer[0], list) and outer[0] and isinstance(outer[0][0], list):
        rows = [matrix(entry, place.item(i), side, side) for i, entry in enumerate(outer)]
    else:
        rows = matrix(outer, place, side, side)
    return torch.tensor(rows, dtype=torch.float64)


def _lens(value: object, place: Place) -> Tensor:
    """Five coefficients, or five a frame."""
    outer = items(value, place)
    if outer and isinstance(outer[0], list):
        rows = [vector(entry, place.item(i), 5) for i, entry in enumerate(outer)]
    else:
        rows = vector(outer, place, 5)
    return torch.tensor(rows, dtype=torch.float64)


def _size(value: object, place: Place) -> tuple[int, int]:
    if isinstance(value, list):
        height, width = items(value, place, 2)
        return side_px(height, place.item(0)), side_px(width, place.item(1))
    size = mapping(value, place)
    return tuple(side_px(required(size, key, place), place.field(key)) for key in ("height", "width"))


def write(sequence: CameraSequence) -> bytes:
    """The file's bytes; nothing that a `CameraSequence` holds is lost."""
    camera = sequence.camera
    document = {
        "convention": CONVENTION,
        "unit": sequence.unit,
        "size": {"height": camera.size[0], "width": camera.size[1]},
        "names": list(sequence.names),
        "c2w": camera.c2w.double().tolist(),
        "K": camera.K.double().tolist(),
    }
    if sequence.timestamps_s is not None:
        document["timestamps_s"] = sequence.timestamps_s.double().tolist()
    if sequence.distortion is not None:
        document["distortion"] = sequence.distortion.coefficients.double().tolist()
    return json.dumps(document, indent=1).encode()
