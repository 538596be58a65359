"""MOVi's TFRecords, written here byte by byte: framing, checksums and messages of their own."""

import math
import struct
from dataclasses import replace
from pathlib import Path

import cv2
import google_crc32c
import numpy as np
import pytest
import torch

from mvtrack.data.public.movi_tracks import RigidScene
from mvtrack.data.public.movi_tracks import track_points as kubric_tracks
from mvtrack.data.public.registry import LAYOUTS, find_layout
from mvtrack.data.public.tfrecord import read_example, record_offsets
from mvtrack.data.synthetic.point_tracks import carry_points, track_points
from mvtrack.data.synthetic.renderer import FIRST_OBJECT
from mvtrack.geometry.camera import Camera, pixel_grid, project, unproject
from mvtrack.geometry.rotation import quaternion_from_matrix
from tests.data.public.synthesis import TO_Z_UP, Truth, depth_agreement, scene_error_px, synthesise
from tests.data.public.test_kubric import BLENDER

FOCAL, SENSOR = 35.0, 32.0


def varint(value: int) -> bytes:
    value, out = value % (1 << 64), b""
    while value > 127:
        value, out = value >> 7, out + bytes([value & 127 | 128])
    return out + bytes([value])


def field(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def feature(values) -> bytes:
    if isinstance(values[0], bytes):
        return field(1, b"".join(field(1, value) for value in values))
    if isinstance(values[0], float):
        return field(2, field(1, struct.pack(f"<{len(values)}f", *values)))
    return field(3, field(1, b"".join(map(varint, values))))


def example(features: dict) -> bytes:
    entries = (field(1, field(1, name.encode()) + field(2, feature(values))) for name, values in features.items())
    return field(1, b"".join(entries))


def masked(content: bytes) -> bytes:
    crc = google_crc32c.value(content)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def write_records(path: Path, records: list[bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lengths = (struct.pack("<Q", len(record)) for record in records)
    path.write_bytes(
        b"".join(n + masked(n) + record + masked(record) for n, record in zip(lengths, records, strict=True))
    )


def png(array: np.ndarray) -> bytes:
    return cv2.imencode(".png", array)[1].tobytes()


def features_of(truth: Truth, view: int = 0, z_as_distance: bool = False) -> dict:
    c2w, _ = truth.turned(TO_Z_UP)
    distance = truth.depth[view] if z_as_distance else truth.distance[view]
    low, high = float(distance.min()), float(distance.max())
    stored = ((distance.double() - low) / (high - low) * 65535).round().numpy().astype(np.uint16)
    ids = (truth.ids[view].int() - 1).clamp(0).byte().numpy()
    return {
        "video": [png(np.ascontiguousarray(f.permute(1, 2, 0).numpy()[..., ::-1])) for f in truth.video[view]],
        "depth": [png(frame) for frame in stored],
        "segmentations": [png(frame) for frame in ids],
        "metadata/depth_range": [low, high],
        "camera/focal_length": [FOCAL],
        "camera/sensor_width": [SENSOR],
        "camera/positions": c2w[view, :, :3, 3].flatten().tolist(),
        "camera/quaternions": quaternion_from_matrix(c2w[view, :, :3, :3] @ BLENDER).flatten().tolist(),
        "instances/is_dynamic": [0, 1, 0, 1, 0, 0, 0],
        "instances/positions": (truth.rigid.position.double() @ TO_Z_UP.T).transpose(0, 1).flatten().tolist(),
        "instances/quaternions": quaternion_from_matrix(TO_Z_UP @ truth.rigid.rotation.double())
        .transpose(0, 1)
        .flatten()
        .tolist(),
        "metadata/video_name": [b"17"],
    }


@pytest.fixture(scope="module")
def truth() -> Truth:
    return synthesise(5, views=2, frames=3, size=(46, 46), points=13, square_lens=FOCAL / SENSOR)


@pytest.fixture
def file(truth, tmp_path) -> Path:
    path = tmp_path / "movi_e/256x256/1.0.0/movi_e-train.tfrecord-00000-of-01024"
    write_records(path, [example(features_of(truth, view)) for view in (0, 1)])
    return path


def test_records_are_read(truth, file, tmp_path, options):
    layout = find_layout(tmp_path)
    files = layout.scenes(tmp_path, options)
    assert [scene.name for scene in files] == ["movi_e-train-00000_0", "movi_e-train-00000_1"]
    scenes = [layout.read(each) for each in files]
    _, world = truth.turned(TO_Z_UP)
    for v, scene in enumerate(scenes):
        # poses are stored as float32
        assert scene_error_px(scene, world, truth.tracks.views([v])) < 0.01
        (view,) = scene.views
        assert torch.equal(view.video.read(0, 3), truth.video[v])
        step = float(truth.distance[v].max() - truth.distance[v].min()) / 65535
        assert (view.depth(3) - truth.depth[v]).abs().max() < 0.51 * step + 1e-5
        thrown = (truth.ids[v] == 3) | (truth.ids[v] == 5)  # is_dynamic of objects 1 and 3, from 0
        assert torch.equal(view.masks(3), thrown)


def test_distance_taken_as_z_depth_shows(truth, tmp_path, options):
    shares = []
    for wrong in (False, True):
        path = tmp_path / str(wrong) / "movi_a-test.tfrecord-00000-of-00001"
        write_records(path, [example(features_of(truth, view, wrong)) for view in (0, 1)])
        scenes = [LAYOUTS["movi"].read(each) for each in LAYOUTS["movi"].scenes(path.parent, options)]
        views = tuple(scene.views[0] for scene in scenes)
        shares.append(depth_agreement(type(scenes[0])("both", views)))
    assert shares[1] < shares[0] - 0.1


def test_tracks_are_those_of_the_rendered_objects(tmp_path, options):
    """Against the renderer's own: a point's pixel, where its track is a pixel's centre, says which point it is."""
    truth = synthesise(7, views=1, frames=11, size=(118, 118), points=2, square_lens=FOCAL / SENSOR)
    write_records(tmp_path / "movi_e-train.tfrecord-00000-of-00001", [example(features_of(truth))])
    layout = find_layout(tmp_path)
    (files,) = layout.scenes(tmp_path, options)
    assert layout.track_files(files) == [files.path]
    xy, visible, found = layout.read(files).tracks()
    again = layout.read(files).tracks()
    assert torch.equal(xy, again.xy)
    assert found.all()
    xy, visible = xy[0], visible[0]
    at_centre = ((xy - 0.5 - (xy - 0.5).round()).abs().amax(-1) < 1e-4) & visible
    assert at_centre.any(0).all()  # of the frame it was drawn in
    when = at_centre.int().argmax(0)
    column, row = (xy[when, torch.arange(len(when))] - 0.5).round().long().unbind(-1)
    surface, camera = truth.ids[0, when, row, column].long(), truth.camera[0]
    depth = truth.depth[0, when, row, column]
    start = torch.stack([column, row], -1) + 0.5
    point = unproject(start[:, None], depth[:, None], camera[when])[:, 0]
    world = carry_points(truth.rigid, point, surface, when)
    expected = track_points(truth.rigid, truth.camera, world, surface)
    side = truth.camera.size[0]
    inside = (project(world, camera)[1] > 0) & (expected.xy[0] >= 0).all(-1) & (expected.xy[0] <= side).all(-1)
    assert (xy - expected.xy[0])[inside].norm(dim=-1).max() < 0.01
    moved = (expected.xy[0] - expected.xy[0, :1]).norm(dim=-1).amax(0)
    assert moved[surface >= FIRST_OBJECT].max() > 7
    assert torch.equal(surface.unique(), truth.ids[0].unique().long())  # no object is left out
    hidden, agree = ~expected.visible[0], visible == expected.visible[0]
    # rays meet edges where the four pixels around a point still hold its object, or lie within 1 % of its depth
    assert agree.float().mean() > 0.98
    assert agree[hidden].float().mean() > 0.9


@pytest.mark.parametrize("rough", [False, True])
def test_a_surface_that_turned_away_is_hidden(rough):
    """A plate of no thickness makes half a turn: its depth does not tell, its normals do unless they are noise."""
    size, rng = (37, 41), np.random.default_rng(3)
    K = torch.tensor([[50.0, 0, 20.5], [0, 50, 18.5], [0, 0, 1]], dtype=torch.float64)
    camera = Camera(torch.eye(4, dtype=torch.float64).expand(2, 4, 4), K.expand(2, 3, 3), size)
    depth, position = torch.full((2, *size), 4.0), torch.tensor([0.0, 0, 4], dtype=torch.float64)
    rotation = torch.stack([torch.eye(3), torch.diag(torch.tensor([-1.0, 1, -1]))]).double()[None]
    ids = torch.ones(2, *size, dtype=torch.uint8)
    rays = (pixel_grid(size).double() - K[:2, 2]) / 50
    distance = depth * (1 + rays.square().sum(-1)).sqrt().float()
    scene = RigidScene(camera, depth, distance, ids, position.expand(1, 2, 3), rotation)
    normals = torch.tensor([0.0, 0, -1]).expand(2, *size, 3)  # to the camera, in both frames: each sees another side
    if rough:
        normals = normals + 0.5 * torch.from_numpy(rng.normal(size=normals.shape))
    shown = kubric_tracks(scene, np.random.default_rng(5), 7).visible
    tracks = kubric_tracks(replace(scene, normals=normals.float()), np.random.default_rng(5), 7)
    assert shown.all()
    other = tracks.visible.sum(1) == 1
    assert other.all() != rough
    assert not (rough and other.any())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"instances/positions": None}, "instances/positions must be 3 numbers an object and frame"),
        ({"instances/quaternions": [1.0] * 7}, "instances/quaternions must be 4 numbers an object and frame"),
        ({"instances/quaternions": [1.0, 0, 0, 0] * 3}, "these must be as many"),
        ({"instances/positions": [math.nan] * 9}, "instances/positions holds a number that is not finite"),
        ({"normal": [b"no"] * 3}, "is not three 16-bit values a pixel"),
        ({"depth": 2}, "video has 3 frames, its maps 2"),
    ],
)
def test_what_tracks_lack_is_named(truth, tmp_path, options, change, message):
    features = features_of(truth)
    changed = {k: features[k][:v] if isinstance(v, int) else v for k, v in change.items()}
    features = {name: values for name, values in (features | changed).items() if values is not None}
    write_records(tmp_path / "movi_a-test.tfrecord-00000-of-00001", [example(features)])
    layout = LAYOUTS["movi"]
    with pytest.raises(ValueError, match=message):
        layout.read(layout.scenes(tmp_path, options)[0]).tracks()


def test_features_of_all_kinds_are_decoded(tmp_path):
    path = tmp_path / "x"
    unpacked = field(1, field(1, field(1, b"u") + field(2, field(3, b"\x08\x05" + b"\x08" + varint(-2)))))
    write_records(path, [example({"a": [b"x", b""], "b": [1.5, -2.0], "c": [3, -1, 1 << 40]}), unpacked, b""])
    offsets = record_offsets(path)
    first = read_example(path, offsets[0])
    assert first["a"] == [b"x", b""]
    assert first["b"].tolist() == [1.5, -2.0]
    assert first["c"].tolist() == [3, -1, 1 << 40]
    assert read_example(path, offsets[1])["u"].tolist() == [5, -2]
    assert read_example(path, offsets[2]) == {}


def change(position: int):
    def edit(content: bytes) -> bytes:
        return content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :]

    return edit


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda content: content[:-100], "of-01024 is cut short: record 1 ends at byte"),
        (lambda content: content[:5], "the header at byte 0 has a wrong checksum"),
        (change(3), "the header at byte 0 has a wrong checksum"),
        (change(200), "the checksum of the record at byte 0 is wrong"),
        (lambda content: b"not a record at all", "is no TFRecord file"),
    ],
)
def test_damaged_files_are_named(file, tmp_path, options, edit, message):
    file.write_bytes(edit(file.read_bytes()))
    layout = find_layout(tmp_path)
    with pytest.raises(ValueError, match=message):
        layout.read(layout.scenes(tmp_path, options)[0])


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ({"video": [b"no"]}, "picture 0 cannot be decoded"),
        ({"camera/positions": [0.0] * 6}, "camera/positions must be 9 numbers"),
        ({"camera/quaternions": [2.0] * 12}, "the quaternion of frame 0 has length 4"),
        ({"camera/focal_length": [0.0]}, "the lens is 0 mm on 32 mm"),
        ({"camera/focal_length": [b"x"]}, "camera/focal_length must be 1 numbers"),
    ],
)
def test_records_that_lack_something_are_named(truth, file, tmp_path, options, features, message):
    write_records(file, [example(features_of(truth) | features)])
    with pytest.raises(ValueError, match=message):
        LAYOUTS["movi"].read(LAYOUTS["movi"].scenes(tmp_path, options)[0])


def test_a_record_that_is_no_example_is_named(file):
    write_records(file, [b"\x0a\xff\xff\xff\xff\x0f"])
    with pytest.raises(ValueError, match="the record at byte 0 is no tf.train.Example"):
        read_example(file, 0)
