"""The head without the rest of the project: frozen random filters on a toy world, and it learns to track.

docs/tracking_head.md shows this example.
"""

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from einops import rearrange

from tracking_head import (
    CorrelationConfig,
    Features,
    HeadConfig,
    Queries,
    Tracker,
    TrackingHead,
    TrackLossConfig,
    Tracks,
    queries_from_truth,
    track_loss,
)  # fmt: skip

SIZE = H, W = 48, 64
TOKEN_PX = 4
V, T, N = 2, 7, 12
STEPS = 50
SHIFT_PX = torch.tensor([[0.0, 6.0], [0.0, 11.0]])  # how far left of view 0 view 1 sees the wall, and the nearer card


def texture(generator: torch.Generator, height: int, width: int) -> torch.Tensor:
    coarse = torch.randn(1, 3, height // 4, width // 4, generator=generator)
    fine = torch.randn(1, 3, height // 2, width // 2, generator=generator)
    return sum(F.interpolate(x, size=(height, width), mode="bilinear", align_corners=False) for x in (coarse, fine))


def toy_clip(generator: torch.Generator) -> tuple[torch.Tensor, Tracks]:
    """A textured card slides over a textured wall that slides too, seen by two cameras: video (V T 3 H W), tracks."""
    wall, card = texture(generator, 2 * H, 2 * W), texture(generator, 24, 24)
    velocity = 5 * torch.rand(2, 2, generator=generator) - 2.5  # of wall and card, pixels a frame
    start = torch.stack([torch.tensor([-W / 2, -H / 2]), torch.rand(2, generator=generator) * 20 + 8])
    time = torch.arange(T)[:, None, None] - T // 2
    place = (start + velocity * time)[None].repeat(V, 1, 1, 1)  # (V, T, 2 layers, 2): where each layer's corner is
    place[..., 0] -= SHIFT_PX.mT[:, None]

    y, x = torch.meshgrid(torch.arange(H) + 0.5, torch.arange(W) + 0.5, indexing="ij")
    pixel = torch.stack([x, y], -1)
    video = sample(wall, pixel - place[:, :, 0, None, None])
    on_card = pixel - place[:, :, 1, None, None]
    inside = ((on_card >= 0) & (on_card < 24)).all(-1)
    video = torch.where(inside[:, :, None], sample(card, on_card), video)

    layer = (torch.arange(N) < N // 2).long()  # half of the points are on the card
    local = torch.rand(N, 2, generator=generator) * torch.tensor([[W, H]]) + torch.tensor([W / 2, H / 2])
    local = torch.where(layer[:, None] == 1, torch.rand(N, 2, generator=generator) * 22 + 1, local)
    xy = place[:, :, layer] + local
    covered = ((xy - place[:, :, 1:] >= 0) & (xy - place[:, :, 1:] < 24)).all(-1) & (layer == 0)
    seen = ((xy >= 0) & (xy < torch.tensor([W, H]))).all(-1) & ~covered
    return video, Tracks(xy, seen, seen.any(1))


def sample(image: torch.Tensor, xy: torch.Tensor) -> torch.Tensor:
    grid = 2 * xy.flatten(0, 1) / torch.tensor([image.shape[-1], image.shape[-2]]) - 1
    values = F.grid_sample(image.expand(len(grid), -1, -1, -1), grid, padding_mode="border", align_corners=False)
    return values.unflatten(0, xy.shape[:2])


def random_filters(video: torch.Tensor) -> Features:
    """The frozen backbone: 24 random 8x8 filters at every fourth pixel, normalised; the same for q and k."""
    weight = torch.randn(24, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    response = F.conv2d(F.pad(video.flatten(0, 1), (2, 2, 2, 2), "replicate"), weight, stride=TOKEN_PX)
    response = 4 * F.normalize(response, dim=1).unflatten(0, video.shape[:2])
    features = rearrange(response, "v t c h w -> v t h w 1 c")
    return Features(features, features, TOKEN_PX)


@pytest.mark.slow
def test_head_learns_from_frozen_features():
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    config = HeadConfig(
        CorrelationConfig(levels=2, scaled=False), correlation_hidden=32, correlation_dim=32, dim=48, heads=4, layers=1,
        mlp_ratio=2, virtual_tracks=8, iterations=2, displacement=True, recompute=False,
    )  # fmt: skip
    tracker = Tracker(TrackingHead(config), threshold=0.25)
    clips = [toy_clip(generator) for _ in range(2)]
    features = [random_filters(video) for video, _ in clips]
    truth = Tracks.stack([tracks for _, tracks in clips])
    q, k = torch.stack([f.q for f in features]), torch.stack([f.k for f in features])
    query, _ = queries_from_truth(truth)

    def score() -> tuple[float, float]:
        """Visible points within 2 px, and visibility guessed right, over both clips."""
        tracks = tracker(Features(q, k, TOKEN_PX), Queries(query, truth.valid, T, SIZE))
        valid = truth.valid[:, :, None].expand_as(truth.visible)
        near = (tracks.xy - truth.xy).norm(dim=-1) <= 2
        return near[valid & truth.visible].float().mean(), (tracks.visible == truth.visible)[valid].float().mean()

    standing_still, _ = score()
    optimizer = torch.optim.AdamW(tracker.head.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, STEPS, pct_start=0.2)
    for _ in range(STEPS):
        loss = track_loss(tracker.head(q, k, query, truth.valid, TOKEN_PX), truth, W, TrackLossConfig())
        optimizer.zero_grad()
        loss.total.backward()
        torch.nn.utils.clip_grad_norm_(tracker.head.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    near, guessed = score()
    assert standing_still < 0.4
    assert near > 0.85
    assert guessed > 0.85


def test_head_imports_with_torch_and_einops_alone():
    hidden = "import sys; sys.modules.update(dict.fromkeys(['jaxtyping', 'safetensors', 'mvtrack'])); "
    code = hidden + "import tracking_head; tracking_head.TrackingHead(tracking_head.HeadConfig(dim=16, layers=1))"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
