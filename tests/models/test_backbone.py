"""What every multi-view backbone can do: be supervised, looked into and perturbed by the same functions."""

import pytest
import torch

from mvtrack.config.backbones import HunyuanConfig, UNetConfig
from mvtrack.correspondence.attention_row import attention_row
from mvtrack.correspondence.logit_head import LogitHead
from mvtrack.correspondence.loss import CAMEO, correspondence_loss
from mvtrack.correspondence.nearest_neighbours import PointMaps, targets_from_points
from mvtrack.geometry.camera import Camera, intrinsics_from_fov
from mvtrack.models.backbone import MultiViewBackbone
from mvtrack.models.cat3d_unet import CAT3DUNet
from mvtrack.models.conditioning import Conditioning, view_conditioning
from mvtrack.models.hooks import visiting_layers
from mvtrack.models.hunyuan_views import HunyuanViews
from mvtrack.models.perturb import perturbed_attention

B, V, HEIGHT, WIDTH = 2, 3, 4, 8  # latents
LAYERS = {"wan": 1, "unet": 4, "hunyuan": 2}  # that are supervised


@pytest.fixture(params=LAYERS)
def case(request, generator, small_model):
    """A backbone, the layer to supervise, and inputs of a scene whose cameras move sideways."""
    latents = torch.randn(B, V, 1, 12 if request.param == "wan" else 4, HEIGHT, WIDTH, generator=generator)
    timestep, layer = torch.tensor([900.0, 300.0]), LAYERS[request.param]
    if request.param == "wan":
        return small_model.dit, layer, (latents, timestep, Conditioning())
    c2w = torch.eye(4).repeat(B, V, 1, 1)
    c2w[..., 0, 3] = torch.arange(V)
    size = (8 * HEIGHT, 8 * WIDTH)
    camera = Camera(c2w, intrinsics_from_fov(60, size).expand(B, V, 3, 3), size)
    torch.manual_seed(0)
    if request.param == "unet":
        backbone = CAT3DUNet(UNetConfig((8, 16, 16), (1, 2, 2), 1, 4, logit_heads=(4,)))
    else:
        sizes = {"text_dims": (8, 8), "text_lengths": (2, 3), "pooled_dim": 4}
        backbone = HunyuanViews(HunyuanConfig(num_layers=4, num_heads=2, head_dim=8, logit_heads=(2,), **sizes))
    reference = torch.tensor([[True, False, False], [True, True, False]])
    return backbone, layer, (latents, timestep, view_conditioning(camera, reference, backbone.config.rays))


def wall(grid):
    """Points (B, V, 1, 3, H, W) of a plane that every view sees a token further to the right."""
    ys, xs = torch.meshgrid(torch.arange(grid[0]) + 0.5, torch.arange(grid[1]) + 0.5, indexing="ij")
    views = [torch.stack([xs + v, ys, torch.full_like(xs, 3.0)]) for v in range(V)]
    return torch.stack(views)[None, :, None].repeat(B, 1, 1, 1, 1, 1)


def test_every_backbone_fits_the_interface(case):
    backbone, _, inputs = case
    assert isinstance(backbone, MultiViewBackbone)
    assert backbone(*inputs).prediction.shape == inputs[0].shape
    assert backbone(*inputs).taps == ()
    with pytest.raises(ValueError, match=f"layers 0 .. {backbone.num_layers - 1}"):
        backbone.self_attention(backbone.num_layers)


def test_correspondence_loss_teaches_every_backbone(case):
    """Its gradient reaches the weights before the tapped layer, and a step along it lowers the loss."""
    backbone, layer, inputs = case
    head = backbone.logit_heads[str(layer)] if len(backbone.logit_heads) else LogitHead(2)
    reference = inputs[2].reference

    def loss():
        (tap,) = backbone(*inputs, tap_layers=(layer,)).taps
        targets = targets_from_points(PointMaps(wall(tap.q.shape[3:5])), tuple(tap.q.shape[3:5]))
        assert (targets.weight > 0).any()
        return correspondence_loss(*tap, targets, CAMEO, head, 1 if reference is None else reference)

    before = loss()
    names, parameters = zip(*backbone.named_parameters(), strict=True)
    gradients = torch.autograd.grad(before, parameters, allow_unused=True)
    reached = {name: g for name, g in zip(names, gradients, strict=True) if g is not None and g.abs().max() > 0}
    assert len(reached) > 10
    norm = torch.stack([g.square().sum() for g in reached.values()]).sum().sqrt()
    assert norm > 0.01  # the step below changes the loss by a thousandth of it, far above rounding
    with torch.no_grad():
        for parameter, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None:
                parameter -= 1e-3 / norm * gradient
        after = loss()
        for parameter, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None:
                parameter += 1e-3 / norm * gradient
    assert after < before


def test_taps_visits_and_heat_maps_agree(case):
    backbone, layer, inputs = case
    seen = {}
    with torch.no_grad(), visiting_layers(backbone, lambda i, q, k: seen.setdefault(i, (q, k))):
        taps = backbone(*inputs, tap_layers=(layer, 0)).taps
    assert sorted(seen) == list(range(backbone.num_layers))
    for i, tap in zip((0, layer), taps, strict=True):
        assert torch.equal(tap.q.flatten(1, 4), seen[i][0])
        assert torch.equal(tap.k.flatten(1, 4), seen[i][1])
        row = attention_row(tap.q[0], tap.k[0], (1, 0, 1, 2))
        assert row.joint.shape == tap.q.shape[1:5]
        assert row.joint.sum().item() == pytest.approx(1, abs=1e-5)


def test_identity_attention_needs_no_query(case, monkeypatch):
    """A perturbed layer sees nothing but values."""
    backbone, layer, inputs = case

    def values(q, k, v, kernel):
        return v.flatten(2)

    with torch.no_grad():
        with perturbed_attention(backbone, layer, "identity", views=V):
            perturbed = backbone(*inputs).prediction
        monkeypatch.setattr(type(backbone.self_attention(layer)), "attend", staticmethod(values))
        every = backbone(*inputs).prediction
        assert not torch.equal(every, perturbed)
        monkeypatch.undo()
        assert not torch.equal(backbone(*inputs).prediction, perturbed)
