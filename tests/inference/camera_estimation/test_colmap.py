"""Structure from motion on rendered scenes, whose cameras are known. Needs pycolmap (in the extra `dev`)."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

from mvtrack.data.synthetic.detailed_scenes import STATIC, detailed_case
from mvtrack.data.synthetic.renderer import FIRST_OBJECT, Render
from mvtrack.data.synthetic.scene import SceneStyle
from mvtrack.geometry.camera import Camera, intrinsics_from_fov
from mvtrack.geometry.path_language import parse_path
from mvtrack.geometry.trajectory import CameraPath
from mvtrack.inference.camera_estimation import colmap
from mvtrack.inference.camera_estimation.colmap import ColmapConfig, colmap_missing, recover_with_colmap
from mvtrack.inference.camera_estimation.estimated_cameras import CameraEstimationError, EstimatedCameras
from mvtrack.inference.external_program import WorkerError
from mvtrack.metrics.camera_accuracy import camera_accuracy

T, SIZE = 9, (240, 320)
MOVES = SceneStyle(min_objects=5, max_objects=8)
needs_pycolmap = pytest.mark.skipif(colmap_missing() is not None, reason=f"missing {colmap_missing()}")


@cache
def case(preset: str, angle: float, frames: int = T, size=SIZE, style=STATIC) -> tuple[Camera, Render]:
    _, camera, rendered = detailed_case(2, preset, angle, frames, size, style)
    return camera[0], Render(rendered.video[0], rendered.depth[0], rendered.ids[0])


def pictures(rendered: Render) -> np.ndarray:
    return rendered.video.permute(0, 2, 3, 1).numpy()  # (T, H, W, 3)


def errors(found: EstimatedCameras, camera: Camera) -> dict:
    return camera_accuracy(found.camera.c2w, camera.c2w.double(), "umeyama", found.found).means()


@needs_pycolmap
def test_a_turn_is_measured_as_one():
    camera, rendered = case("pan_right", 12.0, 5, (120, 160))
    found = recover_with_colmap(pictures(rendered), camera[:1])
    assert found.rotation_only
    assert found.coverage == 1
    assert errors(found, camera)["mRotErr"] < 0.1
    assert found.misfit_px < 0.4
    assert found.doubt_deg < 0.1
    assert found.median_depth is None


@needs_pycolmap
def test_pictures_without_features_are_a_failure_with_a_reason():
    frames = np.full((5, 48, 64, 3), 128, np.uint8)
    lens = case("pan_right", 12.0, 5, (120, 160))[0][:1].resized((48, 64))
    with pytest.raises(CameraEstimationError, match=r"only 0 points could be matched .*\(0 features a frame\)"):
        recover_with_colmap(frames, lens)


@needs_pycolmap
@pytest.mark.slow
def test_an_arc_is_exact_and_the_same_every_time():
    camera, rendered = case("arc_left", 20.0)
    stages: list[str] = []
    found = recover_with_colmap(pictures(rendered), camera[:1], on_stage=stages.append)
    assert stages == ["matching", "incremental mapping", "global mapping"]
    assert found.coverage == 1
    assert not found.rotation_only
    mean = errors(found, camera)
    assert mean["mRotErr"] < 0.1
    assert found.doubt_deg < 0.1
    assert mean["mTransErr"] < 0.005
    true_extent = float((camera.c2w[-1, :3, 3] - camera.c2w[0, :3, 3]).norm())
    scaled = found.scaled_to_depth(float(rendered.depth[0].median()))
    extent = float((scaled.camera.c2w[-1, :3, 3]).norm())
    assert extent == pytest.approx(true_extent, rel=0.35)  # the features' middle depth for the picture's
    again = recover_with_colmap(pictures(rendered), camera[:1])
    assert all(np.array_equal(a, again.arrays()[name]) for name, a in found.arrays().items())


@needs_pycolmap
@pytest.mark.slow
def test_an_unknown_lens_is_measured_where_the_camera_turns():
    camera, rendered = case("arc_left", 20.0)
    guess = Camera(camera.c2w[:1], intrinsics_from_fov(42.0, SIZE)[None], SIZE)
    found = recover_with_colmap(pictures(rendered), guess, lens_known=False)
    assert found.fov_deg == pytest.approx(55.0, abs=1.5)
    assert errors(found, camera)["mRotErr"] < 0.3
    camera, rendered = case("zoom_in", 15.0)
    kept = recover_with_colmap(pictures(rendered), guess, lens_known=False)
    assert kept.fov_deg == pytest.approx(42.0, abs=1e-3)
    assert any("the field of view stays the assumed one: the camera turns by" in note for note in kept.notes)


@needs_pycolmap
@pytest.mark.slow
def test_masks_take_moving_things_out():
    camera, rendered = case("translate_up", 15.0, style=MOVES)
    moving = (rendered.ids >= FIRST_OBJECT).numpy()
    found = recover_with_colmap(pictures(rendered), camera[:1], ignore=moving)
    assert errors(found, camera)["mRotErr"] < 0.2
    assert errors(found, camera)["mTransErr"] < 0.02


def test_bad_input_is_one_line(monkeypatch, unchecked):
    camera = Camera(torch.eye(4).expand(5, 4, 4), torch.eye(3).expand(5, 3, 3), (12, 20))
    frames = np.zeros((5, 12, 20, 3), np.uint8)
    for arguments, message in [
        ((frames[:2], camera[:1]), "2 frames: structure from motion needs at least 3"),
        ((frames, camera[:1].resized((24, 40))), "K is for pictures of 40x24, the frames are 20x12"),
        ((frames, camera[:3]), r"5 frames need K of 1 or 5 cameras, got \(3,\)"),
        ((frames, camera, False), "an unknown focal length must be one for all frames"),
        ((frames, camera[:1], True, np.zeros((5, 12, 21), bool)), "must be 5 of 20x12 like the frames, got 5 of 21x12"),
    ]:
        with pytest.raises(ValueError, match=message):
            recover_with_colmap(*arguments)
    monkeypatch.setattr(colmap, "colmap_missing", lambda: "pycolmap: pip install pycolmap")
    with pytest.raises(ValueError, match="cannot be measured: missing pycolmap: pip install pycolmap"):
        recover_with_colmap(frames, camera[:1])


# Which of several answers is taken, with mappers that answer as told


class Told:
    """Answers of the stages in place of pycolmap's: true matches, and cameras or an error by stage.

    apart_deg: by how much a half of the points turns the later half of the frames.
    """

    def __init__(self, matches, answers: dict, points: int, apart_deg: float) -> None:
        self.matches, self.answers = matches, answers
        self.points, self.apart_deg = points, apart_deg

    def __call__(self, folder, stage, **_):
        if stage == "match":
            counts = torch.bincount(self.matches.of_pair)
            return {
                "pairs": torch.stack([self.matches.first, self.matches.second], 1).numpy(),
                "counts": counts.numpy(),
                "xy": torch.cat([self.matches.xy_first, self.matches.xy_second], 1).numpy(),
                "keypoints": np.array([61]),
            }
        answer = self.answers[stage]
        if isinstance(answer, Exception):
            raise answer
        other = answer.clone()
        other[3:] = other[3:] @ CameraPath("pan_left", amount=self.apart_deg).poses(2)[1]
        frames, lens = len(answer), intrinsics_from_fov(55.0, (120, 160)).double().numpy()
        return {
            "c2w": answer.numpy(),
            "found": np.isfinite(answer.numpy()).all((1, 2)),
            "lens": np.tile(lens[[0, 1, 0, 1], [0, 1, 2, 2]], (frames, 1)),
            "points": np.array([[0.0, 0, z] for z in range(3, 3 + self.points)]),
            "seen_first": np.ones(self.points, bool),
            "halves": np.stack([answer.numpy(), other.numpy()]),
        }


@pytest.fixture
def choose(exact_matches, monkeypatch):
    def run(true: torch.Tensor, points: int = 23, apart_deg: float = 0.0, **answers) -> EstimatedCameras:
        told = Told(exact_matches(true), answers, points, apart_deg)
        monkeypatch.setattr(colmap.ExternalProgram, "run", told)
        monkeypatch.setattr(colmap, "colmap_missing", lambda: None)
        frames = np.zeros((len(true), 120, 160, 3), np.uint8)
        lens = Camera(torch.eye(4)[None], intrinsics_from_fov(55.0, (120, 160))[None], (120, 160))
        return recover_with_colmap(frames, lens, config=ColmapConfig())

    return run


@pytest.fixture
def arc() -> torch.Tensor:
    return path("arc_left 20")


def path(text: str) -> torch.Tensor:
    return parse_path(text).poses(6)


def test_the_mapper_that_explains_the_matches_is_taken(choose, arc):
    bent = path("arc_left 12")
    assert choose(arc, incremental=bent, **{"global": arc}).method == "colmap, global"
    assert choose(arc, incremental=arc, **{"global": bent}).method == "colmap, incremental"
    few = arc.clone()
    few[:3] = torch.nan
    found = choose(arc, incremental=few, **{"global": WorkerError("global crashed")})
    assert found.coverage == 0.5
    assert found.found.tolist() == [False] * 3 + [True] * 3


def test_cameras_that_do_not_fit_are_refused(choose, arc):
    wrong, none = path("arc_right 40"), arc * torch.nan
    with pytest.raises(CameraEstimationError) as caught:
        choose(arc, incremental=wrong, **{"global": none})
    text = str(caught.value)
    assert "colmap, incremental: leaves its own matches" in text
    assert "the global mapper found 0 cameras" in text
    assert "colmap, rotation only: leaves its own matches" in text
    assert "\n" not in text
    with pytest.raises(WorkerError, match="colmap_worker.py failed"):
        choose(arc, incremental=WorkerError("colmap_worker.py failed: exit code -11"), **{"global": none})


def test_cameras_that_the_pictures_do_not_determine_are_refused(choose, arc):
    sure = choose(arc, apart_deg=0.4, incremental=arc, **{"global": arc})
    assert sure.doubt_deg == pytest.approx(0.2)  # half of the frames differ
    with pytest.raises(CameraEstimationError, match="colmap, global: halves of the points disagree by 0.7 degrees"):
        choose(arc, apart_deg=1.4, incremental=arc, **{"global": arc})
    with pytest.raises(CameraEstimationError, match="the incremental mapper placed 19 points only"):
        choose(arc, points=19, incremental=arc, **{"global": arc})


def test_a_scene_behind_the_camera_is_refused(choose, arc):
    turned = arc @ torch.diag(torch.tensor([-1.0, 1, -1, 1]).double())
    with pytest.raises(CameraEstimationError, match="put the scene behind the first camera"):
        choose(arc, incremental=turned, **{"global": turned})


def test_what_cameras_depend_on_is_recorded():
    record = ColmapConfig().record()
    assert record != replace(ColmapConfig(), max_features=999).record()
    assert record == ColmapConfig(timeout_s=5.0, threads=2).record()
