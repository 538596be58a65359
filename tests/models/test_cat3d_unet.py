"""CAT3D's U-Net against the numbers of CAMEO's own module, and the mistakes that a port could make."""

import json
from dataclasses import replace

import pytest
import torch
from einops import rearrange

from mvtrack.config.backbones import UNetConfig
from mvtrack.config.diffusion import DiffusionConfig
from mvtrack.inference.guidance import guided
from mvtrack.models.cat3d_unet import CAT3DUNet, self_attentions
from mvtrack.models.conditioning import Conditioning
from mvtrack.models.diffusion.discrete import ddim_steps
from mvtrack.models.diffusion.flow import keep_references
from mvtrack.models.hooks import visiting_layers
from mvtrack.models.perturb import PERTURBATIONS, perturbed_attention

CLOSE = {"atol": 2e-5, "rtol": 0}  # ten times what float32 and float64 differ by
INSIDE = {"atol": 1e-4, "rtol": 0}  # the same for hidden states, which reach 15
MISTAKE = 0.05  # the least that a typical mistake changes is 0.11


@pytest.fixture(scope="module")
def golden(golden_numbers):
    numbers = golden_numbers("cat3d_unet")
    config = json.loads(numbers.pop("config").item())
    z = {name: torch.from_numpy(x) for name, x in numbers.items()}
    return config, {name: x.float() if x.dtype == torch.float16 else x for name, x in z.items()}


@pytest.fixture(scope="module")
def network(golden):
    config, z = golden
    sizes = UNetConfig(
        tuple(config["block_out_channels"]), tuple(config["num_heads"]), config["layers_per_block"],
        config["norm_num_groups"],
    )  # fmt: skip
    network = CAT3DUNet(sizes).eval().requires_grad_(False)
    network.unet.load_state_dict({name[2:]: x for name, x in z.items() if name.startswith("w.")}, strict=True)
    return network


@pytest.fixture
def inputs(golden):
    _, z = golden
    condition = z["in.condition"][:, :, None]
    given = condition[:, :, :, 0, 0, 0] == 0
    conditioning = Conditioning(condition[:, :, :, 1:], reference=given, domain=z["in.class_labels"])
    return z["in.latents"][:, :, None], z["in.timestep"], conditioning


def error(network, inputs, golden):
    """Largest difference from the golden prediction."""
    return (network(*inputs).prediction.flatten(0, 2) - golden[1]["out.prediction"]).abs().max()


def test_golden_prediction_and_hidden_states(network, inputs, golden):
    _, z = golden
    unet, seen = network.unet, {}

    def keep(name):
        return lambda _m, _i, out: seen.__setitem__(name, out[0] if isinstance(out, tuple) else out)

    modules = {name[4:] for name in z if name.startswith("out.") and hasattr(unet, name[4:].split(".")[0])}
    modules -= {"time_embedding"}
    handles = [unet.get_submodule(name).register_forward_hook(keep(name)) for name in modules]
    handles.append(unet.down_blocks[0].resnets[0].register_forward_pre_hook(lambda _m, i: seen.update(sum=i[0])))
    time = unet.time_embedding.register_forward_hook(keep("time_embedding"))
    try:
        prediction = network(*inputs).prediction
    finally:
        for handle in (*handles, time):
            handle.remove()
    assert len(modules) == 11
    torch.testing.assert_close(prediction.flatten(0, 2), z["out.prediction"], **CLOSE)
    seen["time_embedding"] = seen["time_embedding"][::3]  # without the label, which is added to it
    torch.testing.assert_close(seen["sum"], z["out.conv_in"] + z["out.add_conv_in"], **INSIDE)
    for name in {*modules, "time_embedding"}:
        torch.testing.assert_close(seen[name], z[f"out.{name}"], **INSIDE, msg=lambda text, n=name: f"{n}: {text}")


def test_golden_taps_and_their_logits(network, inputs, golden):
    config, z = golden
    layers = tuple(config["taps"])
    assert [f"{name}.processor" for name in network.layer_names] == config["order_of_layers"]
    joint = [i for i in range(network.num_layers) if network.self_attention(i).scope == "all"]
    assert joint == config["joint_layers"]
    taps = dict(zip(layers, network(*inputs, tap_layers=layers).taps, strict=True))
    for layer in layers:
        pattern = "b v f h w n d -> b n (v f h w) d" if layer in joint else "b v f h w n d -> (b v f) n (h w) d"
        q, k = (rearrange(x, pattern) for x in taps[layer])
        torch.testing.assert_close(q, z[f"out.q{layer}"], **CLOSE)
        torch.testing.assert_close(k, z[f"out.k{layer}"], **CLOSE)
    assert taps[10].q.shape == (2, 3, 1, 4, 8, 3, 8)

    weights = []
    with visiting_layers(network, lambda layer, q, k: weights.append((layer, q, k)), (10,)):
        network(*inputs)
    ((layer, q, k),) = weights
    logits = torch.einsum("bnhd,bmhd->bhnm", q, k) / 8  # a head is 64 wide at full size, 8 here: CAMEO divides by 8
    torch.testing.assert_close(logits, z["out.q10"] @ z["out.k10"].mT / 8, atol=1e-4, rtol=0)


def test_typical_mistakes_are_seen(network, inputs, golden):
    latents, timestep, conditioning = inputs
    assert error(network, inputs, golden) < CLOSE["atol"]
    mistakes = {
        "mask inverted": (latents, timestep, conditioning._replace(reference=~conditioning.reference)),
        "rays zeroed": (latents, timestep, conditioning._replace(rays=torch.zeros_like(conditioning.rays))),
        "label 0 for both": (latents, timestep, conditioning._replace(domain=torch.zeros(2, dtype=torch.long))),
        "moment first": (latents, timestep, conditioning._replace(rays=conditioning.rays.roll(3, 3))),
        "timestep + 1": (latents, timestep + 1, conditioning),
    }
    for name, wrong in mistakes.items():
        assert error(network, wrong, golden) > MISTAKE, name


@pytest.mark.parametrize("scope", ["all", "view"])
def test_wrong_joint_layers_are_seen(network, inputs, golden, scope, monkeypatch):
    for layer in range(network.num_layers):
        monkeypatch.setattr(network.self_attention(layer), "scope", scope)
    assert error(network, inputs, golden) > MISTAKE


def test_missing_query_key_norm_is_seen(network, inputs, golden, monkeypatch):
    for module in self_attentions(network.unet).values():
        monkeypatch.setitem(module._modules, "norm_q", None)
        monkeypatch.setitem(module._modules, "norm_k", None)
    assert error(network, inputs, golden) > MISTAKE


def test_golden_sampling_with_guidance_by_the_camera(network, golden_numbers):
    numbers = golden_numbers("cat3d_sampler")
    config = json.loads(numbers.pop("config").item())
    z = {name: torch.from_numpy(x) for name, x in numbers.items()}
    reference = (torch.arange(3) < config["references"]).view(1, 3, 1)
    clean = torch.cat([z["in.clean"], torch.zeros_like(z["in.noise"])], 1)[:, :, None]
    noise = torch.cat([torch.randn_like(z["in.clean"]), z["in.noise"]], 1)[:, :, None]
    conditioning = Conditioning(z["in.camera"].float()[:, :, None], reference=reference, domain=z["in.class_labels"])
    levels, velocities = [], []

    def predict(x, t, conditioning):
        return network(x, t, conditioning).prediction

    for batched in (False, True):
        guided_velocity = guided(predict, conditioning, camera_guidance=config["guidance"], batched=batched)

        def velocity(x, t, guided_velocity=guided_velocity):
            levels.append(int(t[0]))
            velocities.append(guided_velocity(x, t))
            return velocities[-1]

        steps = ddim_steps(
            velocity, noise, DiffusionConfig(spacing="leading"), config["steps"],
            lambda x: keep_references(clean, x, reference),
        )  # fmt: skip
        for state, expected in zip(steps, z["out.states"], strict=True):
            torch.testing.assert_close(state[:, :, 0], expected, atol=2e-4, rtol=0)
    assert levels == 2 * z["out.timesteps"].tolist()
    for i, v in enumerate(velocities):
        torch.testing.assert_close(v[0, :, 0], z["out.guided"][i % config["steps"]], atol=2e-4, rtol=0)


def test_a_step_at_pure_noise_is_finite_and_trains(network, inputs):
    latents, _, conditioning = inputs
    network = network.requires_grad_(True)
    try:
        output = network(latents, torch.full((2,), 999), conditioning, tap_layers=(10,))
        assert output.prediction.isfinite().all()
        (output.prediction.square().mean() + output.taps[0].q.square().mean()).backward()
        gradients = [p.grad for p in network.unet.parameters()]
        assert all(g is not None and g.isfinite().all() for g in gradients)
    finally:
        network.zero_grad()
        network.requires_grad_(False)
    states = ddim_steps(
        lambda x, t: network(x, t, conditioning).prediction, latents, DiffusionConfig(), 2,
    )  # fmt: skip
    assert all(state.isfinite().all() for state in states)


def test_the_order_of_views_does_not_matter(network, inputs):
    latents, timestep, conditioning = inputs
    order = torch.tensor([2, 0, 1])
    rays, reference = conditioning.rays[:, order], conditioning.reference[:, order]
    before = network(*inputs, tap_layers=(10,))
    after = network(latents[:, order], timestep, conditioning._replace(rays=rays, reference=reference), (10,))
    torch.testing.assert_close(after.prediction, before.prediction[:, order], **CLOSE)
    torch.testing.assert_close(after.taps[0].q, before.taps[0].q[:, order], **CLOSE)


@pytest.mark.parametrize("layer", range(16))
def test_every_layer_can_be_perturbed(network, inputs, layer):
    before, seen = network(*inputs).prediction, {}
    for kind in PERTURBATIONS:
        with perturbed_attention(network, layer, kind, views=3):
            seen[kind] = network(*inputs).prediction
    assert torch.equal(network(*inputs).prediction, before)
    assert (seen["identity"] - before).abs().max() > 1e-4
    alone = network.self_attention(layer).scope == "view"
    assert torch.equal(seen["own_view"], before) == alone


def test_identity_attention_hands_on_values(network, inputs):
    """Attention's output is the values, through the output's projection."""
    module, seen = self_attentions(network.unet)[network.layer_names[10]], {}
    hook = module.register_forward_hook(lambda _m, i, out: seen.update(x=i[0], out=out))
    with perturbed_attention(network, 10, "identity"):
        network(*inputs)
    hook.remove()
    torch.testing.assert_close(seen["out"], module.to_out[0](module.to_v(seen["x"])))


def test_recomputed_blocks_keep_taps_and_gradients(network, inputs):
    weight = network.unet.down_blocks[1].attentions[0].transformer_blocks[0].attn1.to_q.weight
    gradients = []
    network.train().requires_grad_(True)
    try:
        for recompute in (False, True):
            if recompute:
                network.unet.enable_gradient_checkpointing()
            output = network(*inputs, tap_layers=(2, 10))
            (output.prediction.square().mean() + sum(tap.q.square().mean() for tap in output.taps)).backward()
            gradients.append(weight.grad.clone())
            network.zero_grad()
    finally:
        network.unet.disable_gradient_checkpointing()
        network.eval().requires_grad_(False)
    assert gradients[0].abs().max() > 0
    torch.testing.assert_close(gradients[1], gradients[0])


def test_full_size_names_and_shapes(released_shapes):
    with torch.device("meta"):
        network = CAT3DUNet(replace(UNetConfig(), logit_heads=(10,)))
    ours = {name: tuple(x.shape) for name, x in network.unet.state_dict().items()}
    assert ours == released_shapes("cameo_cat3d_unet")
    assert network.logit_heads["10"].num_heads == 10
    assert sum(p.numel() for p in network.unet.parameters()) == pytest.approx(816.7e6, abs=0.05e6)


def test_starts_as_the_network_without_condition():
    """The condition encoder and the label say nothing at first."""
    network = CAT3DUNet(UNetConfig((8, 16), (1, 2), 1, 4))
    latents, rays = torch.randn(1, 2, 1, 4, 4, 6), torch.randn(1, 2, 1, 6, 32, 48)
    one = network(latents, torch.tensor([500]), Conditioning(rays, domain=torch.tensor([0]))).prediction
    two = network(latents, torch.tensor([500]), Conditioning(-rays, num_reference=0)).prediction
    assert torch.equal(one, two)


def test_unfit_inputs_raise(network, inputs, unchecked):
    latents, timestep, conditioning = inputs
    for message, wrong in {
        "latents must have 4 channels and sides divisible by 8, got 4 x 8 x 13": latents[..., :13],
        "still views of one frame each, got 2 latent frames": torch.cat([latents, latents], 2),
        r"conditioning.rays must be \(2, 2, 1, 6, 64, 128\), got \(2, 3, 1, 6, 64, 128\)": latents[:, :2],
    }.items():
        with pytest.raises(ValueError, match=message):
            network(wrong, timestep, conditioning)
    with pytest.raises(ValueError, match="this model has no use for conditioning.text"):
        network(latents, timestep, conditioning._replace(text=torch.zeros(2, 1, 1)))
    with pytest.raises(ValueError, match=r"layer 16 does not exist: this model has layers 0 \.\. 15"):
        network(latents, timestep, conditioning, tap_layers=(16,))
    with pytest.raises(ValueError, match="layer 99 does not exist"):
        CAT3DUNet(UNetConfig((8, 16), (1, 2), 1, 4, logit_heads=(99,)))
    with pytest.raises(ValueError, match="a width of 16 does not divide into 3 heads and 4 groups"):
        UNetConfig((8, 16), (1, 3), 1, 4)
