"""Damaged, absurd and hostile pose files: one clear error each, at once."""

import json
import os
import re
import runpy
import struct
import time
from pathlib import Path

import pytest

from mvtrack.geometry.pose_files import FORMATS, read_cameras, write_cameras

WRITABLE = [name for name, known in FORMATS.items() if known.write]
LENS = {"size": (46, 62), "fov": 50}
ROW = "[1 0 0 0] [0 1 0 0] [0 0 1 0] [0 0 0 1]"
EYE = [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
NERF = {"w": 62, "h": 46, "fl_x": 53, "frames": [{"file_path": "a", "transform_matrix": EYE}]}
PLAIN = {"convention": "opencv c2w raster", "size": [46, 62], "c2w": [EYE], "K": [[53, 0, 31], [0, 53, 23], [0, 0, 1]]}
DYCHECK = {
    "orientation": [[1, 0, 0], [0, 1, 0], [0, 0, 1]], "position": [0, 0, 0], "focal_length": 53, "skew": 0,
    "principal_point": [31, 23], "pixel_aspect_ratio": 1, "image_size": [62, 46],
}  # fmt: skip
TEN_K = "0 0.5 0.5 0.5 0.5 0 0 1 0 0 0 0 1 0 0 0 0 1 0"


def changed(tree: dict, **fields) -> str:
    return json.dumps({key: value for key, value in {**tree, **fields}.items() if value is not ...})


def with_pose(rows) -> str:
    return changed(NERF, frames=[{"file_path": "a", "transform_matrix": rows}])


# format, content, options, what the error must say
MALFORMED = {
    "empty file": (None, "", {}, "is empty"),
    "only spaces": (None, "  \n ", {}, "no known pose format"),
    "random bytes": (None, bytes(range(256)) * 9, {}, "no known pose format"),
    "prose": (None, "cameras go here\n", {}, "neither JSON nor npz nor rows"),
    "JSON of no format": (None, '{"cameras": []}', {}, "fields are those of no known format"),
    "JSON list": ("json", "[1, 2]", {}, "expected a JSON object"),
    "JSON cut": (None, changed(NERF)[:-9], {}, "line 1: is not valid JSON"),
    "JSON twice the same key": (None, '{"c2w": 1, "c2w": 2}', {}, "'c2w' occurs twice"),
    "JSON NaN": (None, '{"frames": NaN}', {}, "constant NaN, expected finite"),
    "JSON nested deeply": (None, '{"a":' * 100_000, {}, "nested too deeply"),
    "JSON lists nested deeply": (None, '{"c2w":' + "[" * 1_000_000, {}, "nested too deeply"),
    "JSON huge integer": (None, '{"c2w": ' + "9" * 100_000 + "}", {}, "integer of 100000 digits"),
    "JSON 1e999": (None, changed(PLAIN).replace("53", "1e999"), {}, r"K\[0\]\[0\]: expected a number in .* got inf"),
    "JSON latin-1": (None, '{"ä": 1}'.encode("latin-1"), {}, "not UTF-8 text"),
    "JSON too large": (None, b'{"a": "' + b"x" * (16 << 20) + b'"}', {}, "expected at most 16777216"),
    "nerfstudio no frames": ("nerfstudio", changed(NERF, frames=[]), {}, "frames: has 0 frames, expected 1 to"),
    "nerfstudio frame is text": ("nerfstudio", changed(NERF, frames=["a"]), {}, r"frames\[0\]: expected a JSON object"),
    "nerfstudio matrix short": (
        None, with_pose(EYE[:2]), {}, r"transform_matrix: expected a list of 4, got a list of 2",
    ),
    "nerfstudio row short": (
        None, with_pose([[1, 0, 0], *EYE[1:]]), {}, r"transform_matrix\[0\]: expected a list of 4",
    ),
    "nerfstudio number is text": (
        None, with_pose([["1", 0, 0, 0], *EYE[1:]]), {}, r"\[0\]\[0\]: expected a number, got '1'",
    ),
    "nerfstudio number is true": (None, with_pose([[True, 0, 0, 0], *EYE[1:]]), {}, "expected a number, got True"),
    "nerfstudio no rotation": (None, with_pose([[2, 0, 0, 0], *EYE[1:]]), {}, r"frame 0 \('a'\): the rotation is none"),
    "nerfstudio mirrored": (None, with_pose([[-1, 0, 0, 0], *EYE[1:]]), {}, "determinant -1, expected"),
    "nerfstudio zero matrix": (None, with_pose([[0] * 4] * 3), {}, "the rotation is none"),
    "nerfstudio far away": (None, with_pose([[1, 0, 0, 1e11], *EYE[1:]]), {}, r"position is \[1e\+11, .*within 1e\+09"),
    "nerfstudio no focal": (None, changed(NERF, fl_x=...), {}, r"frames\[0\]: has no focal length"),
    "nerfstudio focal 0": (None, changed(NERF, fl_x=0), {}, "fl_x: expected a positive number, got 0"),
    "nerfstudio width 0": (None, changed(NERF, w=0), {}, r"\.w: expected a number in \[1, 100000\], got 0"),
    "nerfstudio width 2.5": (None, changed(NERF, w=2.5), {}, "whole number of pixels"),
    "nerfstudio no name": (None, changed(NERF, frames=[{"transform_matrix": EYE}]), {}, "'file_path' is missing"),
    "nerfstudio name of controls": (
        None, changed(NERF, frames=[{"file_path": "a\x1b[31m", "transform_matrix": EYE}]), {}, "control character",
    ),
    "recammaster frame missing": (
        None, json.dumps({"frame0": {"a": ROW}, "frame2": {"a": ROW}}), LENS, "frame1 is missing",
    ),
    "recammaster gap before the last": (
        None, json.dumps({f"frame{i}": {"a": ROW} for i in (0, 2, 3, 5)}), LENS, "frame1 is missing among 4 frames",
    ),
    "recammaster odd field": (
        None, json.dumps({"frame0": {"a": ROW}, "fps": 3}), LENS, "expected only the fields frame0",
    ),
    "recammaster camera missing": (
        None, json.dumps({"frame0": {"a": ROW}, "frame1": {"b": ROW}}), LENS, "frame1: the field 'a' is missing",
    ),
    "recammaster three rows": (None, json.dumps({"frame0": {"a": ROW[:29]}}), LENS, "four bracketed rows"),
    "recammaster column vectors": (
        None, json.dumps({"frame0": {"a": "[1 0 0 5] [0 1 0 5] [0 0 1 5] [0 0 0 1]"}}), LENS, "row vectors",
    ),
    "recammaster nan": (
        None, json.dumps({"frame0": {"a": ROW.replace("[1", "[nan")}}), LENS, "expected a number, got 'nan'",
    ),
    "recammaster no rotation": (
        None, json.dumps({"frame0": {"a": ROW.replace("[1", "[2")}}), LENS, "the rotation is none",
    ),
    "tum seven columns": ("tum", "1.0 0 0 0 0 0 1\n", LENS, "line 1: has 7 columns, expected 8"),
    "tum word": ("tum", "# a\n1.0 0 zero 0 0 0 0 1\n", LENS, "line 2: expected a number, got 'zero'"),
    "tum infinite": ("tum", "1.0 inf 0 0 0 0 0 1\n", LENS, "expected a number, got 'inf'"),
    "tum quaternion 0": (None, "1.0 0 0 0 0 0 0 0\n", LENS, "line 1: the quaternion's norm is 0, expected 1"),
    "tum quaternion 2": (None, "1.0 0 0 0 0 0 0 2\n", LENS, "norm is 2"),
    "tum other scripts' digits": ("tum", "\u0661 0 0 0 0 0 0 1\n", LENS, "expected a number"),
    "tum comments only": ("tum", "# a\n# b\n", LENS, "has 0 frames"),
    "tum huge": (None, "1.0 1e300 0 0 0 0 0 1\n", LENS, r"line 1: expected a number in \[-1e\+12, 1e\+12\]"),
    "realestate10k columns": (
        None, f"url\n{TEN_K}\n{TEN_K} 4\n", LENS | {"fov": ...}, "line 3: has 20 columns, expected 19",
    ),
    "realestate10k singular": (
        None, "url\n" + TEN_K.replace("1", "0"), LENS | {"fov": ...}, "frame 0: the rotation has det",
    ),
    "realestate10k negative time": (
        None, f"url\n-5{TEN_K[1:]}", LENS | {"fov": ...}, "expected whole microsec",
    ),
    "realestate10k columns 6, 7": (
        None, TEN_K.replace("0 0 1", "7 0 1", 1), LENS | {"fov": ...}, "columns 6 and 7 are 7",
    ),
    "realestate10k focal": (
        None, TEN_K.replace("0.5", "-0.5", 1), LENS | {"fov": ...}, "fx: expected a positive number",
    ),
    "dycheck position short": (None, changed(DYCHECK, position=[0, 0]), {}, "position: expected a list of 3"),
    "dycheck aspect": (None, changed(DYCHECK, pixel_aspect_ratio=-1), {}, "pixel_aspect_ratio: expected a positive"),
    "dycheck distortion": (
        None, changed(DYCHECK, radial_distortion=[0]), {}, "radial_distortion: expected a list of 3",
    ),
    "plain no poses": (None, changed(PLAIN, c2w=[]), {}, "c2w: has 0 frames"),
    "plain ragged": (None, changed(PLAIN, c2w=[EYE, EYE[:3]]), {}, r"c2w\[1\]: expected a list of 4"),
    "plain last row": (None, changed(PLAIN, c2w=[[*EYE[:3], [0, 0, 0, 2]]]), {}, "last row is"),
    "plain K upside down": (None, changed(PLAIN, K=[[53, 0, 31], [0, 53, 23], [0, 1, 0]]), {}, "K is .* expected"),
    "plain K negative": (None, changed(PLAIN, K=[[-53, 0, 31], [0, 53, 23], [0, 0, 1]]), {}, "focal lengths are"),
    "npz of nothing": (None, b"PK\x05\x06" + bytes(18), {}, "neither c2w nor w2c"),
    "npz cut to its first bytes": (None, b"PK\x03\x04 and so on", {}, "end record is missing"),
}  # fmt: skip


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_files_say_where_and_what(tmp_path, unchecked, case):
    name, content, options, message = MALFORMED[case]
    path = tmp_path / "odd 'näme'.dat"
    path.write_bytes(content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content)
    options = {key: value for key, value in options.items() if value is not ...}
    began = time.process_time()
    with pytest.raises(ValueError, match=message) as caught:
        read_cameras(path, name, **options)
    assert time.process_time() - began < 5
    assert type(caught.value) is ValueError
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 700


def attempt(path, name, options):
    """The cameras, or the error in words."""
    try:
        return read_cameras(path, name, **options), ""
    except ValueError as error:
        return None, str(error)


@pytest.mark.parametrize("name", WRITABLE)
def test_files_cut_at_any_length_are_refused_or_shorter(tmp_path, sequence, unchecked, read_options, name):
    whole = write_cameras(tmp_path / "whole", sequence, name)
    files = sorted(whole.iterdir()) if whole.is_dir() else [whole]
    victim = next((file for file in files if "images" in file.name), files[0])
    content = victim.read_bytes()
    for cut in range(0, len(content), max(1, len(content) // 40)):
        victim.write_bytes(content[:cut])
        read, error = attempt(whole, name, read_options.get(name, {}))
        if read is None:
            assert error.startswith(str(whole))
        else:  # text of whole lines, without its last frames: nothing in the file says how many there were
            assert name in ("tum", "kitti", "realestate10k", "colmap_text")
            assert read.num_frames <= sequence.num_frames


@pytest.mark.parametrize(
    ("file", "offset", "value", "message"),
    [
        ("images.bin", 0, struct.pack("<Q", 2**63), "says it has 9223372036854775808 images, expected at most"),
        ("images.bin", 0, struct.pack("<Q", 100_000), "says it has 100000 images"),
        ("images.bin", 0, struct.pack("<Q", 4), "bytes after its last entry"),
        ("images.bin", 0, struct.pack("<Q", 0), "bytes after its last entry"),
        ("images.bin", 12, struct.pack("<d", float("nan")), r"images\[0\]: expected a number in .* got nan"),
        ("images.bin", 12, struct.pack("<d", 3.0), "quaternion's norm"),
        ("images.bin", 68, struct.pack("<I", 77), "has camera 77, which is not in cameras"),
        ("images.bin", 72, b"\xff\xfe", "is not UTF-8 text"),
        ("images.bin", 84, struct.pack("<Q", 2**62), "points follow, but only"),
        ("cameras.bin", 12, struct.pack("<i", 99), r"cameras\[0\]: camera model number 99 is not supported"),
        ("cameras.bin", 16, struct.pack("<Q", 2**60), "width: expected a number in"),
        ("cameras.bin", 32, struct.pack("<d", -5.0), "fx: expected a positive number"),
    ],
)
def test_binary_colmap_models_with_other_values(tmp_path, sequence, file, offset, value, message):
    folder = write_cameras(tmp_path / "model", sequence, "colmap_binary")
    content = bytearray((folder / file).read_bytes())
    content[offset : offset + len(value)] = value
    (folder / file).write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        read_cameras(folder)
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 1 0 0 0 0 0 0 1 a.png\n2 1 0 0 0 0 0 0 1 b.png\n", "line 2: expected the image's points"),
        ("1 1 0 0 0 0 0 0 1\n\n", "line 1: has 9 columns"),
        ("1 1 0 0 0 0 0 0 one a.png\n\n", "line 1.*expected a whole number, got 'one'"),
        ("1 1 0 0 0 0 0 0 1 a.png\n\n2 1 0 0 0 0 0 0 1 a.png\n\n", "two images named 'a.png'"),
        ("# nothing\n", "has 0 images"),
    ],
)
def test_text_colmap_models(tmp_path, text, message):
    (tmp_path / "cameras.txt").write_text("1 PINHOLE 62 46 53 54 31 23\n")
    (tmp_path / "images.txt").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_cameras(tmp_path)


@pytest.mark.parametrize("name", [None, *FORMATS])
def test_paths_that_are_no_files(tmp_path, name):
    loop, folder, pipe = tmp_path / "loop.json", tmp_path / "folder", tmp_path / "pipe"
    loop.symlink_to(loop)
    folder.mkdir()
    os.mkfifo(pipe)
    for path in (loop, folder, pipe, tmp_path / "missing.json", tmp_path / ("x" * 300), Path("nul\0byte")):
        with pytest.raises(ValueError, match=re.escape(ascii(path.name)[1:-1])):
            read_cameras(path, name)


def test_links_to_files_are_followed(tmp_path, sequence):
    target = write_cameras(tmp_path / "a.json", sequence, "json")
    (tmp_path / "link").symlink_to(target)
    assert read_cameras(tmp_path / "link").num_frames == 5


def test_fuzz_for_a_moment(unchecked):
    fuzz = runpy.run_path(str(Path(__file__).with_name("fuzz.py")))["fuzz"]
    counts = fuzz(2.0, seed=3)
    assert counts["met"], counts


@pytest.mark.parametrize("name", WRITABLE)
def test_too_many_frames_are_refused(tmp_path, sequence, read_options, monkeypatch, name):
    path = write_cameras(tmp_path / "poses", sequence, name)
    monkeypatch.setattr("mvtrack.geometry.pose_files.parse.MAX_FRAMES", 3)
    with pytest.raises(ValueError, match="expected (1 to|at most) 3"):
        read_cameras(path, name, **read_options.get(name, {}))
