import pytest
import torch
from torch import nn

from mvtrack.metrics.frame_features import (
    aesthetic_quality,
    background_consistency,
    clip_input,
    dino_input,
    subject_consistency,
)


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
