"""The workers against stand-ins for the packages, which answer as the packages do: real weights were never run."""

from dataclasses import replace
from pathlib import Path

import pytest

from mvtrack.evaluation.interface import BatchMetric, Skipped
from mvtrack.evaluation.measures.consistency import NetworkWarpConsistency
from mvtrack.evaluation.measures.met3r import Met3r
from mvtrack.evaluation.measures.pair_features import PairFeatures
from mvtrack.evaluation.measures.pair_sources import PairNetwork

# Each says: a wall two metres away; the second camera stands as far to the right as the pictures are shifted.
SHIFT = """
import numpy as np
def shift_px(first, second):
    best = min(range(9), key=lambda s: np.abs(first[:, s:, :] - second[:, : first.shape[1] - s, :]).mean())
    return best
"""
VGGT = """
import numpy as np, torch
class VGGT:
    @classmethod
    def from_pretrained(cls, name):
        assert name == "facebook/VGGT-1B"
        return cls()
    def to(self, device): return self
    def eval(self): return self
    def __call__(self, images):
        from shifts import shift_px
        assert images.shape[0] == 2 and images.shape[3] == 518 and images.shape[2] % 14 == 0
        a, b = images.permute(0, 2, 3, 1).numpy()
        return {"pose_enc": torch.tensor([0.0, shift_px(a[::7, ::10], b[::7, ::10]) * 10.0]),
                "depth": torch.full((1, 2, *images.shape[2:], 1), 2.0)}
"""
POSE = """
import torch
def pose_encoding_to_extri_intri(encoding, size):
    height, width = size
    K = torch.tensor([[500.0, 0, width / 2], [0, 500.0, height / 2], [0, 0, 1]]).expand(1, 2, 3, 3)
    w2c = torch.eye(4)[:3].repeat(1, 2, 1, 1)
    w2c[0, :, 0, 3] = -encoding * 2.0 / 500.0
    return w2c, K
"""
DA3 = """
import numpy as np, torch
from PIL import Image
class DepthAnything3:
    @classmethod
    def from_pretrained(cls, name): return cls()
    def to(self, device): return self
    def eval(self): return self
    def inference(self, paths, process_res):
        from types import SimpleNamespace
        from shifts import shift_px
        a, b = (np.asarray(Image.open(p), np.float32) / 255 for p in paths)
        height, width = a.shape[:2]
        K = np.array([[500.0, 0, width / 2], [0, 500.0, height / 2], [0, 0, 1]])
        w2c = np.tile(np.eye(4)[:3], (2, 1, 1))
        w2c[1, 0, 3] = -shift_px(a, b) * 2.0 / 500.0
        return SimpleNamespace(depth=np.full((2, height, width), 2.0), extrinsics=w2c, intrinsics=np.stack([K, K]))
"""
MAST3R = """
import torch
class AsymmetricMASt3R:
    @classmethod
    def from_pretrained(cls, name): return cls()
    def to(self, device): return self
    def eval(self): return self
    def __call__(self, one, two):
        from shifts import shift_px
        a, b = ((view["img"][0].permute(1, 2, 0) + 1) / 2 for view in (one, two))
        assert a.shape[1] == 512 and a.shape[0] % 16 == 0 and one["instance"] != two["instance"]
        height, width = a.shape[:2]
        y, x = (torch.arange(side) + 0.5 - side / 2 for side in (height, width))
        y, x = torch.meshgrid(y, x, indexing="ij")
        points = torch.stack([x * 2 / 500, y * 2 / 400, torch.full_like(x, 2.0)], -1)[None]
        moved = points.clone()
        moved[..., 0] += shift_px(a[::16, :: 8].numpy(), b[::16, :: 8].numpy()) * 8 * 2 / 500
        return {"pts3d": points}, {"pts3d_in_other_view": moved}
"""
PACKAGES = {
    "vggt": {"vggt/models/vggt": VGGT, "vggt/utils/pose_enc": POSE},
    "depth_anything_3": {"depth_anything_3/api": DA3},
    "mast3r": {"mast3r/model": MAST3R},
}
MET3R = """
import torch
class MEt3R:
    def __init__(self, img_size, use_norm, backbone, feature_backbone, feature_backbone_weights, upsampler, distance,
                 freeze):
        assert (img_size, backbone, feature_backbone) == (None, "mast3r", "dino16")
        assert (upsampler, distance) == ("featup", "cosine")
    def to(self, device): return self
    def __call__(self, images, return_overlap_mask, return_score_map, return_projections):
        first, second = images[:, 0], images[:, 1]
        overlap = torch.ones_like(first[:, 0])
        overlap[..., :4] = 0
        distance = (first - second).abs().mean(1)
        return (distance * overlap).sum((1, 2)) / overlap.sum((1, 2)), overlap, distance
"""


def measure(python: Path, kind: str) -> NetworkWarpConsistency:
    return NetworkWarpConsistency(PairNetwork(kind, python, non_commercial=True), PairFeatures("colours"))


SLOW = [pytest.param(kind, marks=pytest.mark.slow) for kind in ("mast3r", "depth_anything_3")]


@pytest.mark.parametrize("kind", ["vggt", *SLOW])
def test_geometry_of_another_environment(environment, wall, kind):
    """Both videos of a wall: the right one agrees, one with the frames in another order does not."""
    metric = measure(environment({"shifts": SHIFT} | PACKAGES[kind]), kind)
    assert metric.missing() is None
    assert isinstance(metric, BatchMetric)
    wrong = wall.generated.clone()
    wrong[:, :, 8:24, 8:32] *= -1
    right, other = metric.score_batch(iter([wall, replace(wall, generated=wrong)]))
    name = f"warp_consistency.{kind}.colours"
    assert right[name] < 0.12  # of pictures scaled up
    assert other[name] > 1.5 * right[name]
    assert other[f"{name}.dynamic"] > other[name]
    assert 0.7 < right[f"{name}.share"] < 1


def test_what_is_not_installed_is_named(environment):
    assert PairNetwork("vggt").missing() == (
        "VGGT: install it in an environment of its own and set environments.vggt in --settings FILE, or "
        "$MVTRACK_VGGT_PYTHON"
    )
    assert PairNetwork("depth_anything_3").missing().endswith("or $MVTRACK_DA3_PYTHON")
    empty = environment({})
    assert PairNetwork("mast3r", empty).missing() == f"the package mast3r in {empty}"
    assert Met3r().missing().endswith("or $MVTRACK_MET3R_PYTHON")


def test_no_other_weights_get_round_consent(environment, tmp_path):
    """MASt3R's code is bound too; of the others, only weights that the registry calls free run unasked."""
    python = environment({f"{name}/__init__": "" for name in ("mast3r", "vggt", "depth_anything_3")})
    assert PairNetwork("depth_anything_3", python).missing() is None
    for kind, model in [
        ("mast3r", "naver/MASt3R_ViTLarge_BaseDecoder_512_catmlpdpt_metric"),
        ("mast3r", str(tmp_path)),
        ("vggt", "facebook/VGGT-1B-Commercial"),
        ("depth_anything_3", "depth-anything/DA3-LARGE"),
        ("depth_anything_3", str(tmp_path)),
    ]:
        network = PairNetwork(kind, python, model)
        assert network.missing().startswith("consent: ")
        assert network.missing().endswith("; pass --non-commercial")
        assert replace(network, non_commercial=True).missing() is None


def test_settings_tell_weights_and_packages_apart(environment, tmp_path):
    weights = tmp_path / "weights"
    weights.mkdir()
    (weights / "model.safetensors").write_bytes(b"one")
    network = PairNetwork("vggt", environment({"vggt/__init__": ""}), str(weights), non_commercial=True)
    before = network.settings
    assert before["package"].startswith("no version, sources ")
    (weights / "model.safetensors").write_bytes(b"another")
    after = network.settings
    assert (after["package"], after["weights"] == before["weights"]) == (before["package"], False)
    assert PairNetwork("vggt").settings == {"weights": "facebook/VGGT-1B", "package": None}


def test_a_network_that_fails_is_a_failure_of_these_samples(environment, wall):
    broken = "raise OSError('facebook/VGGT-1B is not in the cache')"
    python = environment({"vggt/models/vggt": broken, "vggt/utils/pose_enc": ""})
    assert PairNetwork("vggt", python).missing().startswith("consent: facebook/VGGT-1B is for non-commercial use")
    [result] = measure(python, "vggt").score_batch([wall])
    assert isinstance(result, Skipped)
    assert result.kind == "failed"
    assert "facebook/VGGT-1B is not in the cache" in result.reason


def test_met3r_of_another_environment(environment, wall):
    """Its own score of the whole picture, and the same distance where something moves in the reference."""
    metric = Met3r(environment({"met3r": MET3R}), non_commercial=True)
    assert metric.missing() is None
    assert replace(metric, non_commercial=False).missing().startswith("consent: MEt3R runs MASt3R")
    assert metric.settings["met3r"].startswith("no version, sources ")
    quiet = replace(wall, inputs=replace(wall.inputs, dynamic=None))
    scores, unmasked = metric.score_batch(iter([wall, quiet]))
    apart = (wall.inputs.reference - wall.generated).abs().mean(1)
    assert scores["met3r"] == pytest.approx(float(apart[..., 4:].mean()), abs=5e-3)
    assert scores["met3r_dynamic"] == pytest.approx(float(apart[:2, 10:20, 20:30].mean()), abs=5e-3)
    assert scores["met3r_dynamic_share"] == pytest.approx(2 / 3 * 100 / (32 * 48))
    assert unmasked["met3r"] == pytest.approx(scores["met3r"])
    assert unmasked["met3r_dynamic"].reason == "this benchmark gives no masks of what moves"


def test_met3r_takes_whole_patches(wall, unchecked):
    odd = replace(wall, generated=wall.generated[..., :40])
    [result] = Met3r(Path("python"), non_commercial=True).score_batch([odd])
    assert result.reason == "MEt3R takes pictures whose sides 16 divides, got 32x40"
