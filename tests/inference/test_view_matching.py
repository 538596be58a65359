"""The worker of dense matchers against stand-ins for the packages, which answer as these do."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mvtrack.config.matching import MatchingConfig
from mvtrack.inference.external_program import WorkerError
from mvtrack.inference.view_matching import match_views, matcher_title, missing_matcher

# One match for each cell of 8x8 pixels that is bright in both pictures, at its corner; the second one a pixel lower.
CELLS = """
import torch
def matches(one, other, threshold):
    assert one.dtype == torch.float32 and 0 <= one.min() and one.max() <= 1
    rows, columns = (min(a, b) for a, b in zip(one.shape[2:], other.shape[2:]))
    bright = (one[0, 0, :rows:8, :columns:8] > 0.5) & (other[0, 0, :rows:8, :columns:8] > 0.5)
    at = bright.nonzero().flip(1).float() * 8
    confidence = torch.linspace(0.1, 0.9, len(at))
    kept = confidence > threshold
    return at[kept], at[kept] + torch.tensor([0.0, 1.0]), confidence[kept]
"""
LOFTR = """
import torch
default_cfg = {"match_coarse": {"thr": 0.2}, "coarse": {"temp_bug_fix": False}}
class LoFTR(torch.nn.Module):
    def __init__(self, pretrained, config):
        super().__init__()
        assert pretrained is None
        self.config, self.scale = config, torch.nn.Parameter(torch.zeros(()))
    def forward(self, data):
        from cells import matches
        assert not self.training and self.scale == 3
        assert all(side % 8 == 0 for x in data.values() for side in x.shape[2:])
        first, second, confidence = matches(data["image0"], data["image1"], self.config["match_coarse"]["thr"])
        return {"keypoints0": first, "keypoints1": second, "confidence": confidence}
"""
ASPANFORMER = """
import torch
class ASpanFormer(torch.nn.Module):
    def __init__(self, config):
        super().__init__()
        assert config["place"] == "outdoor"
        self.config, self.scale = config, torch.nn.Parameter(torch.zeros(()))
        self.register_buffer("sample_offset", torch.zeros(2))
    def forward(self, data, online_resize=False):
        from cells import matches
        assert online_resize and all(data[k].shape[2] % 32 == 0 for k in ("image0", "image1"))
        found = matches(data["image0"], data["image1"], self.config["match_coarse"]["thr"])
        scale = torch.ones(2).cuda()
        data.update(mkpts0_f=found[0] * scale, mkpts1_f=found[1] * scale, mconf=found[2])
"""
SETTINGS = """
class Node(dict):
    __getattr__, __setattr__ = dict.__getitem__, dict.__setitem__
    def merge_from_file(self, path): self.ASPAN.PLACE = path.split("/")[-2]
def get_cfg_defaults(): return Node(ASPAN=Node(MATCH_COARSE=Node(THR=0.2)))
"""


@pytest.fixture
def matcher(environment, tmp_path):
    """Make the config of a matcher whose packages are the stand-ins."""

    def make(name: str, **settings) -> MatchingConfig:
        python = environment({"cells": CELLS, "kornia/feature/__init__": "from .loftr.loftr import LoFTR", "yacs": "",
                              "kornia/feature/loftr/loftr": LOFTR, "kornia/__init__": ""})  # fmt: skip
        repo = tmp_path / "ml-aspanformer"
        for path, source in (("src/ASpanFormer/aspanformer", ASPANFORMER), ("src/config/default", SETTINGS)):
            (repo / path).parent.mkdir(parents=True, exist_ok=True)
            (repo / f"{path}.py").write_text(source)
        weights = {"matcher.scale": torch.tensor(3.0)}
        torch.save({"state_dict": weights | ({"matcher.sample_offset": torch.ones(3)} if name != "loftr" else {})},
                   tmp_path / "outdoor.ckpt")  # fmt: skip
        own = {"repo": repo, "non_commercial": True} if name == "aspanformer" else {}
        return MatchingConfig(
            name, python, tmp_path / "outdoor.ckpt", **{"threshold": 0.0, "side": 128, **own, **settings}
        )

    return make


def dotted(size: tuple[int, int], *corners: tuple[int, int]) -> torch.Tensor:
    """Black but for a square of 20 pixels from each corner (x, y)."""
    picture = -torch.ones(3, *size)
    for x, y in corners:
        picture[:, y : y + 20, x : x + 20] = 1
    return picture


@pytest.mark.parametrize(("name", "multiple"), [("loftr", 8), pytest.param("aspanformer", 32, marks=pytest.mark.slow)])
def test_matches_of_another_environment_are_in_the_pictures_own_pixels(matcher, name, multiple):
    """A picture of 66x50 is seen at 128x96, or what is near it; pairs are kept apart, also those without matches."""
    size, config = (50, 66), matcher(name)
    pairs = [(dotted(size, (20, 10)), dotted(size, (20, 10))), (dotted(size, (0, 0)), dotted(size, (40, 28))),
             (dotted(size, (20, 10), (44, 28)), dotted(size, (44, 28)))]  # fmt: skip
    whole, nothing, last = match_views(pairs, config)
    assert missing_matcher(config) is None
    assert len(nothing.first) == len(nothing.confidence) == 0
    seen = np.array([128, round(50 * 128 / 66 / multiple) * multiple])
    step = 8 * np.array([66, 50]) / seen
    assert len(whole.first) == len(whole.second) == len(whole.confidence) > 10
    np.testing.assert_allclose(whole.first / step, np.round(whole.first / step), atol=1e-5)
    np.testing.assert_allclose(whole.second - whole.first, np.tile([0, 50 / seen[1]], (len(whole.first), 1)), atol=1e-5)
    assert (whole.first >= [20 - step[0] / 8, 10 - step[1] / 8]).all()
    assert (whole.first <= [40, 30]).all()
    assert (last.first >= [44 - step[0] / 8, 28 - step[1] / 8]).all()
    fewer = match_views(pairs[:1], matcher(name, threshold=0.5))[0]
    assert (fewer.confidence > 0.5).all()
    assert 0 < len(fewer.first) < len(whole.first)


def test_sift_is_the_default_and_has_no_confidence():
    noise = torch.rand(3, 31, 37, generator=torch.Generator().manual_seed(1)) * 2 - 1
    [coarse], [fine] = (match_views([(noise, noise)], MatchingConfig(), exact) for exact in (False, True))
    assert coarse.confidence is None
    assert np.array_equal(coarse.first, coarse.second)
    assert len(fine.first) > 100


def test_what_a_matcher_lacks_is_named(matcher, environment, tmp_path):
    config = matcher("aspanformer", non_commercial=False)
    assert missing_matcher(config).startswith("consent: AspanFormer, code and weights, is for non-commercial use")
    assert "set matching.repo to it, not None" in missing_matcher(matcher("aspanformer", repo=None))
    gone = MatchingConfig("loftr", config.python, tmp_path / "gone.ckpt")
    with pytest.raises(
        ValueError, match=r"views cannot be matched: missing the weights .*gone.ckpt: set matching.weights"
    ):
        match_views([], gone)
    assert missing_matcher(MatchingConfig("loftr", weights=Path("a"))).endswith(
        "matching.python, or $MVTRACK_LOFTR_PYTHON"
    )
    torch.save({"state_dict": {"matcher.other": torch.ones(1)}}, tmp_path / "outdoor.ckpt")
    black = dotted((32, 32))
    with pytest.raises(WorkerError, match="lacks scale of AspanFormer"):
        match_views([(black, black)], replace(config, non_commercial=True))
    assert matcher_title(gone) == "LoFTR (gone.ckpt, confidence over 0.2, pictures scaled to 640 px)"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weights": Path("a")}, "matching.matcher sift has no other settings"),
        ({"matcher": "loftr"}, "matching.matcher loftr needs matching.weights"),
        ({"matcher": "loftr", "weights": Path("a"), "repo": Path("b")}, "matching.repo is AspanFormer's checkout"),
    ],
)
def test_settings_that_cannot_be_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        MatchingConfig(**settings)
