import importlib.util
import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from mvtrack.config.encoders import CodecConfig
from mvtrack.models.pca_codec import VideoCodec, build_codec
from tests.inference.test_ranks import run

needs_diffsynth = pytest.mark.skipif(not importlib.util.find_spec("diffsynth"), reason="diffsynth is not installed")


def codec(weights, **settings) -> VideoCodec:
    return build_codec(CodecConfig(kind="wan_vae", channels=16, stride=8, weights=str(weights), **settings))


def waves(*shape: int) -> torch.Tensor:
    g = torch.Generator().manual_seed(2)
    coarse = torch.randn(*shape[:-2], 3, 4, generator=g).flatten(0, -4)
    fine = torch.nn.functional.interpolate(coarse, shape[-2:], mode="bicubic", align_corners=False)
    return fine.view(shape).clamp(-1, 1)


@needs_diffsynth
@pytest.mark.shared
def test_golden_vae(shared, tmp_path):
    file = safe_open(shared("golden/backbones/vae.safetensors"), "pt")
    state = {k[2:]: file.get_tensor(k) for k in file.keys() if k.startswith("w.")}  # noqa: SIM118
    assert len(state) == 194
    save_file(state, tmp_path / "vae.safetensors")  # with DiffSynth's leading `model.`
    ours = codec(tmp_path / "vae.safetensors")
    assert isinstance(ours, VideoCodec)
    given = {name: file.get_tensor(name).transpose(1, 2)[:, None] for name in file.keys() if name[0] in "io"}  # noqa: SIM118
    latents = ours.encode(given["in.video"])
    torch.testing.assert_close(latents, given["out.latents"], atol=1e-5, rtol=0)
    torch.testing.assert_close(ours.decode(given["out.latents"]), given["out.video"], atol=5e-5, rtol=0)
    torch.testing.assert_close(ours.decode(given["in.latents"]), given["out.video_from_latents"], atol=5e-5, rtol=0)


@needs_diffsynth
@pytest.mark.gpu
def test_vae_on_gpu_equals_cpu(wan_vae_file):
    video, there, here = waves(1, 2, 5, 3, 16, 32), codec(wan_vae_file), codec(wan_vae_file)
    there.to("cuda")
    with torch.backends.cudnn.flags(allow_tf32=False):
        latents = there.encode(video.cuda())
        torch.testing.assert_close(latents.cpu(), here.encode(video), atol=1e-3, rtol=0)
        torch.testing.assert_close(there.decode(latents).cpu(), here.decode(latents.cpu()), atol=1e-3, rtol=0)


@needs_diffsynth
def test_vae_keeps_samples_and_views_apart(wan_vae_file):
    ours, video = codec(wan_vae_file, tile=(2, 3), tile_stride=(2, 2)), waves(2, 2, 5, 3, 16, 32)
    latents = ours.encode(video)
    assert latents.shape == (2, 2, 2, 16, 2, 4)
    assert torch.equal(ours.encode(video[1:, 1:]), latents[1:, 1:])
    decoded = ours.decode(latents)
    assert decoded.shape == video.shape
    assert torch.equal(ours.decode(latents[:1, 1:]), decoded[:1, 1:])
    assert (latents[0, 0] - latents[1, 1]).abs().max() > 0.1


@needs_diffsynth
@pytest.mark.parametrize(("tile", "stride"), [(None, None), ((3, 4), (2, 3)), ((5, 3), None)])
def test_latents_and_videos_equal_diffsynths(wan_vae_peer, wan_vae_file, tile, stride):
    ours, video = codec(wan_vae_file, tile=tile, tile_stride=stride), waves(1, 1, 5, 3, 32, 40)
    chosen = {"tiled": bool(tile), "tile_size": tile, "tile_stride": stride or (3, 2)}
    latents = ours.encode(video)
    theirs = wan_vae_peer.encode(video[:, 0].transpose(1, 2), "cpu", **chosen)
    torch.testing.assert_close(latents[:, 0].transpose(1, 2), theirs, atol=2e-5, rtol=0)
    theirs = wan_vae_peer.decode(theirs, "cpu", **chosen)
    torch.testing.assert_close(ours.decode(latents)[:, 0].transpose(1, 2), theirs, atol=1e-4, rtol=0)
    assert not tile or (latents - codec(wan_vae_file).encode(video)).abs().max() > 1e-3


@needs_diffsynth
def test_vae_streams_equal_whole_videos(wan_vae_file):
    ours, video = codec(wan_vae_file), waves(9, 3, 24, 32)
    latents = ours.encode(video[None, None])[0, 0]
    streamed = list(ours.encode_stream(iter([video[:3], video[3:4], video[4:]])))
    assert [len(piece) for piece in streamed] == [1, 1, 1]
    assert torch.equal(torch.cat(streamed), latents)
    decoded = list(ours.decode_stream(iter([latents[:2], latents[2:]])))
    assert [len(piece) for piece in decoded] == [1, 4, 4]
    assert torch.equal(torch.cat(decoded), ours.decode(latents[None, None])[0, 0])
    with pytest.raises(ValueError, match=r"4n \+ 1 frames, got 8; nearest are 5 and 9"):
        list(ours.encode_stream([video[:8]]))


@needs_diffsynth
def test_vae_encoding_is_causal(wan_vae_file):
    ours, video = codec(wan_vae_file), waves(1, 1, 9, 3, 24, 32)
    whole = ours.encode(video)
    torch.testing.assert_close(ours.encode(video[:, :, :5]), whole[:, :, :2])
    torch.testing.assert_close(ours.encode(video[:, :, :1]), whole[:, :, :1])
    assert ours.decode(whole[:, :, :1]).shape == (1, 1, 1, 3, 24, 32)


@needs_diffsynth
def test_vae_in_bfloat16_stays_close(wan_vae_file):
    video = waves(1, 1, 5, 3, 24, 32)
    exact, half = codec(wan_vae_file).encode(video), codec(wan_vae_file, precision="bfloat16").encode(video)
    assert half.dtype == torch.float32
    assert 0 < (half - exact).std() < 0.05 * exact.std()


def test_invalid_input_raises():
    ours = codec("nowhere/Wan2.1_VAE.pth")
    with pytest.raises(ValueError, match=r"4n \+ 1 frames, got 8"):
        ours.encode(torch.zeros(1, 1, 8, 3, 24, 32))
    with pytest.raises(ValueError, match="24x36 is not divisible by the codec's stride 8"):
        ours.encode(torch.zeros(1, 1, 5, 3, 24, 36))
    with pytest.raises(ValueError, match="this VAE have 16 channels, got 5"):
        ours.decode(torch.zeros(1, 1, 2, 5, 3, 4))
    with pytest.raises(ValueError, match="weights nowhere/Wan2.1_VAE.pth do not exist"):
        ours.encode(torch.zeros(1, 1, 1, 3, 8, 8))
    assert ours.state_dict() == {}


def test_missing_package_names_extra(tmp_path, monkeypatch, released_vae):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"need the package diffsynth: pip install -e '.\[wan\]'"):
        codec(released_vae).encode(torch.zeros(1, 1, 1, 3, 8, 8))


@pytest.fixture
def released_vae(tmp_path):
    names = {"encoder.conv1.weight": (4, 3, 3, 3, 3), "conv2.weight": (16, 16, 1, 1, 1)}
    names |= {"decoder.middle.0.residual.0.gamma": (16, 1, 1, 1)}
    torch.save({name: torch.zeros(shape) for name, shape in names.items()}, tmp_path / "Wan2.1_VAE.pth")
    return tmp_path / "Wan2.1_VAE.pth"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "pca", "tile": (3, 4)}, "are for codec.kind: wan_vae"),
        ({"kind": "wan_vae", "weights": "x"}, "channels 16 and codec.stride 8, got 32 and 4"),
        ({"kind": "wan_vae", "channels": 16, "stride": 8}, "needs codec.weights"),
        ({"kind": "wan_vae", "channels": 16, "stride": 8, "weights": "x", "tile_stride": (2, 2)}, "needs codec.tile"),
        (
            {"kind": "wan_vae", "channels": 16, "stride": 8, "weights": "x", "tile": (3, 4), "tile_stride": (2, 5)},
            r"tile_stride \(2, 5\) must lie in \[1, codec.tile\]",
        ),
    ],
)
def test_conflicting_settings_raise(settings, message):
    with pytest.raises(ValueError, match=message):
        CodecConfig(**settings)


@needs_diffsynth
@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 3])
def test_processes_share_tiles(wan_vae_file, count):
    done = run(count, str(wan_vae_file))
    assert done.returncode == 0, done.stderr[-3000:]
    figures = json.loads(done.stdout.splitlines()[-1])
    assert figures["latents"] == figures["pictures"] == 0
    assert figures["whole"] > 1e-4  # tiles were what was compared


@needs_diffsynth
def test_fused_norms_change_nothing(wan_vae_file, monkeypatch):
    """What is compiled, run as it is: the shape checks of the tests cannot be compiled (compile_worker.py does)."""
    sizes = []
    monkeypatch.setattr(
        torch, "compile", lambda function, dynamic: lambda x, *rest: sizes.append(x) or function(x, *rest)
    )
    plain, fused, video = codec(wan_vae_file), codec(wan_vae_file), waves(1, 1, 5, 3, 16, 32)
    fused.compiled = True
    latents = plain.encode(video)
    assert torch.equal(fused.encode(video), latents)
    assert sizes
    assert torch.equal(fused.decode(latents), plain.decode(latents))
    norms = [m for m in fused.network(latents.device).modules() if type(m).__name__ == "RMS_norm"]
    assert len([m for m in norms if "forward" not in vars(m)]) == 2, "the two that stand before attention"
    assert len(norms) > 20
