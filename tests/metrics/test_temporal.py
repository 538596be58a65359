import math

import numpy as np
import pytest
import torch

from mvtrack.metrics.temporal import feature_steadiness, temporal_flickering
from mvtrack.video.reader import open_video


@pytest.mark.shared
@pytest.mark.parametrize("name", ["4", "7"])
def test_golden_vbench_flickering(shared, name):
    golden = np.load(shared("golden/metrics/vbench_flicker.npz"))
    crop = torch.from_numpy(golden[f"{name}.first10_crop_bgr_uint8"]).permute(0, 3, 1, 2)
    assert temporal_flickering(crop) == pytest.approx(float(golden[f"{name}.first10_crop_score"]), abs=1e-6)


@pytest.mark.shared
def test_golden_vbench_flickering_of_a_file(shared):
    """Decoded by another decoder than the golden's."""
    golden = np.load(shared("golden/metrics/vbench_flicker.npz"))
    footage = open_video(shared("data/recammaster/4.mp4"))
    frames = footage.read(0, 10)
    assert temporal_flickering(frames) == pytest.approx(float(golden["4.first10_score"]), abs=1e-3)


def test_flickering_by_hand():
    frames = torch.zeros(5, 3, 7, 11, dtype=torch.uint8)
    assert temporal_flickering(frames) == 1
    frames[1::2] = 51
    assert temporal_flickering(frames) == pytest.approx(0.8)
    with pytest.raises(ValueError, match="at least 2 frames, got 1"):
        temporal_flickering(frames[:1])


def test_steadiness_by_hand():
    angle = torch.tensor([0.0, math.radians(60), math.radians(60), math.radians(150)])
    features = torch.stack([angle.cos(), angle.sin()], -1) * torch.tensor([1.0, 2, 3, 4])[:, None]
    # to the frame before: 0.5, 1, 0; to the first: 0.5, 0.5, below 0 counts as 0
    assert feature_steadiness(features) == pytest.approx((0.5 + 0.75 + 0) / 3)
    with pytest.raises(ValueError, match="at least 2 frames"):
        feature_steadiness(features[:1])
