import importlib.util
from copy import deepcopy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from mvtrack.config.encoders import CodecConfig
from mvtrack.geometry.camera import Camera, intrinsics_from_fov
from mvtrack.models.decoder.hosted import recompute
from mvtrack.models.decoder.scene import DecoderScene
from mvtrack.models.decoder.wan import BLOCKS, WanAligner
from mvtrack.models.diffsynth_parts import diffsynth_module
from mvtrack.models.wan_vae import WanVAECodec

pytestmark = pytest.mark.skipif(not importlib.util.find_spec("diffsynth"), reason="diffsynth is not installed")

WIDTH, CHANNELS, ROWS, COLUMNS = 4, 16, 3, 5


def lively_network(width: int, seed: int = 5) -> torch.nn.Module:
    """DiffSynth's VAE of random weights; its attention and its head say something."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = diffsynth_module("wan_video_vae").VideoVAE_(dim=width).eval().requires_grad_(False)
        for name, parameter in network.named_parameters():
            if "proj" in name or "to_qkv" in name:
                torch.nn.init.normal_(parameter, std=0.3)
    network.decoder.head[-1].weight.mul_(2)
    return network


def codec_of(network: torch.nn.Module, **settings) -> WanVAECodec:
    codec = WanVAECodec(CodecConfig(kind="wan_vae", channels=CHANNELS, stride=8, weights="put in", **settings))
    codec.put_in(network)
    return codec


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    return lively_network(WIDTH)


@pytest.fixture
def codec(network) -> WanVAECodec:
    return codec_of(network)


def latents_of(views: int, frames: int) -> torch.Tensor:
    return torch.randn(views, frames, CHANNELS, ROWS, COLUMNS, generator=torch.Generator().manual_seed(3))


def scene_of(views: int, latent_frames: int) -> DecoderScene:
    """Cameras side by side before an uneven surface; view 0 is a real picture."""
    frames, size = 4 * (latent_frames - 1) + 1, (8 * ROWS, 8 * COLUMNS)
    generator = torch.Generator().manual_seed(11)
    c2w = torch.eye(4).repeat(views, frames, 1, 1)
    c2w[..., 0, 3] = 0.3 * torch.arange(views)[:, None] + 0.01 * torch.arange(frames)
    camera = Camera(c2w, intrinsics_from_fov(60.0, size).expand(views, frames, 3, 3), size)
    coarse = torch.rand(views, frames, 3, 4, generator=generator)
    depth = 2 + F.interpolate(coarse, size, mode="bilinear", align_corners=False)
    return DecoderScene.of(camera, depth, {0: torch.rand(frames, 3, *size, generator=generator) * 2 - 1})


def aligner_of(width: int = WIDTH, sources: int = 1, lively: bool = True) -> WanAligner:
    with torch.random.fork_rng():
        torch.manual_seed(13)
        aligner = WanAligner(width, points=(3, 5, 2, 1), dim=7, sources=sources)
        if lively:
            for level in aligner.levels:
                torch.nn.init.normal_(level.out.weight)
    return aligner


@torch.no_grad()
def decoded_together(codec: WanVAECodec, latents: torch.Tensor) -> torch.Tensor:
    """All views as one batch, which rounds otherwise than one video after the other, without an aligner."""
    step = codec.decoder()
    return torch.cat([step(latents[:, i]) for i in range(latents.shape[1])], 1).clamp(-1, 1)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("views", [2, 3])
@torch.no_grad()
def test_untrained_aligner_is_bit_exact(views, precision):
    codec = codec_of(lively_network(WIDTH).to(getattr(torch, precision)), precision=precision)
    latents = latents_of(views, 3)
    decoded = aligner_of(lively=False).decode(codec, latents, scene_of(views, 3))
    assert decoded.shape == (views, 9, 3, 8 * ROWS, 8 * COLUMNS)
    assert decoded.dtype == torch.float32
    assert torch.equal(decoded, decoded_together(codec, latents))
    tolerance = 1e-4 if precision == "float32" else 0.05
    torch.testing.assert_close(decoded, codec.decode(latents[None])[0], atol=tolerance, rtol=0)
    assert (decoded.abs() == 1).float().mean() < 0.1


@torch.no_grad()
def test_named_views_alone_follow_others(codec):
    latents, scene, aligner = latents_of(2, 3), scene_of(2, 3), aligner_of()
    plain, decoded = decoded_together(codec, latents), aligner.decode(codec, latents, scene)
    assert decoded.isfinite().all()
    assert decoded.abs().max() <= 1
    assert all((decoded[view, t] - plain[view, t]).abs().max() > 0.01 for view in range(2) for t in range(9))
    second = aligner.decode(codec, latents, scene, views=(1,))
    assert torch.equal(second[0], plain[0])
    assert (second[1] - plain[1]).abs().max() > 0.01


@torch.no_grad()
def test_decoding_is_causal(codec):
    latents, scene, aligner = latents_of(2, 3), scene_of(2, 3), aligner_of()
    whole = aligner.decode(codec, latents, scene)
    short = DecoderScene(scene.camera[:, :5], scene.depth[:, :5], scene.pixels[:, :5], scene.radius)
    assert torch.equal(aligner.decode(codec, latents[:, :2], short), whole[:, :5])


@pytest.mark.parametrize("latent_frames", [1, 3])
def test_levels_ask_about_their_own_frames(codec, monkeypatch, latent_frames):
    asked, at = [], DecoderScene.at

    def spy(scene, frames, size):
        asked.append((frames, size))
        return at(scene, frames, size)

    monkeypatch.setattr(DecoderScene, "at", spy)
    aligner_of().decode(codec, latents_of(2, latent_frames), scene_of(2, latent_frames))
    frames = [[0], [0], [0], [0]]
    frames += [[4], [2, 4], [1, 2, 3, 4], [1, 2, 3, 4]]
    frames += [[8], [6, 8], [5, 6, 7, 8], [5, 6, 7, 8]]
    sizes = [(scale * ROWS, scale * COLUMNS) for scale in (1, 2, 4, 8)]
    expected = list(zip(frames, 3 * sizes, strict=True))
    assert asked == expected[: 4 * latent_frames]


def test_hooks_are_removed(codec, network, monkeypatch):
    aligner, latents, scene = aligner_of(), latents_of(2, 2), scene_of(2, 2)
    before = codec.decode(latents[None])
    aligner.decode(codec, latents, scene)
    assert not any(module._forward_hooks for module in network.modules())

    def fail(*_):
        raise RuntimeError("in the middle")

    monkeypatch.setattr(aligner.levels[2], "forward", fail)
    with pytest.raises(RuntimeError, match="in the middle"):
        aligner.decode(codec, latents, scene)
    assert not any(module._forward_hooks for module in network.modules())
    assert torch.equal(codec.decode(latents[None]), before)


def test_gradients_reach_aligner_not_vae(codec, network):
    aligner = aligner_of(sources=2)
    aligner.decode(codec, latents_of(3, 2), scene_of(3, 2)).square().mean().backward()
    for name, parameter in aligner.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        # a ray of one point has one answer, whatever is asked
        fixed = name.startswith("levels.3.") and any(part in name for part in ("query", "key"))
        assert fixed or parameter.grad.abs().max() > 0, name
    assert all(parameter.grad is None for parameter in network.parameters())


def test_recomputed_activations_give_the_same_gradients(codec, network):
    """Bit by bit, through what the VAE remembers of earlier latent frames."""
    aligner, found = aligner_of(), []
    aligner.adopt(deepcopy(network.decoder))
    for on in (False, True):
        recompute(aligner, on)
        aligner.zero_grad()
        _, made = aligner(codec, latents_of(2, 3), scene_of(2, 3), (1,), 9, torch.Generator().manual_seed(1))
        made[1].square().mean().backward()
        found.append([made.detach(), *(p.grad.clone() for p in aligner.parameters())])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
    assert all("forward" not in vars(block) for block in aligner.blocks_of(aligner.host))


def test_gradients_reach_untrained_aligner(codec):
    aligner = aligner_of(lively=False)
    aligner.decode(codec, latents_of(2, 2), scene_of(2, 2)).square().mean().backward()
    assert all(level.out.weight.grad.abs().max() > 0 for level in aligner.levels)


@pytest.mark.parametrize("width", [WIDTH, 6, 96])
def test_levels_have_full_size_channels(width):
    with torch.device("meta"):
        network, latent = diffsynth_module("wan_video_vae").VideoVAE_(dim=width), torch.zeros(2, CHANNELS, 3, 5)
    found, aligner, step = [], aligner_of(width), codec_of(network).decoder()
    for block in BLOCKS:
        network.decoder.upsamples[block].register_forward_hook(lambda *call: found.append(tuple(call[2][0].shape)))
    step(latent)
    step(latent)
    sizes = [(scale * ROWS, scale * COLUMNS) for scale in (1, 2, 4, 8)]
    for frames, features in (((1, 1, 1, 1), found[:4]), ((1, 2, 4, 4), found[4:])):
        levels = zip(aligner.channels, frames, sizes, strict=True)
        assert features == [(2, channels, count, *size) for channels, count, size in levels]
    assert aligner.channels == (4 * width, 4 * width, 2 * width, width)
    assert [len(level.norm.weight) for level in aligner.levels] == list(aligner.channels)


def test_aligner_of_other_width_raises(codec):
    latents, scene = latents_of(2, 2), scene_of(2, 2)
    with pytest.raises(ValueError, match=r"for a VAE of width 6 with \(24, 24, 12, 6\).*got one of width 4"):
        aligner_of(6).decode(codec, latents, scene)
    assert aligner_of(6).decode(codec_of(lively_network(6)), latents, scene).isfinite().all()


# Tiles


def test_one_tile_is_the_whole_picture(codec, network):
    latents, scene, aligner = latents_of(2, 3), scene_of(2, 3), aligner_of().requires_grad_(False)
    whole = aligner.decode(codec, latents, scene, views=(1,))
    tiled = aligner.decode(codec_of(network, tile=(ROWS, COLUMNS)), latents, scene, views=(1,))
    torch.testing.assert_close(tiled, whole, atol=2e-4, rtol=0)


def test_tiles_ask_whole_views(network):
    """Two tiles, columns 0 to 24 and 16 to 40. What the first one sees lies beyond column 24 of the other view."""
    latents, scene, aligner = latents_of(2, 2), scene_of(2, 2), aligner_of().requires_grad_(False)
    c2w = scene.camera.c2w.clone()
    c2w[1, :, 0, 3] += 1.2
    scene = replace(scene, camera=replace(scene.camera, c2w=c2w))
    codec = codec_of(network, tile=(ROWS, 3), tile_stride=(ROWS, 2))
    tiled = aligner.decode(codec, latents, scene, views=(1,))
    plain = codec.decode(latents[None])[0]
    torch.testing.assert_close(tiled[0], plain[0], atol=1e-4, rtol=0)
    other = scene.pixels.clone()
    other[0, :, :3, :, 25:] *= -1
    changed = aligner.decode(codec, latents, replace(scene, pixels=other), views=(1,))
    first = (tiled - changed)[1, ..., :16].abs()
    assert first.max() > 0.01
    assert torch.equal(changed[0], tiled[0])


def test_undecodable_latents_raise(codec, network):
    aligner, latents, scene = aligner_of(), latents_of(2, 2), scene_of(2, 2)
    with pytest.raises(ValueError, match="leave out --tiled"):
        aligner.decode(codec_of(network, tile=(2, 3)), latents, scene)
    with pytest.raises(ValueError, match=r"must be \(V, N, H, W\) = \(2, 5, 24, 40\), got \(3, 5, 24, 40\)"):
        aligner.decode(codec, latents, scene_of(3, 2))
    with pytest.raises(ValueError, match=r"must be \(V, N, H, W\) = \(2, 5, 24, 40\), got \(2, 1, 24, 40\)"):
        aligner.decode(codec, latents, scene_of(2, 1))
    with pytest.raises(ValueError, match="this VAE have 16 channels, got 5"):
        aligner.decode(codec, latents[:, :, :5], scene)


def test_aligner_and_vae_keys_stay_apart(codec, network):
    aligner, keys = aligner_of(), set(network.state_dict())
    aligner.decode(codec, latents_of(2, 1), scene_of(2, 1))
    assert set(network.state_dict()) == keys
    assert not keys & set(aligner.state_dict())
    assert all(key.startswith("levels.") for key in aligner.state_dict())
    assert codec.state_dict() == {}
