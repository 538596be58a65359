"""Samples in memory."""

import pytest
import torch

from mvtrack.evaluation.interface import Inputs, Sample
from mvtrack.geometry.camera import Camera, intrinsics_from_fov

HEIGHT, WIDTH, FRAMES = 32, 48, 3


@pytest.fixture
def wall(generator) -> Sample:
    """A textured wall 2 m away, seen by a still camera and by one that stands to its right by 4, 5 and 6 pixels; the
    generated video is the true one."""
    K = intrinsics_from_fov(60.0, (HEIGHT, WIDTH))
    steps = torch.tensor([4, 5, 6])
    c2w = torch.eye(4).repeat(2, FRAMES, 1, 1)
    c2w[1, :, 0, 3] = steps * 2.0 / float(K[0, 0])
    wide = torch.rand(3, HEIGHT, WIDTH + 6, generator=generator) * 2 - 1
    reference = wide[..., :WIDTH].expand(FRAMES, -1, -1, -1)
    target = torch.stack([wide[..., step : step + WIDTH] for step in steps.tolist()])
    dynamic = torch.zeros(FRAMES, HEIGHT, WIDTH, dtype=torch.bool)
    dynamic[:2, 10:20, 20:30] = True
    depth = torch.full((FRAMES, HEIGHT, WIDTH), 2.0)
    inputs = Inputs(
        "wall", reference, Camera(c2w, K.expand(2, FRAMES, 3, 3), (HEIGHT, WIDTH)), source_camera_known=True,
        target=target, target_frames=(0, 1, 2), dynamic=dynamic, depth=depth, target_depth=depth,
    )  # fmt: skip
    return Sample(inputs, target, method="row")
