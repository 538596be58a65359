"""MultiCamVideo, written as its authors write it: Unreal's axes and centimetres as strings of rows, lens in a name."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from mvtrack.config.datasets import DatasetOptions
from mvtrack.data.public.fitting import FittedScene
from mvtrack.data.public.registry import find_layout
from mvtrack.video.resize import fit_to
from mvtrack.video.writer import write_video
from tests.data.public.synthesis import Truth, reprojection_px, scene_error_px, synthesise

FOCAL_MM, SENSOR_MM = 24.0, 23.76
# Unreal: x forward, y right, z up (left-handed), of ours (right, down, forward)
UNREAL = torch.tensor([[0.0, 0, 1], [1, 0, 0], [0, -1, 0]], dtype=torch.float64)


def write_scene(folder: Path, truth: Truth, with_tracks: bool = True, axes: torch.Tensor = UNREAL) -> None:
    (folder / "videos").mkdir(parents=True)
    (folder / "cameras").mkdir()
    frames = {}
    for t in range(truth.video.shape[1]):
        cameras = {}
        for v in range(len(truth.video)):
            c2w = truth.camera.c2w[v, t].double()
            rotation, centre = axes @ c2w[:3, :3] @ axes.T, 100 * axes @ c2w[:3, 3]
            rows = [[*rotation[:, i].tolist(), 0.0] for i in range(3)] + [[*centre.tolist(), 1.0]]
            cameras[f"cam{v + 1:02d}"] = " ".join("[" + " ".join(f"{x:.9g}" for x in row) + "]" for row in rows) + " "
        frames[f"frame{t}"] = cameras
    (folder / "cameras/camera_extrinsics.json").write_text(json.dumps(frames))
    for v, video in enumerate(truth.video):
        write_video(folder / f"videos/cam{v + 1:02d}.mp4", video.float() / 127.5 - 1, 15.0)
    if with_tracks:
        arrays = {"xy": truth.tracks.xy, "visible": truth.tracks.visible, "found": truth.tracks.valid}
        np.savez(folder / "tracks.npz", **{name: array.numpy() for name, array in arrays.items()})


def truth_of(seed: int, frames: int = 5, size: tuple[int, int] = (46, 46)) -> Truth:
    return synthesise(seed, frames=frames, size=size, square_lens=FOCAL_MM / SENSOR_MM)


@pytest.fixture
def dataset(tmp_path) -> Path:
    root = tmp_path / "MultiCamVideo-Dataset"
    write_scene(root / "train/f24_aperture5/scene2", truth_of(3))
    write_scene(root / "train/f24_aperture5/scene10", truth_of(4), with_tracks=False)
    rows = ["file_name,text", '"train/f24_aperture5/scene2/videos/cam01.mp4","A dog, running"']
    rows += ["train/f24_aperture5/scene2/videos/cam03.mp4,A dog from behind"]
    (root / "metadata.csv").write_text("\n".join(rows))
    return root


def test_scenes_cameras_tracks_and_captions_are_read(dataset, options):
    layout = find_layout(dataset)
    scenes = layout.scenes(dataset, options)
    assert [scene.name for scene in scenes] == ["f24_aperture5_scene2", "f24_aperture5_scene10"]
    assert [scene.captions for scene in scenes] == [("A dog, running", "", "A dog from behind"), ()]
    truth, scene = truth_of(3), layout.read(scenes[0])
    assert [view.name for view in scene.views] == ["cam01", "cam02", "cam03"]
    # positions are written with nine digits: far below a thousandth of a pixel
    assert scene_error_px(scene, truth.world, truth.tracks) < 0.01
    fitted = FittedScene(scene, 5, lambda size: fit_to(size, (24, 40), "crop"))
    seen, tracks = list(fitted.views()), fitted.tracks()
    assert torch.stack([view.video for view in seen]).shape == (3, 5, 3, 24, 40)
    K = seen[0].camera.K[0]
    assert K[0, 0].item() == pytest.approx(FOCAL_MM / SENSOR_MM * 40, rel=1e-5)  # the square's width fills the picture
    assert reprojection_px([view.camera for view in seen], truth.world, tracks) < 0.01


@pytest.mark.parametrize("sub", ["", "train", "train/f24_aperture5"])
def test_any_folder_of_it_gives_the_same_names(dataset, options, sub):
    root = dataset / sub
    assert [s.name for s in find_layout(root).scenes(root, options)] == [
        "f24_aperture5_scene2",
        "f24_aperture5_scene10",
    ]


def test_an_axis_that_is_not_flipped_shows(tmp_path, options):
    wrong = UNREAL * torch.tensor([[1.0], [1.0], [-1.0]])
    truth = truth_of(3)
    write_scene(tmp_path / "f24_aperture5/scene1", truth, axes=wrong)
    layout = find_layout(tmp_path)
    scene = layout.read(layout.scenes(tmp_path, options)[0])
    assert scene_error_px(scene, truth.world, truth.tracks) > 1


def test_a_lens_that_no_folder_names_has_to_be_said(tmp_path, options):
    root, truth = tmp_path / "val", truth_of(3)
    write_scene(root / "10basic_trajectories", truth)
    layout = find_layout(root)
    with pytest.raises(ValueError, match="10basic_trajectories: none of its folders names the lens .*--focal-mm"):
        layout.read(layout.scenes(root, options)[0])
    scene = layout.read(layout.scenes(root, DatasetOptions(focal_mm=FOCAL_MM))[0])
    assert scene_error_px(scene, truth.world, truth.tracks) < 0.01


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda s: (s / "cameras/camera_extrinsics.json").write_text("{"), "json: line 1: is not valid"),
        (lambda s: (s / "cameras/camera_extrinsics.json").unlink(), "camera_extrinsics.json: cannot be read"),
        (lambda s: (s / "videos/cam02.mp4").write_bytes((s / "videos/cam02.mp4").read_bytes()[:700]), "cam02.mp4"),
        (lambda s: (s / "videos/cam02.mp4").rename(s / "videos/cam77.mp4"), "has no camera 'cam77'"),
        (lambda s: [p.unlink() for p in (s / "videos").iterdir()], "videos holds 0 videos"),
    ],
)  # fmt: skip
def test_broken_scenes_are_named(dataset, options, break_it, message):
    scene = dataset / "train/f24_aperture5/scene2"
    break_it(scene)
    layout = find_layout(dataset)
    with pytest.raises(ValueError, match=message):
        layout.read(layout.scenes(dataset, options)[0])


@pytest.mark.parametrize("text", ["file,text\na,b\n", "\xff"])
def test_a_table_without_captions_is_refused(dataset, options, text):
    (dataset / "metadata.csv").write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=r"metadata.csv: cannot be read as a table of captions"):
        find_layout(dataset).scenes(dataset, options)


def test_a_folder_that_fits_nothing_is_told_what_is_missing(dataset, tmp_path):
    (tmp_path / "other/x").mkdir(parents=True)
    with pytest.raises(ValueError, match="none of it is there. Looked for .*multicamvideo: videos/cam"):
        find_layout(tmp_path / "other")
    for path in dataset.rglob("camera_extrinsics.json"):
        path.unlink()
    with pytest.raises(ValueError, match="nearest is multicamvideo, which lacks cameras/camera_extrinsics.json"):
        find_layout(dataset)
    with pytest.raises(ValueError, match="unknown layout 'multicam'; did you mean 'multicamvideo'"):
        find_layout(dataset, "multicam")
