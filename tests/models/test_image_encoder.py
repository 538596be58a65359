import importlib.util
from types import SimpleNamespace

import pytest
import torch

from mvtrack.models import image_encoder
from mvtrack.models.diffsynth_parts import diffsynth_module
from mvtrack.models.image_encoder import PIXEL_MEAN, PIXEL_STD, embed_images, encode, load_encoder
from mvtrack.models.weights.sources import open_part

needs_diffsynth = pytest.mark.skipif(not importlib.util.find_spec("diffsynth"), reason="diffsynth is not installed")
FILE = "models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth"
HEAD = 5  # width of an attention head


@pytest.fixture(scope="module")
def network():
    module = diffsynth_module("wan_video_image_encoder")
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return module.VisionTransformer(
            image_size=12, patch_size=4, dim=15, mlp_ratio=2, out_dim=7, num_heads=3, num_layers=3, activation="gelu"
        ).eval()


@pytest.fixture
def release(network, tmp_path):
    state = {f"visual.{name}": value for name, value in network.state_dict().items()}
    state |= {"textual.norm.weight": torch.ones(2), "log_scale": torch.zeros(())}
    torch.save(state, tmp_path / FILE)
    return tmp_path


@needs_diffsynth
def test_image_tokens_equal_diffsynth(network, release):
    """DiffSynth's own preprocessing and network on the same weights."""
    module = diffsynth_module("wan_video_image_encoder")
    normalise = lambda x: (x - torch.tensor(PIXEL_MEAN)[:, None, None]) / torch.tensor(PIXEL_STD)[:, None, None]  # noqa: E731
    peer = module.WanImageEncoder.__new__(module.WanImageEncoder)
    torch.nn.Module.__init__(peer)
    peer.model, peer.transforms = (
        SimpleNamespace(image_size=12, visual=network),
        SimpleNamespace(transforms=[normalise]),
    )
    images = torch.rand(2, 3, 17, 23) * 2 - 1
    ours = encode(load_encoder(open_part(release, "image"), torch.float32, HEAD), images)
    with torch.no_grad():
        theirs = peer.encode_image([image[None].clone() for image in images])
    assert ours.shape == (2, 10, 15)
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)
    with torch.no_grad():
        assert (network(torch.rand(2, 3, 12, 12)) - ours).abs().max() > 0.01  # the last layer is left out


@needs_diffsynth
def test_pictures_are_encoded_once(release, tmp_path, monkeypatch):
    loads = []
    monkeypatch.setattr(image_encoder, "load_encoder", lambda *a: loads.append(1) or load_encoder(*a))
    images = torch.rand(3, 3, 8, 9)
    first = embed_images(images[[0, 1, 0]], release, head_width=HEAD, cache=tmp_path / "c")
    assert torch.equal(first[0], first[2])
    assert torch.equal(embed_images(images[:2], release, head_width=HEAD, cache=tmp_path / "c"), first[:2])
    assert len(loads) == 1
    embed_images(images[2:], release, head_width=HEAD, cache=tmp_path / "c")
    assert len(loads) == 2


@needs_diffsynth
def test_pictures_of_a_batch_stay_apart(release, tmp_path):
    images = torch.rand(2, 3, 8, 9)
    tokens = embed_images(images, release, head_width=HEAD, cache=tmp_path / "a")
    alone = embed_images(images[1:], release, head_width=HEAD, cache=tmp_path / "b")
    torch.testing.assert_close(alone, tokens[1:])
    assert (tokens[0] - tokens[1]).abs().max() > 0.01
    assert not tokens.requires_grad


def test_missing_weights_raise_by_name(tmp_path):
    with pytest.raises(ValueError, match=f"no image weights in .*: expected {FILE}"):
        embed_images(torch.zeros(1, 3, 8, 8), tmp_path)
