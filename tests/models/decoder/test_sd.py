"""The aligner behind Stable Diffusion's and Stable Video Diffusion's decoders, and the latter's golden numbers."""

import json
from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open

from mvtrack.config.encoders import CodecConfig
from mvtrack.geometry.camera import Camera, intrinsics_from_fov
from mvtrack.models.decoder.files import load_aligner, save_aligner
from mvtrack.models.decoder.hosted import recompute
from mvtrack.models.decoder.scene import DecoderScene
from mvtrack.models.decoder.sd import SDAligner
from mvtrack.models.pca_codec import build_codec
from mvtrack.models.sd_vae import SDVAECodec, SVDVAECodec, empty_autoencoder

ROWS, COLUMNS, WIDTH = 2, 3, 32
SIZES = {
    "block_out_channels": (WIDTH, 2 * WIDTH, 4 * WIDTH, 4 * WIDTH), "layers_per_block": 2, "latent_channels": 4,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
}  # fmt: skip
KINDS = ("sd_vae", "svd_vae")


def small_network(kind: str) -> torch.nn.Module:
    """Of random weights; views mix in it."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        network = empty_autoencoder(kind, SIZES).eval().requires_grad_(False)
        for name, x in network.named_parameters():
            if "mix_factor" in name or "time_conv_out" in name:
                torch.nn.init.normal_(x, std=0.3)
    return network


def config_of(kind: str) -> CodecConfig:
    return CodecConfig(kind=kind, channels=4, stride=8, weights="put in", scaling=0.18215)


@pytest.fixture(scope="module", params=KINDS)
def codec(request) -> SDVAECodec:
    codec = build_codec(config_of(request.param))
    codec.put_in(small_network(request.param))
    return codec


def scene_of(views: int, moments: int = 1, projection: str = "perspective") -> DecoderScene:
    """Cameras side by side before an uneven surface; view 0 is a real picture."""
    size, generator = (8 * ROWS, 8 * COLUMNS), torch.Generator().manual_seed(11)
    c2w = torch.eye(4).repeat(views, moments, 1, 1)
    c2w[..., 0, 3] = 0.1 * torch.arange(views)[:, None] ** 1.5 + 0.01 * torch.arange(moments)
    intrinsics = intrinsics_from_fov(60.0, size).expand(views, moments, 3, 3)
    camera = Camera(c2w, intrinsics, size, projection=projection)
    coarse = torch.rand(views, moments, 3, 4, generator=generator)
    depth = 2 + F.interpolate(coarse, size, mode="bilinear", align_corners=False)
    return DecoderScene.of(camera, depth, {0: torch.rand(moments, 3, *size, generator=generator) * 2 - 1})


def latents_of(views: int, moments: int = 1) -> torch.Tensor:
    return torch.randn(views, moments, 4, ROWS, COLUMNS, generator=torch.Generator().manual_seed(3))


def aligner_of(lively: bool = True, sources: int = 2) -> SDAligner:
    with torch.random.fork_rng():
        torch.manual_seed(13)
        aligner = SDAligner(WIDTH, points=(3, 5, 2, 1), dim=7, sources=sources)
        if lively:
            for level in aligner.levels:
                torch.nn.init.normal_(level.out.weight)
    return aligner


@torch.no_grad()
def test_untrained_aligner_is_bit_exact(codec):
    latents = latents_of(3, 2)
    plain = torch.stack([codec.decode_together(latents[:, n]) for n in range(2)], 1)
    assert torch.equal(aligner_of(lively=False).decode(codec, latents, scene_of(3, 2)), plain.clamp(-1, 1))
    apart = torch.stack([codec.decode(latents[None, :, n : n + 1])[0, :, 0] for n in range(2)], 1)
    torch.testing.assert_close(apart, plain.clamp(-1, 1), atol=2e-5, rtol=0)  # batches round otherwise


@torch.no_grad()
def test_aligned_view_follows_others_and_hooks_are_gone(codec):
    latents, scene, aligner = latents_of(3), scene_of(3), aligner_of()
    plain, decoded = codec.decode(latents[None])[0], aligner.decode(codec, latents, scene)
    assert all((decoded[view] - plain[view]).abs().max() > 0.01 for view in range(3))
    assert torch.equal(codec.decode(latents[None])[0], plain)
    moved = DecoderScene(scene.camera, scene.depth, scene.pixels.flip(0), scene.radius)
    assert (aligner.decode(codec, latents, moved) - decoded).abs().max() > 0.01


@torch.no_grad()
def test_moments_are_decoded_apart(codec):
    latents, scene, aligner = latents_of(2, 3), scene_of(2, 3), aligner_of()
    whole = aligner.decode(codec, latents, scene)
    for n in range(3):
        alone = aligner.decode(codec, latents[:, n : n + 1], scene.moments(slice(n, n + 1)))
        torch.testing.assert_close(alone[:, 0], whole[:, n], atol=2e-5, rtol=0)


@torch.no_grad()
def test_order_of_views_is_svds_alone():
    """SD's decoder does not mind it, SVD's mixes neighbours."""
    order, changes = [2, 0, 1], {}
    for kind in KINDS:
        codec, aligner, scene = build_codec(config_of(kind)), aligner_of(), scene_of(3)
        codec.put_in(small_network(kind))
        turned = DecoderScene(scene.camera[order], scene.depth[order], scene.pixels[order], scene.radius)
        first = aligner.decode(codec, latents_of(3), scene)[order]
        changes[kind] = (aligner.decode(codec, latents_of(3)[order], turned) - first).abs().max()
    assert changes["sd_vae"] < 1e-4
    assert changes["svd_vae"] > 0.01


@torch.no_grad()
def test_levels_see_features_before_they_are_scaled_up(codec, monkeypatch):
    sizes, at = [], DecoderScene.at
    monkeypatch.setattr(
        DecoderScene, "at", lambda scene, frames, size: (sizes.append((frames, size)), at(scene, frames, size))[1]
    )
    aligner_of().decode(codec, latents_of(2), scene_of(2))
    assert sizes == [([0], (ROWS * 2**i, COLUMNS * 2**i)) for i in range(4)]


def test_orthographic_views_are_aligned_and_gradients_reach_the_aligner(codec):
    aligner, scene = aligner_of(), scene_of(3, 5, "orthographic")
    at, made = aligner(codec, latents_of(3, 5), scene, (1, 2), 2, torch.Generator().manual_seed(1))
    assert len(at) == len(set(at)) == 2
    made[1:].square().mean().backward()
    assert all(parameter.grad.isfinite().all() for parameter in aligner.parameters())
    assert all(level.out.weight.grad.abs().max() > 0 for level in aligner.levels)
    assert all(parameter.grad is None for parameter in codec.network(torch.device("cpu")).parameters())


@pytest.mark.parametrize("tuned", [False, True])
def test_recomputed_activations_give_the_same_gradients(codec, tuned):
    """Bit by bit, with the same points drawn, those of later steps included; blocks are the network's own again."""
    aligner, network, found = aligner_of(), codec.network(torch.device("cpu")), []
    if tuned:
        aligner.adopt(deepcopy(network.decoder))
    decoder = aligner.host or network.decoder
    for on in (False, True):
        recompute(aligner, on)
        aligner.zero_grad()
        generator, runs = torch.Generator().manual_seed(1), []
        hook = decoder.up_blocks[3].resnets[0].register_forward_hook(lambda *_, runs=runs: runs.append(1))
        inner = next(x for x in decoder.up_blocks[3].resnets[0].modules() if isinstance(x, torch.nn.Conv2d))
        counted = inner.register_forward_hook(lambda *_, runs=runs: runs.append(2))
        _, made = aligner(codec, latents_of(3, 2), scene_of(3, 2), (1, 2), 2, generator)
        made[1:].square().mean().backward()
        found.append([*(p.grad.clone() for p in aligner.parameters()), torch.rand(3, generator=generator)])
        assert (runs.count(1), runs.count(2)) == (2, 4 if on else 2)  # two moments
        hook.remove()
        counted.remove()
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
    assert all("forward" not in vars(block) for block in aligner.blocks_of(decoder))


@torch.no_grad()
def test_tuned_decoder_stands_in_while_views_are_aligned(codec, tmp_path):
    """A copy changes nothing; what is tuned in it is there after saving, and the VAE's own stays."""
    plain, latents, scene = aligner_of(), latents_of(2), scene_of(2)
    before, own = plain.decode(codec, latents, scene), codec.decode(latents[None])
    tuned = aligner_of()
    tuned.adopt(deepcopy(codec.network(latents.device).decoder))
    assert torch.equal(tuned.decode(codec, latents, scene), before)
    tuned.host.conv_in.weight.mul_(1.5)
    changed = tuned.decode(codec, latents, scene)
    assert (changed - before).abs().max() > 0.01
    assert torch.equal(codec.decode(latents[None]), own)
    save_aligner(tuned, codec.config, tmp_path / "a")
    loaded = load_aligner(tmp_path / "a", codec.config)
    save_aligner(loaded, codec.config, tmp_path / "b")
    for folder in ("a", "b"):
        assert torch.equal(load_aligner(tmp_path / folder, codec.config).decode(codec, latents, scene), changed)


def test_unfit_scenes_and_networks_are_refused(codec, tmp_path):
    with pytest.raises(ValueError, match=r"must be \(V, N, H, W\) = \(2, 1, 16, 24\), got \(3, 1, 16, 24\)"):
        aligner_of().decode(codec, latents_of(2), scene_of(3))
    with pytest.raises(ValueError, match="this aligner is for a VAE of width 128"):
        SDAligner().decode(codec, latents_of(2), scene_of(2))
    save_aligner(aligner_of(), codec.config, tmp_path)
    again = load_aligner(tmp_path, codec.config)
    assert torch.equal(again.decode(codec, latents_of(2), scene_of(2)),
                       aligner_of().decode(codec, latents_of(2), scene_of(2)))  # fmt: skip
    other = next(kind for kind in KINDS if kind != codec.config.kind)
    with pytest.raises(ValueError, match=f"stands behind the codec {codec.config.kind}, the model has {other}"):
        load_aligner(tmp_path, config_of(other))


def test_full_size_names_are_svds(released_shapes):
    with torch.device("meta"):
        own = {name: tuple(x.shape) for name, x in empty_autoencoder("svd_vae").state_dict().items()}
    assert own == released_shapes("svd_vae_diffusers")


@pytest.mark.shared
@torch.no_grad()
def test_golden_svd_decoder_and_its_levels(shared):
    with safe_open(shared("golden/cameo_backbones/svd_decoder.safetensors"), "pt") as file:
        z = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
        sizes = json.loads(file.metadata()["config"])
    network = empty_autoencoder("svd_vae", sizes).eval()
    network.load_state_dict({name[2:]: x for name, x in z.items() if name.startswith("w.")}, strict=True)
    codec = SVDVAECodec(config_of("svd_vae"))
    codec.put_in(network)
    latents = 0.18215 * z["in.latents"].unflatten(0, (2, 3))
    seen = {name: [] for name in ("mid_block", *(f"up_blocks.{i}.resnets.2" for i in range(4)))}
    for name, kept in seen.items():
        network.decoder.get_submodule(name).register_forward_hook(lambda _m, _i, out, kept=kept: kept.append(out))
    video = torch.cat([codec.decode_together(views) for views in latents])
    torch.testing.assert_close(video, z["out.video"], atol=5e-5, rtol=0)
    for name, kept in seen.items():
        torch.testing.assert_close(torch.cat(kept), z[f"out.{name}"], atol=1e-4, rtol=1e-5)
    apart = torch.cat([codec.decode_together(view[None]) for views in latents for view in views])
    assert (apart - z["out.video"]).abs().max() > 1  # one view at a time
    turned = torch.cat([codec.decode_together(views[[1, 0, 2]])[[1, 0, 2]] for views in latents])
    assert (turned - z["out.video"]).abs().max() > 1  # views in another order
    picture = z["in.image"][:1, None, None].expand(1, 2, 1, -1, -1, -1)
    mean = codec.encode(picture)[0, 0, 0] / 0.18215
    torch.testing.assert_close(mean, z["out.moments"][0, :4], atol=5e-5, rtol=0)
