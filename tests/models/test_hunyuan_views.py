"""Hunyuan-DiT over views against diffusers' numbers, and our way of joining views."""

import pytest
import torch
from einops import rearrange

from mvtrack.config.backbones import HunyuanConfig
from mvtrack.models.conditioning import Conditioning
from mvtrack.models.hunyuan_views import HunyuanViews
from mvtrack.models.perturb import PERTURBATIONS, perturbed_attention

CLOSE = {"atol": 2.2e-5, "rtol": 0}  # ten times what float32 and float64 differ by
SIZES = {"num_heads": 3, "head_dim": 8, "text_dims": (20, 24), "text_lengths": (5, 7), "pooled_dim": 12}


@pytest.fixture(scope="module")
def golden(golden_numbers):
    numbers = golden_numbers("hunyuan_dit")
    numbers.pop("config")
    z = {name: torch.from_numpy(x) for name, x in numbers.items()}
    return {name: x.float() if x.dtype == torch.float16 else x for name, x in z.items()}


@pytest.fixture(scope="module")
def network(golden):
    network = HunyuanViews(HunyuanConfig(num_layers=6, **SIZES)).eval().requires_grad_(False)
    network.transformer.load_state_dict({name[2:]: x for name, x in golden.items() if name.startswith("w.")})
    return network


@pytest.fixture
def inputs(generator):
    """Two scenes of three views, and a condition encoder that says something."""
    latents = torch.randn(2, 3, 1, 4, 6, 10, generator=generator)
    rays = torch.randn(2, 3, 1, 6, 48, 80, generator=generator)
    return latents, torch.tensor([999, 250]), Conditioning(rays, num_reference=1)


@pytest.fixture
def conditioned(network, generator):
    torch.nn.init.normal_(network.condition_encoder.proj.weight, std=0.05, generator=generator)
    yield network
    torch.nn.init.zeros_(network.condition_encoder.proj.weight)


def run(network, golden, views=1, rope=None, **changes):
    """The transformer with the goldens' own text."""
    z = golden
    text = {
        "encoder_hidden_states": z["in.text"], "text_embedding_mask": z["in.text_mask"],
        "encoder_hidden_states_t5": z["in.text_t5"], "text_embedding_mask_t5": z["in.text_mask_t5"],
    }  # fmt: skip
    with network.joint(views, (4,)) as found:
        rope = network.rope(6, 10) if rope is None else rope
        out = network.transformer(z["in.latents"], z["in.timestep"], **(text | changes), image_rotary_emb=rope).sample
    return out, tuple(found[4][name] for name in ("q", "k", "hidden"))


def test_golden_rope(network, golden):
    cos, sin = network.rope(6, 10)
    torch.testing.assert_close(cos, golden["in.rope_cos"], atol=1e-5, rtol=0)
    torch.testing.assert_close(sin, golden["in.rope_sin"], atol=1e-5, rtol=0)


def test_golden_prediction_blocks_and_taps(network, golden):
    z, seen = golden, {}
    hooks = [
        block.register_forward_hook(lambda _m, _i, out, i=i: seen.__setitem__(f"block{i}", out))
        for i, block in enumerate(network.transformer.blocks)
    ]
    time = network.transformer.time_extra_emb
    hooks.append(time.register_forward_hook(lambda _m, _i, out: seen.__setitem__("condition_vector", out)))
    out, (q, k, _) = run(network, golden)
    for hook in hooks:
        hook.remove()
    torch.testing.assert_close(out, z["out.prediction_and_variance"], **CLOSE)
    assert len(seen) == 7
    for name, found in (*seen.items(), ("q", rearrange(q, "b n h d -> b h n d")), ("k", k.transpose(1, 2))):
        expected = z[f"out.{name}"]
        torch.testing.assert_close(found, expected, atol=1e-5 * max(2.2, expected.abs().max()), rtol=0)


def test_golden_joint_views(network, golden, golden_numbers):
    expected = torch.from_numpy(golden_numbers("hunyuan_dit_joint")["out.prediction_and_variance"])
    torch.testing.assert_close(run(network, golden, views=2)[0], expected, **CLOSE)
    assert (expected - golden["out.prediction_and_variance"]).abs().max() > 1


def test_typical_mistakes_are_seen(network, golden):
    expected, (cos, sin) = golden["out.prediction_and_variance"], network.rope(6, 10)
    plain = torch.ones_like(cos), torch.zeros_like(sin)
    swapped = tuple(x.roll(4, 1) for x in (cos, sin))
    seen = torch.ones_like
    masks = {name: seen(golden[f"in.{short}"]) for name, short in (
        ("text_embedding_mask", "text_mask"), ("text_embedding_mask_t5", "text_mask_t5"))}  # fmt: skip
    wrong = [run(network, golden, rope=plain), run(network, golden, rope=swapped), run(network, golden, **masks)]
    for out, _ in wrong:
        assert (out - expected).abs().max() > 1


def test_starts_as_views_without_condition_or_text(network, inputs):
    """Zero at first: rays change nothing; and text of any kind, masked, is the same."""
    latents, timestep, conditioning = inputs
    one = network(*inputs).prediction
    assert torch.equal(network(latents, timestep, conditioning._replace(rays=-conditioning.rays)).prediction, one)
    with network.joint(3):
        text = network._no_text(latents.flatten(0, 2)) | {"encoder_hidden_states": torch.ones(6, 5, 20)}
        out = network.transformer(
            latents.flatten(0, 2), timestep.float().repeat_interleave(3), **text, image_rotary_emb=network.rope(3, 5)
        ).sample
    torch.testing.assert_close(out[:, :4], one.flatten(0, 2), **CLOSE)


def test_the_order_of_views_does_not_matter(conditioned, inputs):
    latents, timestep, conditioning = inputs
    order = torch.tensor([0, 2, 1])
    before = conditioned(*inputs, tap_layers=(4,))
    after = conditioned(latents[:, order], timestep, conditioning._replace(rays=conditioning.rays[:, order]), (4,))
    torch.testing.assert_close(after.prediction, before.prediction[:, order], **CLOSE)
    torch.testing.assert_close(after.taps[0].k, before.taps[0].k[:, order], **CLOSE)
    assert before.taps[0].q.shape == (2, 3, 1, 3, 5, 3, 8)
    for change in ({"num_reference": 2}, {"rays": torch.zeros_like(conditioning.rays)}):
        other = conditioned(latents, timestep, conditioning._replace(**change)).prediction
        assert (other - before.prediction).abs().max() > 1e-3


@pytest.mark.parametrize("layer", range(6))
def test_every_layer_can_be_perturbed(network, inputs, layer):
    before = network(*inputs).prediction
    for kind in PERTURBATIONS:
        with perturbed_attention(network, layer, kind, views=3):
            assert (network(*inputs).prediction - before).abs().max() > 1e-4
    assert torch.equal(network(*inputs).prediction, before)


def test_time_is_exact_in_bfloat16(network, inputs):
    """bfloat16 would take 999 for 1000."""
    latents, _, conditioning = inputs
    seen = []
    hook = network.transformer.time_extra_emb.timestep_embedder.register_forward_pre_hook(
        lambda _m, i: seen.append(i[0].float())
    )
    for dtype in (torch.bfloat16, torch.float32):
        network.to(dtype)(latents, torch.tensor([999, 997]), conditioning)
    hook.remove()
    torch.testing.assert_close(seen[0], seen[1], atol=5e-3, rtol=0)


@pytest.mark.parametrize(("version", "has_style"), [("v1.1", True), ("v1.2", False)])
def test_full_size_names_and_shapes(released_shapes, version, has_style):
    with torch.device("meta"):
        network = HunyuanViews(HunyuanConfig(has_style=has_style, logit_heads=(32,)))
    ours = {name: tuple(x.shape) for name, x in network.transformer.state_dict().items()}
    assert ours == released_shapes(f"hunyuan_dit_{version}_diffusers")
    assert network.num_layers == 40


def test_version_with_style_runs(inputs):
    network = HunyuanViews(HunyuanConfig(num_layers=4, has_style=True, **SIZES))
    prediction = network(*inputs).prediction
    assert prediction.shape == inputs[0].shape
    assert prediction.isfinite().all()


def test_unfit_inputs_raise(network, inputs, unchecked):
    latents, timestep, conditioning = inputs
    with pytest.raises(ValueError, match="latents must have 4 channels and even sides, got 4 x 6 x 9"):
        network(latents[..., :9], timestep, conditioning)
    with pytest.raises(ValueError, match="this model has no use for conditioning.domain"):
        network(latents, timestep, conditioning._replace(domain=timestep))
    with pytest.raises(ValueError, match="num_layers must be even"):
        HunyuanConfig(num_layers=5)
    with pytest.raises(ValueError, match="head_dim must be a multiple of 8, got 12"):
        HunyuanConfig(head_dim=12)
