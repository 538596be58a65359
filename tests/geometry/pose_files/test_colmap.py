"""COLMAP's models against pycolmap, which wrote or reads them."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from mvtrack.geometry.camera import project
from mvtrack.geometry.pose_files import FORMATS, Distortion, read_cameras, write_cameras
from mvtrack.geometry.pose_files.distortion import distort_pixels
from mvtrack.geometry.pose_files.editing import scaled
from mvtrack.geometry.pose_files.registry import held_back

PARAMETERS = {
    "SIMPLE_PINHOLE": [530.0, 321.5, 239.25],
    "PINHOLE": [530.0, 511.0, 321.5, 239.25],
    "SIMPLE_RADIAL": [530.0, 321.5, 239.25, -0.08],
    "RADIAL": [530.0, 321.5, 239.25, -0.08, 0.03],
    "OPENCV": [530.0, 511.0, 321.5, 239.25, -0.08, 0.03, 0.002, -0.001],
    "FULL_OPENCV": [530.0, 511.0, 321.5, 239.25, -0.08, 0.03, 0.002, -0.001, 0.01, 0, 0, 0],
}
FORMS = ("colmap_text", "colmap_binary")


@pytest.fixture
def pycolmap():
    return pytest.importorskip("pycolmap", reason="pycolmap is not installed")


@pytest.fixture
def their_model(pycolmap, tmp_path):
    """A reconstruction that pycolmap made: five images with points, numbered against their names' order."""

    def make(model: str, form: str):
        made = pycolmap.Reconstruction()
        camera = pycolmap.Camera(model=model, width=640, height=480, params=PARAMETERS[model], camera_id=3)
        made.add_camera_with_trivial_rig(camera)
        rng = np.random.default_rng(5)
        for index in range(5):
            points = pycolmap.Point2DList([pycolmap.Point2D(xy) for xy in rng.uniform(0, 400, (index, 2))])
            image = pycolmap.Image(name=f"shot/{index + 8}.png", camera_id=3, image_id=9 - index, points2D=points)
            q = rng.normal(size=4) * 0.1 + [0, 0, 0, 1]
            pose = pycolmap.Rigid3d(pycolmap.Rotation3d(q / np.linalg.norm(q)), rng.normal(size=3))
            made.add_image_with_trivial_frame(image, pose)
        folder = tmp_path / "model"
        folder.mkdir()
        made.write_text(folder) if form == "colmap_text" else made.write_binary(folder)
        return folder, made

    return make


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("model", PARAMETERS)
def test_pycolmaps_models_project_as_pycolmap_does(their_model, points, model, form):
    folder, made = their_model(model, form)
    sequence = read_cameras(folder)
    assert sequence.names == tuple(f"shot/{n}.png" for n in (8, 9, 10, 11, 12))
    assert sequence.camera.size == (480, 640)
    xy, _ = project(points, sequence.camera)
    if sequence.distortion is not None:
        xy = distort_pixels(xy, sequence.camera.K, sequence.distortion)
    for frame, name in enumerate(sequence.names):
        image = next(image for image in made.images.values() if image.name == name)
        theirs = np.array([image.project_point(point) for point in points.numpy()])
        np.testing.assert_allclose(xy[frame], theirs, atol=1e-6)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("coefficients", [None, [-0.1, 0.05, 0.001, -0.002, 0.0], [-0.1, 0.05, 0.001, -0.002, 0.01]])
def test_pycolmap_reads_what_is_written(pycolmap, tmp_path, odd_lens, points, coefficients, form):
    lens = None if coefficients is None else Distortion(torch.tensor(coefficients, dtype=torch.float64))
    sequence = replace(odd_lens, distortion=lens)
    made = pycolmap.Reconstruction(str(write_cameras(tmp_path / "model", sequence, form)))
    assert made.num_reg_images() == 5
    xy, _ = project(points, sequence.camera)
    if lens is not None:
        xy = distort_pixels(xy, sequence.camera.K, lens)
    for image in made.images.values():
        frame = sequence.names.index(image.name)
        theirs = np.array([image.project_point(point) for point in points.numpy()])
        np.testing.assert_allclose(xy[frame], theirs, atol=1e-6)


@pytest.mark.parametrize("form", FORMS)
def test_written_models_hold_images_frames_rigs_and_points(pycolmap, tmp_path, sequence, points, form):
    """As pycolmap reads them; scaled with their cameras; and lost with a word where a format has no place for them."""
    colors = torch.arange(33, dtype=torch.uint8).view(11, 3)
    whole = replace(sequence, points=points, point_colors=colors)
    made = pycolmap.Reconstruction(str(write_cameras(tmp_path / "model", scaled(whole, 2.0), form)))
    assert (made.num_images(), made.num_frames(), made.num_rigs(), made.num_points3D()) == (5, 5, 1, 11)
    assert all(frame.has_pose for frame in made.frames.values())
    back = {tuple(point.color.tolist()): point.xyz for point in made.points3D.values()}
    ours = read_cameras(tmp_path / "model")
    mine = dict(zip(map(tuple, ours.point_colors.tolist()), ours.points.numpy(), strict=True))
    for color, point in zip(map(tuple, colors.tolist()), points.numpy(), strict=True):
        np.testing.assert_allclose(back[color], 2 * point, atol=1e-12)
        np.testing.assert_allclose(mine[color], 2 * point, atol=1e-12)
    assert "points" in held_back(whole, FORMATS["nerfstudio"])
    assert "points" not in held_back(whole, FORMATS[form])


@pytest.mark.parametrize("model", ["OPENCV_FISHEYE", "SIMPLE_RADIAL_FISHEYE", "FOV"])
@pytest.mark.parametrize("form", FORMS)
def test_lenses_without_a_pinhole_are_refused(pycolmap, tmp_path, model, form):
    made = pycolmap.Reconstruction()
    count = {"OPENCV_FISHEYE": 8, "SIMPLE_RADIAL_FISHEYE": 4, "FOV": 5}[model]
    made.add_camera_with_trivial_rig(
        pycolmap.Camera(model=model, width=640, height=480, params=[500.0] * count, camera_id=1)
    )
    made.add_image_with_trivial_frame(pycolmap.Image(name="a.png", camera_id=1, image_id=1), pycolmap.Rigid3d())
    made.write_text(tmp_path) if form == "colmap_text" else made.write_binary(tmp_path)
    with pytest.raises(ValueError, match="cameras.*not supported.*OPENCV"):
        read_cameras(tmp_path)


def test_documents_example_by_hand(tmp_path):
    # colmap.github.io/format.html: the pose is world-to-camera, the centre is -R^T t. A turn of 180 degrees about y.
    (tmp_path / "cameras.txt").write_text("# a comment\n2 PINHOLE 62 46 53 54 31 23\n")
    (tmp_path / "images.txt").write_text(
        "# a comment\n\n1 0 0 1 0 2 3 5 2 a.png\n1.5 2.5 -1 3 4 7\n2 1 0 0 0 0 0 0 2 b.png\n"
    )
    sequence = read_cameras(tmp_path / "images.txt")
    torch.testing.assert_close(sequence.camera.c2w[0, :3, 3], torch.tensor([2.0, -3, 5]).double())
    torch.testing.assert_close(sequence.camera.c2w[0, :3, :3].diagonal(), torch.tensor([-1.0, 1, -1]).double())
    assert sequence.camera.K[1].tolist() == [[53, 0, 31], [0, 54, 23], [0, 0, 1]]


def test_two_cameras_of_one_size_give_two_lenses_and_other_sizes_are_asked_about(tmp_path):
    (tmp_path / "images.txt").write_text("1 1 0 0 0 0 0 0 1 a.png\n\n2 1 0 0 0 0 0 1 2 b.png\n\n")
    (tmp_path / "cameras.txt").write_text("1 PINHOLE 62 46 53 54 31 23\n2 SIMPLE_PINHOLE 62 46 60 31 23\n")
    assert read_cameras(tmp_path).camera.K[:, 0, 0].tolist() == [53, 60]
    (tmp_path / "cameras.txt").write_text("1 PINHOLE 62 46 53 54 31 23\n2 SIMPLE_PINHOLE 64 46 60 31 23\n")
    with pytest.raises(ValueError, match="different image sizes.*1: 62x46, 2: 64x46"):
        read_cameras(tmp_path)
    assert read_cameras(tmp_path, camera="2").names == ("b.png",)


def test_both_forms_in_one_folder_are_asked_about(tmp_path, sequence):
    folder = write_cameras(tmp_path / "model", sequence, "colmap_text")
    for file in write_cameras(tmp_path / "other", sequence, "colmap_binary").iterdir():
        file.rename(folder / file.name)
    with pytest.raises(ValueError, match="may be colmap_text or colmap_binary"):
        read_cameras(folder)
    assert read_cameras(folder, "colmap_binary").names == sequence.names


def test_names_that_colmap_would_cut_or_sort_otherwise_are_refused(tmp_path, sequence):
    with pytest.raises(ValueError, match="white space"):
        write_cameras(tmp_path / "m", replace(sequence, names=("a b", "c", "d", "e", "f")), "colmap_text")
    with pytest.raises(ValueError, match="do not ascend"):
        write_cameras(tmp_path / "m", replace(sequence, names=("b", "a", "c", "d", "e")), "colmap_binary")
    with pytest.raises(ValueError, match="differ"):
        write_cameras(tmp_path / "m", replace(sequence, names=("a", "a", "c", "d", "e")), "colmap_binary")
