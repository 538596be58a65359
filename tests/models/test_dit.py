from dataclasses import replace

import pytest
import torch

from mvtrack.config.model import DiTConfig, ModelConfig, RayConfig
from mvtrack.models.activation_checkpointing import Checkpointing
from mvtrack.models.conditioning import Conditioning
from mvtrack.models.dit import TokenGrid, WanDiT, frame_positions
from mvtrack.models.flops import forward_flops, training_flops
from mvtrack.models.hooks import visiting_layers
from mvtrack.models.rope import apply_rope, axis_frequencies, default_pairs, rope_table

B, V, F, C, GH, GW = 2, 3, 2, 5, 3, 4  # patch 1: tokens are latent cells
TINY = DiTConfig(
    dim=24, ffn_dim=28, num_heads=2, num_layers=3, patch_size=(1, 1, 1), in_channels=C, out_channels=C, text_dim=7,
    freq_dim=10, rope_frames="shared", role_embedding=True,
)  # fmt: skip
RAYS = RayConfig(token_px=4, stride=2, fourier_bands=1)


def inputs(seed: int = 0, views: int = V):
    g = torch.Generator().manual_seed(seed)
    latents = torch.randn(B, views, F, C, GH, GW, generator=g)
    rays = torch.randn(B, views, F, RAYS.channels, 2 * GH, 2 * GW, generator=g)
    text = torch.randn(B, 11, 7, generator=g)
    return latents, torch.tensor([300.0, 700.0]), rays, text


def model(config: DiTConfig = TINY) -> WanDiT:
    torch.manual_seed(0)
    dit = WanDiT(config, RAYS)
    for parameter in dit.parameters():  # nothing may hide behind a zero
        torch.nn.init.normal_(parameter, std=0.2)
    return dit


def test_golden_wan_forward(wan_numbers):
    dit, numbers = WanDiT(DiTConfig(**wan_numbers.sizes)), wan_numbers.tensors
    dit.load_state_dict(wan_numbers.weights, strict=True)
    latents = numbers["in.latents"].transpose(1, 2)[:, None]
    seen = []
    for block in dit.blocks:
        block.register_forward_hook(lambda _block, _given, out: seen.append(out[0]))
    with torch.no_grad():
        out = dit(
            latents, numbers["in.timestep"], Conditioning(text=numbers["in.context"], num_reference=0), tap_layers=(1,)
        )
    torch.testing.assert_close(out.prediction[:, 0].transpose(1, 2), numbers["out.velocity"], atol=1e-5, rtol=0)
    assert len(seen) == 3
    for i, tokens in enumerate(seen):
        torch.testing.assert_close(tokens, numbers[f"out.block{i}"], atol=1e-5, rtol=0)
    for ours, name in zip(out.taps[0], "qk", strict=True):
        torch.testing.assert_close(ours.flatten(1, 4).flatten(2), numbers[f"out.{name}"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("checkpointing", [None, Checkpointing()])
def test_pre_rope_taps_become_usual_taps_through_rope(checkpointing):
    """The prediction stays, the attention that is seen from outside too; and gradients reach the weights."""
    latents, timestep, rays, text = inputs()
    usual, plain = model(), model(replace(TINY, tap_features="before_rope"))
    plain.load_state_dict(usual.state_dict(), strict=True)
    plain.checkpointing = checkpointing
    seen = []
    with visiting_layers(plain, lambda _layer, q, k: seen.append((q, k)), (1,)):
        bare = plain(latents, timestep, Conditioning(rays, text), tap_layers=(1,))
    out = usual(latents, timestep, Conditioning(rays, text), tap_layers=(1,))
    assert torch.equal(bare.prediction, out.prediction)
    rope = usual._rope(TokenGrid(V, F, GH, GW), 1, latents.device)
    for unturned, turned, attended in zip(bare.taps[0], out.taps[0], seen[0], strict=True):
        assert (unturned - turned).abs().max() > 1e-2
        flat = apply_rope(unturned.flatten(1, 4), *rope)
        torch.testing.assert_close(flat, turned.flatten(1, 4), atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(attended, turned.flatten(1, 4))
    bare.taps[0].q.sum().backward()
    assert plain.blocks[1].self_attn.q.weight.grad.abs().max() > 0


def test_golden_key_list_of_the_full_size_model(released_shapes):
    with torch.device("meta"):
        ours = {name: tuple(p.shape) for name, p in WanDiT(DiTConfig()).state_dict().items()}
    assert ours == released_shapes("wan2.1_t2v_1.3b")


def test_prediction_has_latents_shape_for_any_views():
    dit = model()
    for views in (1, 2, 5):
        latents, time, rays, text = inputs(views=views)
        out = dit(latents, time, Conditioning(rays, text, num_reference=min(1, views - 1)), tap_layers=(0, 2))
        assert out.prediction.shape == latents.shape
        assert [tuple(t.q.shape) for t in out.taps] == [(B, views, F, GH, GW, 2, 12)] * 2


def test_samples_of_a_batch_stay_apart():
    dit = model()
    latents, time, rays, text = inputs()
    together = dit(latents, time, Conditioning(rays, text)).prediction
    alone = dit(latents[1:], time[1:], Conditioning(rays[1:], text[1:])).prediction
    torch.testing.assert_close(together[1:], alone)


@pytest.mark.parametrize("rope_frames", ["shared", "by_view"])
def test_reference_mask_works_per_frame_and_sample(rope_frames):
    dit = model(replace(TINY, rope_frames=rope_frames))
    latents, time, rays, text = inputs()
    first = (torch.arange(V) < 2)[:, None].expand(B, V, F)
    plain = dit(latents, time, Conditioning(rays, text, num_reference=2)).prediction
    torch.testing.assert_close(dit(latents, time, Conditioning(rays, text, reference=first)).prediction, plain)
    mixed = first.clone()
    mixed[1] = torch.tensor([[True, False], [False, True], [False, False]])
    out = dit(latents, time, Conditioning(rays, text, reference=mixed)).prediction
    torch.testing.assert_close(out[0], plain[0])
    assert (out[1] - plain[1]).abs().max() > 1e-3
    alone = dit(latents[1:], time[1:], Conditioning(rays[1:], text[1:], reference=mixed[1:])).prediction
    torch.testing.assert_close(out[1:], alone)


def test_by_view_frames_ignore_roles():
    """One view of V F frames is the same sequence as V views of F frames, whatever is given."""
    dit = model(replace(TINY, rope_frames="by_view"))
    latents, time, rays, text = inputs()
    given = torch.tensor([[True, True, True], [True, False, False]])[..., None].expand(B, V, F)
    views = dit(latents, time, Conditioning(rays, text, reference=given)).prediction
    one = [x.flatten(1, 2)[:, None] for x in (latents, rays, given)]
    joined = dit(one[0], time, Conditioning(one[1], text, reference=one[2])).prediction
    torch.testing.assert_close(joined[:, 0], views.flatten(1, 2))


def test_reference_mask_with_role_frames_raises():
    dit = model(replace(TINY, rope_frames="concat"))
    latents, time, rays, text = inputs()
    with pytest.raises(ValueError, match="concat numbers whole views by role"):
        dit(latents, time, Conditioning(rays, text, reference=torch.ones(B, V, F, dtype=torch.bool)))


def test_logit_heads_give_their_weights_with_gradients(generator):
    torch.manual_seed(0)
    dit, logits = WanDiT(TINY, RAYS, logit_heads=(0, 2)), torch.randn(7, 2, generator=generator)
    projection = dit.logit_heads["2"].projection()
    torch.testing.assert_close(projection(logits), dit.logit_heads["2"](logits))
    projection(logits).square().sum().backward()
    assert dit.logit_heads["2"].mlp["0"].weight.grad.abs().sum() > 0
    assert dit.logit_heads["0"].mlp["0"].weight.grad is None


@pytest.mark.parametrize("rope_frames", ["shared", "concat"])
def test_shared_frames_make_target_views_interchangeable(rope_frames):
    """Swapping two target views with their cameras swaps their outputs; with `concat` their RoPE slots differ."""
    dit = model(replace(TINY, rope_frames=rope_frames))
    latents, time, rays, text = inputs()
    order = [0, 2, 1]
    out = dit(latents, time, Conditioning(rays, text)).prediction
    swapped = dit(latents[:, order], time, Conditioning(rays[:, order], text)).prediction[:, order]
    assert torch.allclose(out, swapped, atol=1e-5) == (rope_frames == "shared")


@pytest.mark.parametrize("part", ["reference", "camera", "text", "time"])
def test_every_input_reaches_prediction(part):
    dit = model()
    latents, time, rays, text = inputs()
    before = dit(latents, time, Conditioning(rays, text)).prediction[:, 1]
    if part == "reference":
        latents = latents + torch.zeros_like(latents).index_fill_(1, torch.tensor([0]), 1.0)
    elif part == "camera":
        rays = rays + torch.zeros_like(rays).index_fill_(1, torch.tensor([0]), 1.0)
    elif part == "text":
        text = text + 1
    else:
        time = time + 40
    assert (dit(latents, time, Conditioning(rays, text)).prediction[:, 1] - before).abs().max() > 1e-3


def test_checkpointing_changes_nothing():
    latents, time, rays, text = inputs()
    grads = []
    for checkpointing in (False, True):
        dit = model()
        dit.checkpointing = Checkpointing() if checkpointing else None
        out = dit(latents, time, Conditioning(rays, text), tap_layers=(1,))
        (out.prediction.square().mean() + out.taps[0].q.square().mean()).backward()
        grads.append({n: p.grad for n, p in dit.named_parameters() if p.grad is not None})
    assert grads[0].keys() == grads[1].keys()
    for name, grad in grads[0].items():
        torch.testing.assert_close(grads[1][name], grad, msg=name)


def test_frame_positions_follow_roles():
    assert frame_positions("shared", 2, 3, 1).tolist() == [0, 1, 2, 0, 1, 2]
    assert frame_positions("concat", 2, 3, 1).tolist() == [3, 4, 5, 0, 1, 2]  # target first, as ReCamMaster
    assert frame_positions("concat", 3, 2, 1).tolist() == [4, 5, 0, 1, 2, 3]
    assert frame_positions("concat", 1, 3, 0).tolist() == [0, 1, 2]
    assert frame_positions("by_view", 3, 2, 1).tolist() == [0, 1, 2, 3, 4, 5]


def test_rope_equals_complex_rotation(generator):
    frequencies = axis_frequencies(default_pairs(22), 10000.0)
    assert [len(f) for f in frequencies] == [5, 3, 3]
    cos, sin = rope_table(torch.arange(2.0), (3, 5), frequencies)
    x = torch.randn(1, 30, 2, 22, generator=generator)
    pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())
    expected = torch.view_as_real(pairs * torch.complex(cos, sin)[:, None]).flatten(-2)
    torch.testing.assert_close(apply_rope(x, cos, sin), expected)
    # token (frame 1, row 2, column 3): the row pairs turn by 2 * frequency
    token = 1 * 15 + 2 * 5 + 3
    torch.testing.assert_close(cos[token, 5:8], (2 * frequencies[1]).cos().float())


def test_rope_depends_on_relative_positions(generator):
    """The product of a rotated q and k depends only on the difference of their positions."""
    frequencies = axis_frequencies((2, 2, 2), 100.0)
    q, k = torch.randn(2, 1, 1, 1, 12, generator=generator)
    near = rope_table(torch.tensor([1.0, 4.0]), (1, 1), frequencies)
    far = rope_table(torch.tensor([11.0, 14.0]), (1, 1), frequencies)
    product = [(apply_rope(q, c[:1], s[:1]) * apply_rope(k, c[1:], s[1:])).sum() for c, s in (near, far)]
    torch.testing.assert_close(product[0], product[1])


def test_invalid_sizes_raise():
    with pytest.raises(ValueError, match="even width"):
        DiTConfig(dim=30, num_heads=4)
    with pytest.raises(ValueError, match="must sum to 6"):
        DiTConfig(dim=24, num_heads=2, rope_pairs=(1, 2, 2))
    latents, time, rays, text = inputs()
    with pytest.raises(ValueError, match="latents make 72"):
        model()(latents, time, Conditioning(rays[..., : GH * 2 - 2, :], text))


def masked_softmax(scope: str):
    """Attention over all tokens with a mask, the slow way."""
    order = torch.arange(V * F * GH * GW)
    group = {"view": order // (F * GH * GW), "moment": order // (GH * GW) % F}[scope]
    mask = torch.where(group[:, None] == group, 0.0, -torch.inf)

    def attend(q, k, v, _kernel):
        scores = torch.einsum("bnhd,bmhd->bhnm", q, k) * q.shape[-1] ** -0.5 + mask
        return torch.einsum("bhnm,bmhd->bnhd", scores.softmax(-1), v).flatten(2)

    return attend


@pytest.mark.parametrize("config", [TINY, replace(TINY, role_embedding=False, rope_frames="concat")])
def test_factorised_attention_equals_full_attention_with_masks(config):
    latents, time, rays, text = inputs()
    full, factorised = model(config), model(replace(config, attention="factorised"))
    factorised.load_state_dict(full.state_dict(), strict=True)
    for i, block in enumerate(full.blocks):
        block.self_attn.attend = masked_softmax(("view", "moment")[i % 2])
    one, two = (dit(latents, time, Conditioning(rays, text), tap_layers=(1, 2)) for dit in (full, factorised))
    torch.testing.assert_close(two.prediction, one.prediction, atol=1e-5, rtol=1e-5)
    for a, b in zip(one.taps, two.taps, strict=True):
        for x, y in zip(a, b, strict=True):
            torch.testing.assert_close(y, x, atol=1e-5, rtol=1e-5)


def test_factorised_attention_counts_fewer_operations():
    config, grid = replace(TINY, attention="factorised"), (V, F)
    tokens = V * F * GH * GW
    saved = forward_flops(TINY, tokens, grid=grid) - forward_flops(config, tokens, grid=grid)
    kept = 2 / V + 1 / F  # of three blocks, two within a view
    assert saved == pytest.approx(4 * tokens**2 * TINY.dim * (3 - kept))
    recomputed = training_flops(config, tokens, checkpointing=Checkpointing(), grid=grid)
    assert recomputed == pytest.approx(4 * forward_flops(config, tokens, grid=grid))


def test_tap_in_block_within_views_raises():
    model_config = ModelConfig(dit=replace(DiTConfig(), attention="factorised"), tap_layer=17)
    with pytest.raises(ValueError, match="views meet in odd blocks only, tap_layer is 18"):
        replace(model_config, tap_layer=18)
    assert replace(model_config, dit=replace(model_config.dit, full_attention_blocks=19), tap_layer=18)
