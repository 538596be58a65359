import pytest
import torch

from mvtrack.config.encoders import CodecConfig
from mvtrack.models.pca_codec import PCACodec

V, T, H, W = 2, 9, 12, 20


def videos(count: int = 3) -> list[torch.Tensor]:
    """Smooth moving waves."""
    out = []
    g = torch.Generator().manual_seed(1)
    y, x, t = torch.meshgrid(torch.arange(H) / H, torch.arange(W) / W, torch.arange(T) / T, indexing="ij")
    for _ in range(count * V):
        f = torch.randn(3, 3, generator=g) * 2
        waves = [torch.sin(6.28 * (f[c, 0] * y + f[c, 1] * x + f[c, 2] * t)) for c in range(3)]
        out.append(torch.stack(waves).permute(3, 0, 1, 2))
    return list(torch.stack(out).view(count, V, T, 3, H, W))


def fitted(channels: int, whitening: float = 0.5) -> PCACodec:
    codec = PCACodec(CodecConfig(channels=channels, stride=4, whitening=whitening))
    codec.fit(videos(), whitening)
    return codec


def test_full_rank_pca_is_exact():
    codec, video = fitted(192), torch.stack(videos(2))
    latents = codec.encode(video)
    assert latents.shape == (2, V, 3, 192, 3, 5)
    torch.testing.assert_close(codec.decode(latents), video, atol=2e-4, rtol=0)


def test_pca_error_falls_with_channels():
    video = torch.stack(videos(1))
    errors = [(c.decode(c.encode(video)) - video).square().mean() for c in (fitted(4), fitted(16), fitted(48))]
    assert errors[0] > 2 * errors[1] > 4 * errors[2]


@pytest.mark.parametrize("whitening", [0.0, 0.5, 1.0])
def test_pca_latents_have_unit_scale(whitening):
    latents = fitted(16, whitening).encode(torch.stack(videos()))
    assert latents.square().mean().sqrt() == pytest.approx(1, rel=0.02)
    spread = latents.std((0, 1, 2, 4, 5))
    if whitening == 1:
        torch.testing.assert_close(spread, torch.ones(16), atol=0.05, rtol=0)
    else:
        assert spread[0] > 1.5 * spread[-1]


def test_pca_encoding_is_causal():
    """Latents of a shorter video are the first latents of a longer one."""
    codec, video = fitted(16), torch.stack(videos(1))
    torch.testing.assert_close(codec.encode(video[:, :, :5]), codec.encode(video)[:, :, :2])


def test_pca_fit_is_reproducible():
    first, second = fitted(16), fitted(16)
    assert torch.equal(first.basis, second.basis)
    assert (first.basis.gather(0, first.basis.abs().argmax(0, keepdim=True)) > 0).all()


def test_invalid_lengths_and_sizes_raise():
    codec = fitted(16)
    with pytest.raises(ValueError, match=r"4n \+ 1 frames, got 8; nearest are 5 and 9"):
        codec.encode(torch.zeros(1, 1, 8, 3, H, W))
    with pytest.raises(ValueError, match="12x18 is not divisible"):
        codec.encode(torch.zeros(1, 1, 5, 3, 12, 18))
    with pytest.raises(ValueError, match="exceeds the 192 values"):
        PCACodec(CodecConfig(channels=200, stride=4))
