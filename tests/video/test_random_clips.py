"""Random clips with a number in every frame, as benchmarks/video_input.py makes them by the hundred."""

import importlib
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.mark.parametrize("first", [1000, 1010, 1020, 1030])
def test_every_frame_is_in_its_place_in_order_and_by_seeking(first, monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(FOLDER))
    clips = importlib.import_module("video_input")
    wrong = {}
    for seed in range(first, first + 10):
        clip = clips.make_clip(seed, tmp_path)
        if found := clips.count_wrong(clip, np.random.default_rng(seed)):
            wrong[clip.kind] = found
    assert not wrong
