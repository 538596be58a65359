"""Sources of unusual size and kind through the whole command: results are as large as they are, or a note says why."""

import json

import cv2
import numpy as np
import pytest

from mvtrack.inference.full_resolution.region import MAX_PIXELS
from mvtrack.inference.pipeline import reshoot_file
from mvtrack.video.reader import open_video

ARC = "arc_left 12deg"


def images(folder, size, channels=3, frames=2):
    rng = np.random.default_rng(5)
    folder.mkdir()
    picture = cv2.GaussianBlur(rng.integers(0, 256, (*size, channels), dtype=np.uint8), (0, 0), 2)
    for t in range(frames):
        cv2.imwrite(str(folder / f"{t}.png"), np.roll(picture, 3 * t, 1).reshape(*size, channels))
    return folder


@pytest.mark.parametrize(
    ("size", "channels", "frames"),
    [((64, 64), 3, 2), ((61, 97), 4, 2), ((61, 97), 1, 2), ((96, 54), 3, 1), ((17, 19), 3, 3), ((40, 400), 3, 2)],
    ids=["64x64", "alpha", "grey", "one portrait frame", "smaller than the model", "ten times as wide as high"],
)
def test_result_is_as_large_as_the_source(tmp_path, small_model, size, channels, frames):
    done = reshoot_file(images(tmp_path / "in", size, channels, frames), ARC, small_model, tmp_path / "out")
    record = json.loads((tmp_path / "out/run.json").read_text())["full_resolution"]
    assert tuple(record["size"]) == size
    made = open_video(done.video)
    assert len(made) == frames
    assert all(0 <= a - b <= 1 for a, b in zip(made.size, size, strict=True))  # 4:2:0 colour needs even ones


@pytest.mark.slow
def test_8k_is_made_4k_and_says_so(tmp_path, small_model):
    source = images(tmp_path / "in", (4320, 7680), frames=1)
    done = reshoot_file(source, "pan_left 2deg", small_model, tmp_path / "out")
    height, width = open_video(done.video).size
    assert height * width <= MAX_PIXELS
    assert any("7680x4320 is made 3840x2160; --resolution 4320x7680 keeps it" in note for note in done.notes)


@pytest.mark.parametrize("path", ["dolly_in 1.3d", "dolly_in 1d", "dolly_out 40d"])
def test_path_through_or_far_from_the_subject_still_makes_a_picture(tmp_path, small_model, path):
    done = reshoot_file(images(tmp_path / "in", (61, 97), frames=3), path, small_model, tmp_path / "out")
    assert len(open_video(done.video)) == 3
    passes = any("the path passes through the subject" in note for note in done.notes)
    assert passes == path.startswith("dolly_in")
