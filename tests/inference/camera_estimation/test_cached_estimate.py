"""Cameras of a video file: how frames are chosen, what is kept, what is refused. The estimator answers as told."""

import numpy as np
import pytest
import torch
from PIL import Image

from mvtrack.geometry.path_language import parse_path
from mvtrack.inference.camera_estimation import cached_estimate as of_video
from mvtrack.inference.camera_estimation.cached_estimate import cameras_of_video
from mvtrack.inference.camera_estimation.colmap import ColmapConfig
from mvtrack.inference.camera_estimation.estimated_cameras import CameraEstimationError, cameras_from_poses
from mvtrack.inference.external_program import WorkerError
from mvtrack.video.writer import write_video


class Told:
    """Cameras along an arc for whatever comes; keeps what it was given."""

    def __init__(self) -> None:
        self.calls: list[tuple] = []
        self.answer: Exception | None = None
        self.lost: list[int] = []

    def __call__(self, frames, lens, lens_known, ignore, config, on_stage):
        self.calls.append((frames.shape, lens, lens_known, ignore))
        on_stage("matching")
        if self.answer:
            raise self.answer
        found = torch.ones(len(frames), dtype=torch.bool)
        found[self.lost] = False
        c2w, K = parse_path("arc_left 20").poses(len(frames)), lens.K.double().expand(len(frames), 3, 3)
        return cameras_from_poses(c2w, K, lens.size, found, "as told")


@pytest.fixture
def told(monkeypatch) -> Told:
    told = Told()
    monkeypatch.setattr(of_video, "recover_with_colmap", told)
    monkeypatch.setattr(of_video, "colmap_missing", lambda: None)
    return told


@pytest.fixture(scope="module")
def long_video(tmp_path_factory):
    frames = torch.rand(161, 3, 24, 40, generator=torch.Generator().manual_seed(1)) * 2 - 1
    return write_video(tmp_path_factory.mktemp("long") / "long.mp4", frames, fps=24.0)


def mask_video(path, frames: int, size: tuple[int, int]):
    mask = -torch.ones(frames, 3, *size)
    mask[:, :, 10:20, 30:50] = 1
    return write_video(path, mask, fps=12.0)


def test_a_video_is_measured_once(told, video, tmp_path):
    first = cameras_of_video(video, cache=tmp_path)
    again = cameras_of_video(video, cache=tmp_path)
    assert len(told.calls) == 1
    assert torch.equal(first.camera.c2w, again.camera.c2w)
    assert first.camera.size == (90, 160)
    shape, lens, known, ignore = told.calls[0]
    assert (shape, lens.size, known, ignore) == ((7, 90, 160, 3), (90, 160), False, None)
    cameras_of_video(video, 60.0, cache=tmp_path)
    cameras_of_video(video, cache=tmp_path, config=ColmapConfig(max_features=99))
    assert [call[2] for call in told.calls] == [False, True, False]
    copy = tmp_path / "elsewhere.mp4"
    copy.write_bytes(video.read_bytes())
    cameras_of_video(copy, cache=tmp_path)
    assert len(told.calls) == 3


def test_why_nothing_was_found_is_kept_too_but_not_a_crash(told, video, tmp_path):
    told.answer = WorkerError("colmap_worker.py failed: exit code -9")
    with pytest.raises(WorkerError, match="exit code -9"):
        cameras_of_video(video, cache=tmp_path)
    told.answer = CameraEstimationError("the pictures are too smooth")
    for _ in range(2):
        with pytest.raises(
            CameraEstimationError, match="cameras of .*in put.mp4 cannot be measured: the pictures are too smooth"
        ):
            cameras_of_video(video, cache=tmp_path)
    assert len(told.calls) == 2


def test_a_damaged_entry_is_measured_again(told, video, tmp_path):
    cameras_of_video(video, cache=tmp_path)
    [file] = (tmp_path / "cameras").iterdir()
    file.write_bytes(file.read_bytes()[:100])
    assert cameras_of_video(video, cache=tmp_path).method == "as told"
    assert len(told.calls) == 2


def test_long_and_large_videos_are_thinned(told, long_video, tmp_path, monkeypatch):
    monkeypatch.setattr(of_video, "LONGEST_SIDE", 20)
    found = cameras_of_video(long_video, cache=tmp_path)
    shape, lens, *_ = told.calls[0]
    assert shape == (81, 12, 20, 3)
    assert lens.size == (12, 20)
    assert found.camera.shape == (161,)
    assert found.camera.size == (24, 40)
    assert found.fov_deg == pytest.approx(50.0, abs=1e-4)
    assert int(found.found.sum()) == 81
    assert found.found[[0, 160]].all()
    torch.testing.assert_close(found.filled().c2w, parse_path("arc_left 20").poses(161), atol=1e-3, rtol=0)


def test_few_found_frames_are_none(told, video, tmp_path):
    told.lost = [1, 2, 4, 5]
    with pytest.raises(CameraEstimationError, match="only 3 of 7 frames could be placed"):
        cameras_of_video(video, cache=tmp_path)


def test_masks(told, video, tmp_path):
    masks = mask_video(tmp_path / "m.mp4", 7, (90, 160))
    cameras_of_video(video, masks=masks, cache=tmp_path)
    ignore = told.calls[0][3]
    expected = np.zeros((7, 90, 160), bool)
    expected[:, 10:20, 30:50] = True
    assert (ignore == expected).mean() > 0.99
    for path, message in [
        (mask_video(tmp_path / "s.mp4", 7, (80, 160)), r"masks .*s.mp4 are 160x80, .*in put.mp4 is 160x90"),
        (mask_video(tmp_path / "f.mp4", 5, (90, 160)), r"masks .*f.mp4 is for 5 frames, .*in put.mp4 has 7"),
        (tmp_path / "gone.mp4", "gone.mp4 does not exist"),
    ]:
        with pytest.raises(ValueError, match=message):
            cameras_of_video(video, masks=path, cache=tmp_path)
    one = tmp_path / "one.png"
    Image.fromarray(expected[0].astype(np.uint8) * 255).save(one)
    cameras_of_video(video, masks=one, cache=tmp_path)
    assert np.array_equal(told.calls[-1][3], expected)


def test_pycolmap_is_asked_for(video, tmp_path, monkeypatch):
    monkeypatch.setattr(of_video, "colmap_missing", lambda: "pycolmap: pip install pycolmap")
    with pytest.raises(ValueError, match="in put.mp4 cannot be measured: missing pycolmap: pip install pycolmap, or"):
        cameras_of_video(video, cache=tmp_path)
