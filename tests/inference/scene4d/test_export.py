"""What is exported lies where it was, read back by the libraries of the programs that it is for."""

import json

import numpy as np
import pytest
import torch

from mvtrack.geometry.camera import Camera, pixel_grid, project
from mvtrack.geometry.path_language import parse_path
from mvtrack.geometry.pose_files.files import read_cameras
from mvtrack.inference.pipeline import Shot, reshoot_file
from mvtrack.inference.sampler import SamplerOptions
from mvtrack.inference.scene4d.export import FORMATS, export_4d
from mvtrack.inference.scene4d.moments import Scene4D
from mvtrack.inference.scene4d.result import open_result
from mvtrack.inference.tracking.outputs import write_npz
from mvtrack.inference.tracking.pipeline import VideoTracks
from mvtrack.video.writer import VideoWriter

T, H, W, FOV = 5, 62, 86, 53.0
FLIP = np.array([1.0, -1.0, -1.0])
POINTS = 700


def true_depth() -> np.ndarray:
    """A wavy wall behind a box that moves to the right, (T, H, W), in metres."""
    t, y, x = np.meshgrid(np.arange(T), np.arange(H), np.arange(W), indexing="ij")
    wall = 5 + 0.4 * np.sin(x / 17) + 0.3 * np.cos(y / 13)
    box = (np.abs(x - 30 - 3 * t) < 9) & (np.abs(y - 31) < 11)
    return np.where(box, 3.2, wall).astype(np.float32)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A lossless video whose colours tell each pixel's row and column, with exact depth beside it."""
    folder = tmp_path_factory.mktemp("source")
    rows, columns = np.mgrid[:H, :W]
    with VideoWriter(folder / "in.mp4", 12, lossless=True) as writer:
        for t in range(T):
            writer.append(np.stack([rows * 3, columns * 2, np.full((H, W), 20 * t)], -1).astype(np.uint8))
    np.save(folder / "depth.npy", true_depth())
    return folder


@pytest.fixture(scope="module")
def result(source, small_model):
    """Re-shot with that depth, with tracks of two points on the wall and one on the box, as a tracker leaves them."""
    camera = parse_path("arc_left 9deg + dolly_in 0.5")
    shot = Shot(camera, fov_deg=FOV, sample=SamplerOptions(1), depth=source / "depth.npy")
    done = reshoot_file(source / "in.mp4", camera, small_model, source / "result", shot)
    cameras = [read_cameras(done.cameras, view=name).camera for name in ("reference", "target")]
    where = torch.tensor([[5.5, 9.5], [71.5, 50.5], [30.5, 31.5]])
    own = where.repeat(T, 1, 1)
    own[:, 2, 0] += 3 * torch.arange(T)
    made = torch.stack([project(world(own[t], t, cameras[0]), cameras[1][t])[0] for t in range(T)]).float()
    seen = torch.ones(2, T, 3, dtype=torch.bool)
    seen[0, 2, 0] = seen[1, 2, 0] = False  # nobody sees the first point at frame 2
    seen[0, 3, 1] = False  # the result alone sees the second one at frame 3
    no = torch.zeros(3, dtype=torch.long)
    tracks = VideoTracks(
        ("a", "b", "box"), torch.stack([own, made]), seen, seen.float(), torch.ones_like(seen), seen.any(1),
        torch.zeros(2, 3, 3), torch.zeros(3, 3), no, no.bool(), ((H, W), (H, W)),
    )  # fmt: skip
    write_npz(done.folder / "tracks.npz", tracks, ("reference", "reshot"), 12)
    return done.folder


def world(xy: torch.Tensor, t: int, camera: Camera) -> torch.Tensor:
    """By hand: pixels of a source that stands still, at their true depth."""
    z = torch.from_numpy(true_depth())[t][xy[:, 1].long(), xy[:, 0].long()].double()
    K = camera.K[t]
    local = torch.stack([(xy[:, 0] - K[0, 2]) / K[0, 0] * z, (xy[:, 1] - K[1, 2]) / K[1, 1] * z, z], -1)
    return local @ camera.c2w[t, :3, :3].mT + camera.c2w[t, :3, 3]


def pixel_of(colors: np.ndarray) -> torch.Tensor:
    """Centres of the source's pixels, by their colours."""
    rows, columns = np.round(colors[:, 0] / 3), np.round(colors[:, 1] / 2)
    return torch.from_numpy(np.stack([columns, rows], -1) + 0.5)


def assert_of_the_source(points: np.ndarray, colors: np.ndarray, t: int, result) -> None:
    """World points (OpenCV's axes) with their colours: where the truth is, and on the pixels they came from."""
    cameras = [read_cameras(result / "cameras.json", view=name).camera for name in ("reference", "target")]
    pixel = pixel_of(colors)
    truth = world(pixel, t, cameras[0])
    assert len(points) > POINTS / 3
    np.testing.assert_allclose(points, truth.numpy(), atol=2e-3)
    for camera in cameras:
        ours, theirs = (project(x, camera[t])[0] for x in (torch.from_numpy(points).double(), truth))
        assert (ours - theirs).norm(dim=-1).max() < 0.1


def test_surfaces_of_the_result_lie_on_those_of_the_source(result):
    """Pixels of the result that the source shows at that moment, seen from the source: at its depth there."""
    scene, depth = Scene4D(open_result(result)), torch.from_numpy(true_depth())
    for moment in scene.moments():
        surface, camera = moment.views[1], scene.result.camera[0, moment.number]
        xy, z = project(surface.points[surface.seen & surface.used], camera)
        inside = (xy > 1).all(-1) & (xy < torch.tensor([W - 1.0, H - 1.0])).all(-1)
        xy, z = xy[inside], z[inside]
        there = depth[moment.number][xy[:, 1].long(), xy[:, 0].long()]
        assert (z / there - 1).abs().quantile(0.97) < 0.02
        assert inside.float().mean() > 0.9


def test_ply_is_read_by_trimesh_and_lies_where_the_truth_is(result, tmp_path):
    trimesh = pytest.importorskip("trimesh")
    done = export_4d(result, "ply", tmp_path / "out", points=POINTS)
    assert len(list(done.path.glob("*.ply"))) == 2 * T
    for t in (0, T - 1):
        cloud = trimesh.load(done.path / f"source_{t:05d}.ply")
        assert_of_the_source(np.asarray(cloud.vertices), np.asarray(cloud.colors)[:, :3], t, result)


def test_tracks_lie_on_the_surfaces_where_a_view_shows_them(result, tmp_path):
    done = export_4d(result, "ply", tmp_path / "out", every=1)
    camera = read_cameras(result / "cameras.json", view="reference").camera
    with np.load(done.path / "tracks_3d.npz") as file:
        xyz = file["xyz"]
        assert file["id"].tolist() == ["a", "b", "box"]
    assert np.isnan(xyz[2, 0]).all()
    assert np.isfinite(np.delete(xyz.reshape(-1, 3), 2 * 3, 0)).all()
    where = torch.tensor([[5.5, 9.5], [71.5, 50.5], [30.5, 31.5]])
    for t in (0, 1, 4):
        truth = world(where + torch.tensor([[0, 0], [0, 0], [3 * t, 0]]), t, camera)
        np.testing.assert_allclose(xyz[t], truth, atol=2e-3)
    truth = world(where[1:2], 3, camera)
    np.testing.assert_allclose(xyz[3, 1:2], truth, atol=0.15)  # carried to the result's pixels and back


def test_glb_is_read_by_trimesh_with_its_axes_and_cameras(result, tmp_path):
    trimesh = pytest.importorskip("trimesh")
    path = export_4d(result, "glb", tmp_path / "out.glb", points=POINTS).path
    scene = trimesh.load(path)
    meshes = {name: mesh for name, mesh in scene.geometry.items() if isinstance(mesh, trimesh.Trimesh)}
    assert len(meshes) == 2 * T
    names = {scene.graph[node][1]: node for node in scene.graph.nodes_geometry}
    mesh = next(meshes[geometry] for geometry, node in names.items() if node == f"source_{T - 1:05d}")
    light = np.asarray(mesh.visual.vertex_attributes["color"])[:, :3] / 255
    colors = 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    points = np.asarray(mesh.vertices) * FLIP
    camera = read_cameras(result / "cameras.json", view="reference").camera
    pixels = project(torch.from_numpy(points), camera[T - 1])[0]
    assert (pixels - pixel_of(colors)).abs().max() < 2.6  # dark bytes of linear light are coarse
    truth = world(pixels, T - 1, camera)
    np.testing.assert_allclose(points, truth, atol=2e-3)
    assert (mesh.face_normals * mesh.triangles_center).sum(-1).max() < 0  # all face the source's camera, the origin


def test_glb_cameras_see_what_the_projects_see(result, tmp_path):
    """The file's tree by the rules of glTF 2.0, without a library."""
    data = export_4d(result, "glb", tmp_path / "out.glb", points=POINTS).path.read_bytes()
    assert data[:8] == b"glTF\x02\0\0\0"
    assert int.from_bytes(data[8:12], "little") == len(data)
    length = int.from_bytes(data[12:16], "little")
    tree, body = json.loads(data[20 : 20 + length]), data[28 + length :]

    def values(accessor: int) -> np.ndarray:
        item = tree["accessors"][accessor]
        view, width = tree["bufferViews"][item["bufferView"]], {"SCALAR": 1, "VEC3": 3, "VEC4": 4}[item["type"]]
        return np.frombuffer(body, "<f4", item["count"] * width, view["byteOffset"]).reshape(-1, width)

    [animation] = tree["animations"]
    moved = {}
    for channel in animation["channels"]:
        sampler = animation["samplers"][channel["sampler"]]
        node = tree["nodes"][channel["target"]["node"]]["name"]
        moved[node, channel["target"]["path"]] = values(sampler["input"])[:, 0], values(sampler["output"])
    times, scales = moved["source_00002", "scale"]
    np.testing.assert_allclose(times, [0, 2 / 12, 3 / 12], rtol=1e-6)
    assert scales[:, 0].tolist() == [0, 1, 0]
    camera = read_cameras(result / "cameras.json", view="target").camera
    place, (x, y, z, w) = moved["result camera", "translation"][1][T - 1], moved["result camera", "rotation"][1][T - 1]
    rotation = np.array([
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ])  # fmt: skip
    point = camera.c2w[-1, :3, 3].numpy() + camera.c2w[-1, :3, :3].numpy() @ [0.3, -0.2, 2.0]
    local = rotation.T @ (point * FLIP - place)
    np.testing.assert_allclose(local, [0.3, 0.2, -2.0], atol=1e-5)
    lens = next(tree["cameras"][node["camera"]]["perspective"] for node in tree["nodes"] if "camera" in node)
    assert lens["yfov"] == pytest.approx(2 * np.arctan(H / 2 / camera.K[0, 1, 1].item()))


def test_usd_is_read_by_its_own_library(result, tmp_path):
    pytest.importorskip("pxr")
    from pxr import Gf, Usd, UsdGeom

    path = export_4d(result, "usd", tmp_path / "out.usdc", points=POINTS).path
    stage = Usd.Stage.Open(str(path))
    assert UsdGeom.GetStageUpAxis(stage) == "Y"
    assert UsdGeom.GetStageMetersPerUnit(stage) == 1
    assert (stage.GetTimeCodesPerSecond(), stage.GetEndTimeCode()) == (12, T - 1)
    cloud = UsdGeom.Points.Get(stage, "/scene/source")
    points = np.array(cloud.GetPointsAttr().Get(T - 1)).astype(float) * FLIP
    light = np.array(cloud.GetDisplayColorPrimvar().Get(T - 1))
    assert len(points) == len(light)
    for view, name in (("target", "result"), ("reference", "source")):
        camera = read_cameras(result / "cameras.json", view=view).camera
        frustum = UsdGeom.Camera.Get(stage, f"/scene/{name}_camera").GetCamera(T - 1).frustum
        matrix = np.array(frustum.ComputeViewMatrix() * frustum.ComputeProjectionMatrix())
        clip = np.concatenate([points * FLIP, np.ones((len(points), 1))], 1) @ matrix
        xy = clip[:, :2] / clip[:, 3:] * [0.5, -0.5] + 0.5
        ours = project(torch.from_numpy(points), camera[T - 1])[0]
        assert np.abs(xy * [W, H] - ours.numpy()).max() < 0.02
    assert isinstance(UsdGeom.BasisCurves.Get(stage, "/scene/tracks").GetPointsAttr().Get()[0], Gf.Vec3f)


def test_colmap_folder_is_read_by_pycolmap(result, tmp_path):
    pycolmap = pytest.importorskip("pycolmap")
    import cv2

    done = export_4d(result, "colmap", tmp_path / "out", every=2)
    model = pycolmap.Reconstruction(str(done.path / "sparse/0"))
    names = sorted(image.name for image in model.images.values())
    assert names == [f"{view}_{t:05d}.png" for view in ("result", "source") for t in (0, 2, 4)]
    points = np.array([point.xyz for point in model.points3D.values()])
    colors = np.array([point.color for point in model.points3D.values()])
    assert_of_the_source(points, colors, 0, result)
    camera = read_cameras(result / "cameras.json", view="target").camera
    image = next(image for image in model.images.values() if image.name == "result_00004.png")
    theirs = np.array([image.project_point(point) for point in points])
    assert np.abs(theirs - project(torch.from_numpy(points), camera[4])[0].numpy()).max() < 0.01
    for name in names:
        picture, mask = (cv2.imread(str(done.path / p), -1) for p in (f"images/{name}", f"masks/{name}.png"))
        assert picture.shape == (H, W, 3)
        assert mask.shape == (H, W)
        assert set(np.unique(mask)) <= {0, 255}
        share = (mask == 255).mean()
        assert share == 1 if name.startswith("source") else share > 0.5
    assert share == 1  # ... and what the result shows beyond the source is left out:
    assert (cv2.imread(str(done.path / "masks/result_00004.png.png"), -1) == 0).mean() > 0.01
    assert (cv2.imread(str(done.path / "images/source_00002.png"))[7, 11, ::-1] == [21, 22, 40]).all()


def test_nerfstudio_folder_names_files_that_are_there(result, tmp_path):
    done = export_4d(result, "nerfstudio", tmp_path / "out", points=POINTS)
    document = json.loads((done.path / "transforms.json").read_text())
    assert len(document["frames"]) == 2 * T
    for frame in document["frames"]:
        assert (done.path / frame["file_path"]).is_file()
        assert (done.path / frame["mask_path"]).is_file()
    assert {frame["time"] for frame in document["frames"]} == {t / (T - 1) for t in range(T)}
    assert (done.path / document["ply_file_path"]).is_file()
    cameras = read_cameras(done.path, order="file").camera
    expected = torch.cat([read_cameras(result / "cameras.json", view=v).camera.c2w for v in ("target", "reference")])
    torch.testing.assert_close(cameras.c2w, expected, atol=1e-9, rtol=0)


def test_page_holds_the_points_at_its_resolution(result, tmp_path):
    import base64
    import zlib

    page = export_4d(result, "html", tmp_path / "out.html", points=POINTS).path.read_text()
    assert "http" not in page.replace("http-equiv", "")  # nothing from a network
    data = json.loads(page.split('<script id="data" type="application/json">')[1].split("</script>")[0])
    body = zlib.decompress(base64.b64decode(data["points"]))
    for t in (0, T - 1):
        cloud = data["clouds"][t]["source"]
        at, count = cloud["at"], cloud["count"]
        steps = np.frombuffer(body, "<u2", 3 * count, at).reshape(-1, 3)
        colors = np.frombuffer(body, "u1", 3 * count, at + 6 * count).reshape(-1, 3)
        assert_of_the_source(np.array(cloud["low"]) + steps / 65535 * np.array(cloud["size"]), colors, t, result)
    assert len(data["lines"]) == 3


def test_page_plays_in_a_browser_without_errors(result, tmp_path, browser):
    path = export_4d(result, "html", tmp_path / "out.html").path
    page, said = browser.new_page(viewport={"width": 420, "height": 600}), []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(path.as_uri())
    page.wait_for_function("document.getElementById('frame').textContent !== ''")
    for name in ("fromSource", "fromResult", "around"):
        page.click(f"#{name}")
    assert page.inner_text("#said").startswith("drag")
    assert said == []


def test_thinned_grid_keeps_pixels_and_rays(result):
    scene = Scene4D(open_result(result), points=400, every=4)
    assert scene.numbers == [0, 4]
    moment = next(iter(scene.moments()))
    surface = moment.views[0]
    assert surface.depth.numel() <= 400
    again = project(surface.points.flatten(0, 1), surface.camera)[0]
    torch.testing.assert_close(again, pixel_grid(surface.camera.size).flatten(0, 1).to(again), atol=1e-6, rtol=0)
    full = pixel_of(surface.colors.flatten(0, 1).numpy())
    there = project(surface.points.flatten(0, 1), scene.result.camera[0, 0])[0]
    assert (there - full).abs().max() < 0.02


@pytest.mark.parametrize("name", FORMATS)
def test_same_export_gives_the_same_bytes(result, tmp_path, name):
    suffix = FORMATS[name].suffix or ""
    first, second = (export_4d(result, name, tmp_path / f"{n}{suffix}", points=64, every=2).path for n in "ab")
    files = [
        sorted(p for p in (path.rglob("*") if path.is_dir() else [path]) if p.is_file()) for path in (first, second)
    ]
    assert len(files[0]) == len(files[1]) > 0
    for one, other in zip(*files, strict=True):
        if one.suffix != ".npz":  # zip files hold the time
            assert one.read_bytes() == other.read_bytes()


def test_bad_input_is_refused_and_leaves_nothing(result, source, tmp_path):
    with pytest.raises(ValueError, match="is no result of mvtrack reshoot: it has no run.json"):
        export_4d(tmp_path, "ply")
    with pytest.raises(ValueError, match="format must be one of ply, glb"):
        export_4d(result, "obj")
    with pytest.raises(ValueError, match=r"must end in \.glb"):
        export_4d(result, "glb", tmp_path / "out.ply")
    with pytest.raises(ValueError, match="--every must lie in 1 to 5"):
        export_4d(result, "ply", tmp_path / "out", every=6)
    other = tmp_path / "other.mp4"
    other.write_bytes((source / "in.mp4").read_bytes() + b"\0")
    with pytest.raises(ValueError, match="is not the video that .* was made of"):
        export_4d(result, "ply", tmp_path / "out", source=other)
    with pytest.raises(ValueError, match="is not there: --source FILE says where it lies now"):
        export_4d(result, "ply", tmp_path / "out", source=tmp_path / "gone.mp4")
    (tmp_path / "out").mkdir()
    with pytest.raises(ValueError, match="exists already"):
        export_4d(result, "ply", tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["other.mp4", "out"]
