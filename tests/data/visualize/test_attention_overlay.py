import numpy as np
import pytest
import torch

from mvtrack.data.visualize.attention_overlay import (
    Looks,
    _share,
    attention_sheet,
    frame_titles,
    shown_frames,
    token_centres,
    token_heat,
)
from mvtrack.data.visualize.panels import LABEL_PX

V, N, H, W = 2, 3, 20, 32


def looks(generator, **change) -> Looks:
    heat = torch.zeros(V, N, H, W)
    heat[:, :, 4:8, 24:28] = 1e-3
    values = {
        "frames": torch.full((V, N, 3, H, W), -0.5),
        "heat": heat,
        "peak": torch.tensor([26.0, 6.0]).expand(V, N, 2),
        "share": torch.full((V, N), 1 / (V * N)),
        "query": (1, 2, 5.0, 12.0),
    }
    return Looks(**values | change)


def cell(sheet: np.ndarray, view: int, overlaid: bool, n: int) -> np.ndarray:
    """One picture of the sheet, without its title."""
    height = 160
    top = 2 * LABEL_PX + (2 * view + overlaid) * (height + LABEL_PX) + LABEL_PX
    return sheet[top : top + height, n * (256 + 6) : n * (256 + 6) + 256]


def test_overlay_glows_at_attention_and_marks_points(generator):
    sheet = attention_sheet("title", looks(generator), frame_titles(["a", "b"], [0, 4, 9]))
    assert sheet.shape == (2 * LABEL_PX + 4 * (160 + LABEL_PX), 3 * 256 + 2 * 6, 3)
    heat = cell(sheet, 0, True, 1).astype(int)
    assert heat[48, 208].sum() > 2 * heat[120, 60].sum()  # cell (4:8, 24:28) at 8 times the size
    assert np.abs(heat[120, 60] - heat[120, 60].mean()).max() <= 1  # grey elsewhere
    ring = (255, 40, 200)
    for overlaid in (False, True):
        own, other = (cell(sheet, 1, overlaid, n) for n in (2, 1))
        found = np.argwhere((own == ring).all(-1))
        assert np.abs(found.mean(0) - [96, 40]).max() < 1.5
        assert not (other == ring).all(-1).any()
    assert not (cell(sheet, 0, True, 0) == (60, 255, 60)).all(-1).any()


def test_overlay_marks_known_truth(generator):
    truth = torch.full((V, N, 2), torch.nan)
    truth[0, 1] = torch.tensor([10.0, 15.0])
    sheet = attention_sheet("title", looks(generator, truth=truth), frame_titles(["a", "b"], [0, 4, 9]))
    found = np.argwhere((cell(sheet, 0, True, 1) == (60, 255, 60)).all(-1))
    assert np.abs(found.mean(0) - [120, 80]).max() < 1.5
    assert not (cell(sheet, 0, True, 0) == (60, 255, 60)).all(-1).any()


def test_heat_covers_its_tokens():
    maps = torch.zeros(2, 5, 7)
    maps[0, 1, 2] = maps[1, 4, 6] = 1
    heat = token_heat(maps, (20, 28))
    centres = token_centres(torch.tensor([[1, 2], [4, 6]]), 4)
    assert centres.tolist() == [[10, 6], [26, 18]]
    for one, (x, y) in zip(heat, centres.tolist(), strict=True):
        i, j = np.unravel_index(int(one.argmax()), one.shape)
        assert abs(j + 0.5 - x) <= 2
        assert abs(i + 0.5 - y) <= 2
    assert heat.min() >= 0


@pytest.mark.parametrize(("part", "text"), [(0.4, "40.0 %"), (3e-4, "under 0.1 %")])
def test_small_shares_are_not_rounded_to_zero(part, text):
    assert _share(part) == f"{text} of the attention"


def test_shown_frames_are_spread_and_include_query():
    assert shown_frames(5, 3) == [0, 1, 2, 3, 4]
    for wanted in range(21):
        shown = shown_frames(21, wanted)
        assert len(set(shown)) == 6
        assert wanted in shown
        assert shown == sorted(shown)
