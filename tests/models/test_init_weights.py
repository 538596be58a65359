import torch

from mvtrack.config.backbones import UNetConfig
from mvtrack.config.encoders import CodecConfig
from mvtrack.config.model import ModelConfig
from mvtrack.config.views import ViewsConfig
from mvtrack.models.conditioning import Conditioning
from mvtrack.models.init_weights import fill, initial_weights
from mvtrack.models.networks import build_network


def test_initial_weights_depend_on_seed_alone(small_model):
    first, again, other = (dict(initial_weights(small_model.config, seed)) for seed in (0, 0, 1))
    drawn = [name for name, value in first.items() if value.unique().numel() > 2]
    assert len(drawn) > 20
    for name in first:
        assert torch.equal(first[name], again[name])
        assert (name in drawn) == (not torch.equal(first[name], other[name])), name


@torch.no_grad()
def test_references_reach_what_a_unet_makes_of_noise(generator):
    """By what enters its last layer, which is zero: the mean over a target follows the reference, not the noise."""
    unet = UNetConfig((16, 24, 24, 24), (1, 1, 1, 1), 2, 2, channels=5)
    config = ModelConfig(dit=None, cat3d=unet, codec=CodecConfig(channels=5, stride=8), views=ViewsConfig(3, (1,)),
                         tap_layer=10, sizes=((64, 64),), num_frames=1)  # fmt: skip
    network = build_network(config)
    fill(network, initial_weights(config, 0))
    entering = []
    network.unet.conv_out.register_forward_pre_hook(lambda _module, inputs: entering.append(inputs[0][1:].mean((2, 3))))
    conditioning = Conditioning(torch.zeros(1, 3, 1, 6, 64, 64), num_reference=1)
    colours, noise = torch.randn(2, 5, 1, 1, generator=generator), torch.randn(2, 2, 5, 8, 8, generator=generator)
    for colour, views in ((0, 0), (1, 0), (0, 1)):
        latents = torch.cat([colours[colour].expand(1, 5, 8, 8), noise[views]])
        out = network(latents[None, :, None], torch.tensor([999]), conditioning).prediction
        assert not out.any()
    first, other_reference, other_noise = entering
    assert (other_reference - first).norm() > 0.5 * (other_noise - first).norm()
