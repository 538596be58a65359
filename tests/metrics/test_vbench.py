import math

import pytest
import torch
from torch import nn

from mvtrack.metrics.vbench import (
    aesthetic_quality,
    background_consistency,
    clip_input,
    dino_input,
    feature_steadiness,
    subject_consistency,
    temporal_flickering,
)
from mvtrack.video.reader import open_video


def frames(height: int = 45, width: int = 83) -> torch.Tensor:
    """A picture and its mirror image, 8 bit."""
    y, x = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    image = torch.stack([torch.sin(9 * x + 3 * y), torch.cos(13 * y * x), torch.sin(21 * x) * torch.cos(17 * y)])
    image = ((image + 1) * 127.5).round().to(torch.uint8)
    return torch.stack([image, image.flip(-1)])


# VBench 0.1.5's own transforms of these frames: mean, deviation, and values at [1, k, row, column]
PLACES = [(0, 0, 0), (1, 100, 57), (2, 223, 223), (0, 55, 201)]


@pytest.mark.parametrize(
    ("prepare", "shape", "mean", "spread", "values"),
    [
        (dino_input, (2, 3, 224, 413), 0.34871079, 1.44259723, [0.964552, 0.905462, 0.531068, -1.70691]),
        (clip_input, (2, 3, 224, 224), 0.14672623, 1.22137589, [1.24421, -1.466949, 0.766551, -0.157239]),
    ],
)
def test_golden_vbench_resizing(prepare, shape, mean, spread, values):
    made = prepare(frames())
    assert made.shape == shape
    assert float(made.double().mean()) == pytest.approx(mean, abs=1e-6)
    assert float(made.double().std()) == pytest.approx(spread, abs=1e-6)
    assert [float(made[1][place]) for place in PLACES] == pytest.approx(values, abs=1e-5)
    upright = prepare(frames().transpose(-1, -2))
    assert float(upright.double().mean()) == pytest.approx(mean, abs=1e-6)


class MeanColour(nn.Module):
    """Stands in for a network: the mean colour of a picture, three channels."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, image):
        return self.weight * image.mean((2, 3))


def test_scores_by_hand(unchecked):
    network = MeanColour()
    video = frames()[[0, 0, 1, 0, 0]]  # mirrored pictures have one mean colour
    assert subject_consistency(video, network) == pytest.approx(1, abs=1e-4)
    assert background_consistency(video[:2], network) == pytest.approx(1)
    reddish = video[0].clone()
    reddish[1:] //= 4
    assert background_consistency(torch.stack([video[0], reddish]), network) < 0.97
    weight, bias = torch.tensor([[0.0, 0.0, 0.0]]), torch.tensor([5.5])
    assert aesthetic_quality(video, network, weight, bias) == pytest.approx(0.55)


@pytest.mark.shared
@pytest.mark.parametrize("name", ["4", "7"])
def test_golden_vbench_flickering(shared_numbers, name):
    golden = shared_numbers("golden/metrics/vbench_flicker.npz")
    crop = torch.from_numpy(golden[f"{name}.first10_crop_bgr_uint8"]).permute(0, 3, 1, 2)
    assert temporal_flickering(crop) == pytest.approx(float(golden[f"{name}.first10_crop_score"]), abs=1e-6)


@pytest.mark.shared
def test_golden_vbench_flickering_of_a_file(shared, shared_numbers):
    """Decoded by another decoder than the golden's."""
    golden = shared_numbers("golden/metrics/vbench_flicker.npz")
    frames = open_video(shared("data/recammaster/4.mp4")).read(0, 10)
    assert temporal_flickering(frames) == pytest.approx(float(golden["4.first10_score"]), abs=1e-3)


def test_flickering_by_hand():
    frames = torch.zeros(5, 3, 7, 11, dtype=torch.uint8)
    assert temporal_flickering(frames) == 1
    frames[1::2] = 51
    assert temporal_flickering(frames) == pytest.approx(0.8)
    with pytest.raises(ValueError, match="at least 2 frames, got 1"):
        temporal_flickering(frames[:1])


def test_feature_steadiness_by_hand():
    angle = torch.tensor([0.0, math.radians(60), math.radians(60), math.radians(150)])
    features = torch.stack([angle.cos(), angle.sin()], -1) * torch.tensor([1.0, 2, 3, 4])[:, None]
    # to the frame before: 0.5, 1, 0; to the first: 0.5, 0.5, below 0 counts as 0
    assert feature_steadiness(features) == pytest.approx((0.5 + 0.75 + 0) / 3)
    with pytest.raises(ValueError, match="at least 2 frames"):
        feature_steadiness(features[:1])
