import numpy as np
import pytest
import torch

from mvtrack.geometry.camera import Camera
from mvtrack.models.refiner.files import Refiner
from mvtrack.video.resize import still_camera

T, H, W = 5, 68, 92


@pytest.fixture(scope="session")
def refiner() -> Refiner:
    torch.manual_seed(0)
    return Refiner((8, 8, 8, 8), (8, 8, 8)).eval().requires_grad_(False)


@pytest.fixture(scope="session")
def frames() -> torch.Tensor:
    """A video whose pictures are smooth and move, 8 bit (T, 3, H, W)."""
    rng = np.random.default_rng(3)
    y, x, t = np.mgrid[:H, :W, :T]
    rates = rng.uniform([0.05, 0.05, 0.0, 0.0], [0.4, 0.4, 0.3, 6.0], (3, 4, 4))
    waves = [sum(np.sin(a * x + b * y + c * t + d) for a, b, c, d in channel) for channel in rates]
    video = np.stack(waves).transpose(3, 0, 1, 2) * 28 + 128
    return torch.from_numpy(video.clip(0, 255).astype(np.uint8))


def path(change) -> Camera:
    """(2, T): a camera at rest, and one whose pose (4, 4) `change` alters, given progress in [0, 1]."""
    still = still_camera(55.0, (H, W), T)
    moved = still.c2w.clone()
    for t in range(T):
        change(moved[t], t / (T - 1))
    return Camera(torch.stack([still.c2w, moved]), torch.stack([still.K, still.K]), (H, W))
