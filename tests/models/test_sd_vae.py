"""Stable Diffusion's VAE as a codec: diffusers' own numbers, views apart, and files of every age."""

import json

import pytest
import torch
from safetensors.torch import save_file

from mvtrack.config.encoders import CodecConfig
from mvtrack.models.encoders import codec_id
from mvtrack.models.pca_codec import VideoCodec, build_codec
from mvtrack.models.sd_vae import SD_SCALING, SDXL_SCALING, empty_autoencoder
from mvtrack.models.weights.sources import resolve

SIZES = {
    "block_out_channels": (4, 8, 8, 8), "layers_per_block": 1, "latent_channels": 4, "norm_num_groups": 4,
    "down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4,
}  # fmt: skip


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(5)
    return empty_autoencoder("sd_vae", SIZES).eval()


@pytest.fixture
def folder(network, tmp_path):
    """A pipeline's folder with the small network in it."""
    path = tmp_path / "pipeline"
    network.save_pretrained(path / "vae")
    return path


def codec(weights, scaling=SD_SCALING, **settings) -> VideoCodec:
    return build_codec(
        CodecConfig(kind="sd_vae", channels=4, stride=8, weights=str(weights), scaling=scaling, **settings)
    )


def test_latents_and_pictures_are_diffusers(network, folder, generator):
    ours, video = codec(folder), torch.rand(2, 3, 1, 3, 16, 24, generator=generator) * 2 - 1
    assert isinstance(ours, VideoCodec)
    latents = ours.encode(video)
    assert latents.shape == (2, 3, 1, 4, 2, 3)
    with torch.no_grad():
        theirs = network.encode(video[1, 2]).latent_dist
        shown = network.decode(latents[1, 2] / 0.18215).sample.clamp(-1, 1)
    torch.testing.assert_close(latents[1, 2], 0.18215 * theirs.mean, atol=2e-6, rtol=0)
    torch.testing.assert_close(ours.decode(latents)[1, 2], shown, atol=2e-6, rtol=0)
    assert torch.equal(ours.encode(video[1:, 2:]), latents[1:, 2:])
    assert ours.state_dict() == {}


def test_posterior_is_sampled_for_training(network, folder, generator):
    ours, video = codec(folder), torch.rand(1, 2, 1, 3, 16, 24, generator=generator) * 2 - 1
    drawn = torch.stack([ours.encode(video, torch.Generator().manual_seed(seed)) for seed in range(64)])
    assert torch.equal(drawn[3], ours.encode(video, torch.Generator().manual_seed(3)))
    with torch.no_grad():
        deviation = SD_SCALING * network.encode(video[0, 1]).latent_dist.std
    # six standard errors of the mean of 64 draws
    assert ((drawn.mean(0) - ours.encode(video))[0, 1].abs() <= 6 / 8 * deviation).all()
    assert drawn.std(0)[0, 1].div(deviation).mean().item() == pytest.approx(1, abs=0.1)


def test_files_before_2023_name_attention_otherwise(network, folder, generator):
    video = torch.rand(1, 1, 1, 3, 16, 16, generator=generator)
    expected = codec(folder).encode(video)
    names = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
    state = {}
    for name, x in network.state_dict().items():
        old = next((old for old in names if old in name), ".")
        state[name.replace(old, names.get(old, "."))] = x.contiguous()
    assert sum(".query." in name for name in state) == 4
    save_file(state, folder / "vae/diffusion_pytorch_model.safetensors")
    assert torch.equal(codec(folder).encode(video), expected)


def test_full_size_names_are_the_released_ones(released_shapes):
    with torch.device("meta"):
        own = {name: tuple(x.shape) for name, x in empty_autoencoder().state_dict().items()}
    assert own == released_shapes("sd2.1_vae_diffusers")


def test_cache_key_follows_weights_and_scaling(folder):
    assert codec_id(codec(folder)) == codec_id(codec(resolve(folder, "vae")))
    assert codec_id(codec(folder)) != codec_id(codec(folder, SDXL_SCALING))


def test_unfit_files_and_inputs_are_refused(folder, unchecked):
    ours = codec(folder)
    with pytest.raises(ValueError, match="still views of one frame each, got 5"):
        ours.encode(torch.zeros(1, 1, 5, 3, 16, 16))
    with pytest.raises(ValueError, match="16x20 is not divisible by the codec's stride 8"):
        ours.encode(torch.zeros(1, 1, 1, 3, 16, 20))
    with pytest.raises(ValueError, match="latents of sd_vae have 1 frame and 4 channels, got 1 and 16"):
        ours.decode(torch.zeros(1, 1, 1, 16, 2, 2))
    with pytest.raises(ValueError, match=r"scales latents by 0.18215, codec.scaling is 0.13025"):
        codec(folder, SDXL_SCALING).encode(torch.zeros(1, 1, 1, 3, 16, 16))
    described = folder / "vae/config.json"
    config = json.loads(described.read_text())
    described.write_text(json.dumps(config | {"layers_per_block": 2}))
    with pytest.raises(ValueError, match="does not fit the model"):
        codec(folder).encode(torch.zeros(1, 1, 1, 3, 16, 16))
    described.write_text(json.dumps(config | {"_class_name": "AutoencoderTiny"}))
    with pytest.raises(ValueError, match="is of a AutoencoderTiny: sd_vae needs an AutoencoderKL"):
        codec(folder).encode(torch.zeros(1, 1, 1, 3, 16, 16))
    with pytest.raises(ValueError, match="codec.scaling is for codec.kind: sd_vae and svd_vae, which need it"):
        CodecConfig(kind="sd_vae", channels=4, stride=8, weights="x")
    with pytest.raises(ValueError, match="sd_vae has codec.channels 4 and codec.stride 8, got 16 and 8"):
        CodecConfig(kind="sd_vae", channels=16, stride=8, weights="x", scaling=1.0)
