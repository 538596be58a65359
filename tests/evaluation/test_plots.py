from itertools import pairwise

import cv2
import numpy as np
import pytest
from matplotlib.figure import Figure

from mvtrack.evaluation.plots import ByLayer, Curves, HeatMap, draw_by_layer, draw_curves, draw_heat_maps, short


@pytest.mark.parametrize(
    ("value", "text"), [(0.123, "0.12"), (4.2, "4.20"), (0.0123, ".012"), (-0.5, "-0.50"), (0.0, "0.00"), (np.nan, "-")]
)
def test_numbers_are_short(value, text):
    assert short(value) == text


def ink(path) -> np.ndarray:
    """Where a picture is not white."""
    return (cv2.imread(str(path)) < 250).any(-1)


@pytest.mark.parametrize("layers", [6, 30])
def test_bright_is_good_whichever_way_a_score_counts(layers, tmp_path):
    values = np.linspace(0, 1, layers * 7).reshape(layers, 7)
    labels = [str(i) for i in range(7)]
    for name, low_is_good in (("up", False), ("down", True)):
        draw_heat_maps(tmp_path / f"{name}.png", [[HeatMap("t", values, "layer", "step", labels, low_is_good)]])
    up, down = (cv2.imread(str(tmp_path / f"{name}.png")).astype(int).sum(-1) for name in ("up", "down"))
    height, width = up.shape
    upper, lower = slice(height // 5, 2 * height // 5), slice(3 * height // 5, 4 * height // 5)
    middle = slice(2 * width // 5, 3 * width // 5)
    assert up[lower, middle].mean() > 1.2 * up[upper, middle].mean()
    assert down[upper, middle].mean() > 1.2 * down[lower, middle].mean()


@pytest.fixture
def drawn(monkeypatch):
    """The figures as they were saved, to ask where things lie."""
    figures, save = [], Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda figure, path: (save(figure, path), figures.append(figure)))
    return figures


@pytest.mark.parametrize("shape", [(2, 1), (2, 3), (6, 10)])
def test_titles_of_heat_maps_are_whole(drawn, tmp_path, shape):
    title, labels = "alignment error, nats, within the reference", [str(i) for i in range(shape[1])]
    maps = [HeatMap(title, np.random.default_rng(0).random(shape), "layer", "noise level", labels)] * 5
    draw_heat_maps(tmp_path / "h.png", [maps] * 3)
    plots = drawn[0].axes
    boxes = [plot.title.get_window_extent() for plot in plots]
    assert all(box.x0 >= 0 and box.x1 <= drawn[0].bbox.x1 for box in boxes)
    assert all(a.x1 < b.x0 for i, (a, b) in enumerate(pairwise(boxes)) if i % 5 < 4)


def test_the_legend_covers_no_line(drawn, tmp_path):
    values = np.random.default_rng(0).random((6, 40))  # everywhere
    panel = Curves(
        "t", list(range(40)), values, "noise level", "y", ("matching each point with its own place", [0.5] * 40)
    )
    draw_curves(tmp_path / "c.png", [panel] * 3)
    for plot in drawn[0].axes:
        legend, bottom = plot.get_legend().get_window_extent(), plot.xaxis.label.get_window_extent()
        assert 0 <= legend.y0 < legend.y1 <= bottom.y0
        assert 0 <= legend.x0 < legend.x1 <= drawn[0].bbox.x1


def test_curves_run_as_given_and_pass_over_gaps(tmp_path):
    rising = np.stack([np.linspace(0, 1, 5), np.full(5, np.nan)])
    pictures = []
    for x in ([1.0, 0.8, 0.6, 0.4, 0.2], [0.2, 0.4, 0.6, 0.8, 1.0]):
        draw_curves(tmp_path / "c.png", [Curves("t", x, rising, "x", "y", ("level", [0.5] * 5))])
        pictures.append(cv2.imread(str(tmp_path / "c.png")))
    blue = [np.argwhere((abs(p.astype(int) - (180, 119, 31)) < 8).all(-1)) for p in pictures]  # the line's colour, BGR
    for at in blue:  # from left to right it rises, whichever way x runs
        assert len(at) > 100
        assert np.corrcoef(at.T)[0, 1] < -0.9


def test_many_layers_are_drawn_with_few_names(tmp_path):
    values = np.linspace(0, 1, 30)[:, None] * np.ones((30, 3))
    draw_curves(tmp_path / "c.png", [Curves("t", [1.0, 2.0, 3.0], values, "x", "y")] * 2)
    assert ink(tmp_path / "c.png").mean() > 0.02


def test_a_single_point_is_drawn(tmp_path):
    draw_curves(tmp_path / "c.png", [Curves("t", [7.0], np.ones((2, 1)), "x", "y")])
    assert ink(tmp_path / "c.png").any()


def test_bars_with_intervals_and_notes(tmp_path):
    values = {"a": [1.0, -2.0], "b": [0.5, float("nan")]}
    draw_by_layer(tmp_path / "plain.png", [ByLayer("t", "y", values)])
    panel = ByLayer("t", "y", values, {"a": [(0.5, 1.5), (-2.5, -1.5)]}, {"a": ["**", ""]})
    draw_by_layer(tmp_path / "more.png", [panel])
    assert ink(tmp_path / "more.png").sum() != ink(tmp_path / "plain.png").sum()
