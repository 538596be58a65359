"""Points that users name, and every way to name them wrongly."""

import cv2
import numpy as np
import pytest
import torch

from mvtrack.inference.tracking.points import read_points, seen_region, to_model, to_source
from mvtrack.video.resize import Fit, plan_fit

T = 7
SOURCE = (90, 160)


@pytest.fixture
def cropped(small_model) -> Fit:
    """A video of 160x90 cut to the model's 32x24."""
    return plan_fit(SOURCE, small_model.config, "crop")


@pytest.fixture
def padded(small_model) -> Fit:
    return plan_fit(SOURCE, small_model.config, "pad")


def test_pixels_of_video_and_model_are_each_other_inverse(cropped, padded, small_model):
    xy = torch.rand(11, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor([160.0, 90.0])
    for fit in (cropped, padded, plan_fit(SOURCE, small_model.config, "stretch", (20, 44))):
        torch.testing.assert_close(to_source(to_model(xy, fit), fit), xy, atol=1e-4, rtol=1e-5)
    middle = to_model(torch.tensor([80.0, 45.0]), cropped)
    torch.testing.assert_close(middle, torch.tensor([16.0, 12.0]), atol=0.6, rtol=0)


def test_a_grid_covers_what_the_model_sees(cropped, padded):
    points = read_points("grid:5@6", T, cropped)
    assert points.txy.shape == (25, 3)
    assert points.names[:3] == ("0", "1", "2")
    assert (points.txy[:, 0] == 6).all()
    left, top, right, bottom = seen_region(cropped)
    assert 0 < left < right < 160
    assert points.txy[:, 1].min() == pytest.approx(left + (right - left) / 10)
    assert points.txy[:, 1].max() == pytest.approx(right - (right - left) / 10)
    wide = read_points("grid:5", T, padded)
    assert wide.txy[:, 1].min() == pytest.approx(16)
    assert wide.txy[:, 2].max() == pytest.approx(81)


def write(path, text: str):
    path.write_text(text)
    return str(path)


def test_points_of_a_csv_keep_their_names(tmp_path, padded):
    points = read_points(write(tmp_path / "p.csv", "id,frame,x,y\nnose,0,12.5,8\n,3, 159.9 ,89.5\n"), T, padded)
    torch.testing.assert_close(points.txy, torch.tensor([[0.0, 12.5, 8.0], [3.0, 159.9, 89.5]]))
    assert points.names == ("nose", "1")
    bare = read_points(write(tmp_path / "q.csv", "\ufeffx,y,frame\n1,2,3\n"), T, padded)
    assert bare.txy.tolist() == [[3.0, 1.0, 2.0]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("frame,x,y\n0,1,2\n7,1,2\n", r"line 3: frame must be a whole number from 0 to 6, got 7"),
        ("frame,x,y\n0.5,1,2\n", r"line 2: frame must be a whole number from 0 to 6, got 0.5"),
        ("frame,x,y\n0,160,2\n", r"line 2: x=160, y=2 is outside the video's 160x90 pixels"),
        ("frame,x,y\n0,-1,2\n", r"line 2: x=-1, y=2 is outside"),
        ("frame,x,y\n0,nan,2\n", r"line 2: x=nan, y=2 is outside"),
        ("frame,x,y\n0,a,2\n", r"line 2: x must be a number, got 'a'"),
        ("frame,x,y\n0,,2\n", r"line 2: x must be a number, got ''"),
        ("frame,x,y\n0,1\n", r"line 2: expected as many values as columns"),
        ("frame,x,y\n0,1,2,3\n", r"line 2: expected as many values as columns"),
        ("t,x,y\n0,1,2\n", r"needs a first line frame,x,y"),
        ("frame,x,y,z\n0,1,2,3\n", r"needs a first line frame,x,y"),
        ("", r"needs a first line frame,x,y"),
        ("frame,x,y\n", r"has no points below its first line"),
        ("id,frame,x,y\na,0,1,2\nb,0,1,2\na,0,3,4\n", r"line 4: id 'a' was given on line 2 already"),
    ],
)
def test_a_bad_row_is_named(tmp_path, padded, text, message):
    with pytest.raises(ValueError, match="p.csv.*" + message):
        read_points(write(tmp_path / "p.csv", text), T, padded)


def test_a_point_that_the_model_does_not_see_is_refused(tmp_path, cropped):
    with pytest.raises(
        ValueError, match=r"line 2: x=1, y=2 lies where the model's picture has ended already: use .*pad"
    ):
        read_points(write(tmp_path / "p.csv", "frame,x,y\n0,1,2\n"), T, cropped)


def write_mask(path, mask: np.ndarray) -> str:
    assert cv2.imwrite(str(path), mask)
    return str(path)


def test_a_mask_gives_a_regular_grid_inside_it(tmp_path, padded):
    mask = np.zeros(SOURCE, np.uint8)
    mask[20:70, 30:110] = 255
    points = read_points(write_mask(tmp_path / "m.png", mask) + "@2", T, padded)
    assert 200 <= len(points.names) <= 300
    assert (points.txy[:, 0] == 2).all()
    x, y = points.txy[:, 1], points.txy[:, 2]
    assert 30 <= x.min() < x.max() <= 110
    assert 20 <= y.min() < y.max() <= 70
    columns = x.unique().diff()
    torch.testing.assert_close(columns, columns[:1].expand_as(columns), atol=1e-3, rtol=0)
    assert points.notes == ()


def test_transparency_and_thin_masks_count(tmp_path, padded):
    mask = np.full((*SOURCE, 4), 255, np.uint8)
    mask[..., 3] = 0
    mask[40, 50, 3] = 255
    points = read_points(write_mask(tmp_path / "m.png", mask), T, padded)
    assert points.txy.tolist() == [[0.0, 50.5, 40.5]]


def test_mask_points_outside_the_models_picture_are_counted(tmp_path, cropped):
    points = read_points(write_mask(tmp_path / "m.png", np.full(SOURCE, 9, np.uint8)), T, cropped)
    assert len(points.notes) == 1
    assert "points lie where the model's picture ends and are left out" in points.notes[0]
    left = np.zeros(SOURCE, np.uint8)
    left[:, :4] = 1
    with pytest.raises(ValueError, match="marks only what the model's picture leaves out: use --fit pad"):
        read_points(write_mask(tmp_path / "l.png", left), T, cropped)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("grid:0", "must look like grid:20"),
        ("grid:x", "must look like grid:20"),
        ("grid:3@7", "frame 7 is not in the video, which has frames 0 to 6"),
        ("points.txt", "cannot read points from 'points.txt': give grid:20, points.csv"),
        ("nowhere.png", "mask nowhere.png does not exist"),
        ("nowhere.csv", "cannot read nowhere.csv as a CSV"),
    ],
)
def test_what_names_no_points_is_refused(padded, text, message):
    with pytest.raises(ValueError, match=message):
        read_points(text, T, padded)


def test_masks_that_do_not_fit_are_refused(tmp_path, padded):
    small, empty = tmp_path / "s.png", tmp_path / "e.png"
    with pytest.raises(ValueError, match=r"s.png is 16x9, the video is 160x90"):
        read_points(write_mask(small, np.ones((9, 16), np.uint8)), T, padded)
    with pytest.raises(ValueError, match=r"e.png marks nothing"):
        read_points(write_mask(empty, np.zeros(SOURCE, np.uint8)), T, padded)
    (tmp_path / "t.png").write_text("text")
    with pytest.raises(ValueError, match=r"cannot read .*t.png as an image"):
        read_points(str(tmp_path / "t.png"), T, padded)
