"""The decoder behind the tiny models' codec, and the files of decoders."""

import pytest
import torch
from safetensors.torch import save_file

from mvtrack.config.encoders import CodecConfig
from mvtrack.geometry.camera import Camera, intrinsics_from_fov
from mvtrack.geometry.trajectory import CameraPath
from mvtrack.models.decoder.files import FILE, load_aligner, save_aligner
from mvtrack.models.decoder.scene import DecoderScene
from mvtrack.models.decoder.small import SmallAligner
from mvtrack.models.pca_codec import PCACodec

V, T, H, W = 2, 5, 12, 20
PCA = CodecConfig(channels=12, stride=4)


@pytest.fixture
def codec(generator) -> PCACodec:
    codec = PCACodec(PCA)
    codec.fit([torch.rand(V, T, 3, H, W, generator=generator) * 2 - 1 for _ in range(3)], 0.5)
    return codec


@pytest.fixture
def scene(generator) -> DecoderScene:
    poses = torch.stack([torch.eye(4).expand(T, 4, 4), CameraPath("arc_left").poses(T).float()])
    camera = Camera(poses, intrinsics_from_fov(50.0, (H, W)).expand(V, T, 3, 3), (H, W))
    depth = 4 + torch.rand(V, T, H, W, generator=generator)
    return DecoderScene.of(camera, depth, {0: torch.rand(T, 3, H, W, generator=generator) * 2 - 1})


@pytest.fixture
def latents(generator) -> torch.Tensor:
    return torch.randn(V, 2, 12, H // 4, W // 4, generator=generator)


def lively(aligner: SmallAligner) -> SmallAligner:
    torch.manual_seed(3)
    torch.nn.init.normal_(aligner.write.weight, std=0.2)
    for level in aligner.levels:
        torch.nn.init.normal_(level.out.weight, std=0.5)
    return aligner


def test_first_weights_equal_codec(codec, scene, latents):
    with torch.no_grad():
        assert torch.equal(SmallAligner(8).decode(codec, latents, scene), codec.decode(latents[None])[0].clamp(-1, 1))


def test_unasking_views_ignore_others(codec, scene, latents):
    aligner = lively(SmallAligner(8))
    with torch.no_grad():
        first = aligner.decode(codec, latents, scene, (1,))
        other = latents.clone()
        other[0] += 1
        changed = aligner.decode(codec, other, scene, (1,))
        assert (changed[1] - first[1]).abs().max() > 1e-3
        other = latents.clone()
        other[1] += 1
        torch.testing.assert_close(aligner.decode(codec, other, scene, (1,))[0], first[0], atol=1e-5, rtol=0)
        alone = lively(SmallAligner(8, points=()))
        assert not alone.levels
        torch.testing.assert_close(
            alone.decode(codec, other, scene)[0], alone.decode(codec, latents, scene)[0], atol=1e-5, rtol=0
        )


def test_existing_pictures_change_result(codec, scene, latents):
    aligner = lively(SmallAligner(8))
    shown = DecoderScene.of(scene.camera, scene.depth)
    with torch.no_grad():
        found, blind = (aligner.decode(codec, latents, s, (1,)) for s in (scene, shown))
    assert (found[1] - blind[1]).abs().max() > 1e-3


def test_training_step_decodes_named_frames(codec, scene, latents, generator):
    aligner = SmallAligner(8)
    at, made = aligner(codec, latents, scene, (1,), 3, generator)
    assert len(set(at)) == 3
    assert at == sorted(at)
    torch.testing.assert_close(made, codec.decode(latents[None])[0][:, at])
    made[1].square().mean().backward()
    assert aligner.write.weight.grad.abs().max() > 0


def test_odd_picture_sizes_raise(scene):
    with pytest.raises(ValueError, match="pictures must be divisible by 4, got 10x20"):
        SmallAligner(8).frames(torch.zeros(V, 1, 3, 10, 20), scene, [0])
    with pytest.raises(ValueError, match="a small decoder has 3 levels"):
        SmallAligner(8, points=(7, 7))


def test_decoder_file_round_trips(codec, scene, latents, tmp_path):
    aligner = lively(SmallAligner(8, points=(3, 5, 2), dim=16))
    path = save_aligner(aligner, PCA, tmp_path)
    assert path == tmp_path / FILE
    for source in (tmp_path, path):
        loaded = load_aligner(source, PCA)
        assert loaded.settings == aligner.settings
        with torch.no_grad():
            assert torch.equal(loaded.decode(codec, latents, scene), aligner.decode(codec, latents, scene))


def test_foreign_decoder_files_raise(tmp_path):
    with pytest.raises(ValueError, match=f"no decoder at {tmp_path / FILE}"):
        load_aligner(tmp_path, PCA)
    save_file({"a": torch.zeros(2)}, tmp_path / FILE)
    with pytest.raises(ValueError, match="is no decoder of this project"):
        load_aligner(tmp_path, PCA)
    (tmp_path / FILE).write_bytes(b"half")
    with pytest.raises(ValueError, match="is not a whole safetensors file"):
        load_aligner(tmp_path, PCA)
    path = save_aligner(SmallAligner(8), PCA, tmp_path)
    wan = CodecConfig(kind="wan_vae", channels=16, stride=8, weights="maker/vae")
    with pytest.raises(ValueError, match=f"{path} stands behind the codec pca, the model has wan_vae"):
        load_aligner(tmp_path, wan)
