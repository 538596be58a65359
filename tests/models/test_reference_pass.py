"""References that attend to themselves alone: against attention with a mask, and computed once a sampling."""

from dataclasses import replace

import pytest
import torch

from mvtrack.config.model import DiTConfig, RayConfig
from mvtrack.config.views import ViewsConfig
from mvtrack.geometry.camera import Camera, intrinsics_from_fov
from mvtrack.geometry.trajectory import CameraPath
from mvtrack.inference.memory.transformer import InputShape, forward_bytes
from mvtrack.inference.sampler import SamplerOptions, generate
from mvtrack.models.activation_checkpointing import Checkpointing
from mvtrack.models.conditioning import ADAPTER_CHANNELS, Conditioning, Window
from mvtrack.models.dit import WanDiT
from mvtrack.models.flops import forward_flops, reference_flops
from mvtrack.models.hooks import visiting_layers
from mvtrack.models.perturb import perturbed_attention
from mvtrack.models.prompts import Prompts
from mvtrack.models.reference_pass import ReferenceCache
from mvtrack.models.reshoot_model import ReshootModel

B, V, R, F, C, GH, GW = 2, 5, 2, 3, 7, 2, 3
N = V * F * GH * GW
JOINT = DiTConfig(
    dim=32, ffn_dim=28, num_heads=2, num_layers=3, patch_size=(1, 1, 1), in_channels=C, out_channels=C, text_dim=11,
    freq_dim=10, rope_frames="shared", role_embedding=True,
)  # fmt: skip
RAYS = RayConfig(token_px=4, stride=2, fourier_bands=1)
VARIANTS = {
    "plain": {},
    "recammaster": {"pose_encoder": True, "projector": True, "rope_frames": "concat", "role_embedding": False},
    "redirector": {"control_adapter": True, "rope_phases": True},
    "prope": {"camera_encoding": "prope"},
    "factorised": {"attention": "factorised"},
}


def network(config: DiTConfig) -> WanDiT:
    torch.manual_seed(0)
    dit = WanDiT(config, RAYS)
    for parameter in dit.parameters():  # nothing may hide behind a zero
        torch.nn.init.normal_(parameter, std=0.2)
    return dit.double()


def inputs(config: DiTConfig, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, Conditioning]:
    g = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=g, dtype=torch.float64)

    conditioning = Conditioning(
        random(B, V, F, RAYS.channels, 2 * GH, 2 * GW),
        random(B, 13, 11),
        random(B, V, F, 12) if config.pose_encoder else None,
        random(B, V, F, ADAPTER_CHANNELS, 4 * GH, 4 * GW) if config.control_adapter else None,
        num_reference=R,
        projections=random(B, V, F, 4, 4) if config.camera_encoding == "prope" else None,
    )
    return random(B, V, F, C, GH, GW), torch.tensor([300.0, 700.0]), conditioning


def masked_softmax(scope: str):
    """All tokens at once; a reference's query sees no target."""
    order = torch.arange(N)
    view, moment = order // (F * GH * GW), order // (GH * GW) % F
    seen = (view[None] < R) | (view[:, None] >= R)
    seen &= {"all": True, "view": view[:, None] == view, "moment": moment[:, None] == moment}[scope]

    def attend(q, k, v, _kernel):
        scores = torch.einsum("bnhd,bmhd->bhnm", q, k) * q.shape[-1] ** -0.5
        return torch.einsum("bhnm,bmhd->bnhd", scores.masked_fill(~seen, -torch.inf).softmax(-1), v).flatten(2)

    return attend


@pytest.mark.parametrize("variant", VARIANTS)
def test_equals_joint_attention_with_a_mask(variant):
    """Where the noise level modulates nothing, that is all that differs."""
    config = replace(JOINT, **VARIANTS[variant])
    joint, own = network(config), network(replace(config, reference_attention="own"))
    for dit in (joint, own):
        torch.nn.init.zeros_(dit.time_projection[1].weight)
    for block in joint.blocks:
        block.self_attn.attend, block.self_attn.scope = masked_softmax(block.self_attn.scope), "all"
    given = inputs(config)
    one, two = (dit(*given, tap_layers=(0, 2)) for dit in (joint, own))
    torch.testing.assert_close(two.prediction[:, R:], one.prediction[:, R:], atol=1e-6, rtol=1e-6)
    assert two.prediction[:, :R].abs().max() == 0 < one.prediction[:, :R].abs().max()
    for a, b in ((one.taps[i], two.taps[i]) for i in range(2)):
        torch.testing.assert_close(tuple(b), tuple(a), atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(two.hidden, one.hidden, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("variant", [v for v in VARIANTS if v != "recammaster"])  # whose positions vary
def test_references_are_as_alone_and_without_noise(variant):
    config = replace(JOINT, **VARIANTS[variant])
    own, joint = network(replace(config, reference_attention="own")), network(config)
    latents, timestep, conditioning = inputs(config)
    given = {
        name: x[:, :R]
        for name, x in conditioning._asdict().items()
        if name in ("rays", "poses", "maps") and x is not None
    }
    if conditioning.projections is not None:
        given["projections"] = conditioning.projections[:, :R]
    alone = conditioning._replace(**given)
    whole = own(latents, timestep, conditioning, tap_layers=(2,))
    part = joint(latents[:, :R], torch.zeros(B), alone, tap_layers=(2,))
    torch.testing.assert_close(whole.hidden[0][:, :R], part.hidden[0], atol=1e-6, rtol=1e-6)
    other = own(latents.flip(1)[:, list(range(V - 1, V - R - 1, -1)) + [0, 1, 2]], timestep + 99, conditioning, (2,))
    assert torch.equal(other.hidden[0][:, :R], whole.hidden[0][:, :R])
    assert (other.hidden[0][:, R:] - whole.hidden[0][:, R:]).abs().max() > 1e-2


def test_observers_see_all_tokens_even_with_a_cache():
    config = replace(JOINT, reference_attention="own")
    dit, given, seen = network(config), inputs(config), []
    taps = dit(*given, tap_layers=(1,)).taps[0]
    dit.reference_cache = ReferenceCache()
    dit(*given)  # fills it
    with visiting_layers(dit, lambda _layer, q, k: seen.append((q, k)), (1,)):
        dit(*given)
    assert len(seen) == 1
    for visited, tapped in zip(seen[0], taps, strict=True):
        torch.testing.assert_close(visited, tapped.flatten(1, 4))


@pytest.mark.parametrize("keep", ["nothing", "attention"])
def test_recomputing_gives_the_same_gradients(keep):
    config, grads = replace(JOINT, reference_attention="own"), []
    for checkpointing in (None, Checkpointing(keep=keep)):
        dit = network(config)
        dit.checkpointing = checkpointing
        out = dit(*inputs(config), tap_layers=(1,))
        (out.prediction.square().mean() + out.taps[0].k.square().mean()).backward()
        grads.append({name: p.grad for name, p in dit.named_parameters() if p.grad is not None})
    assert grads[0].keys() == grads[1].keys()
    for name, grad in grads[0].items():
        torch.testing.assert_close(grads[1][name], grad, msg=name)


def test_perturbing_a_layer_changes_the_targets():
    config = replace(JOINT, reference_attention="own")
    dit = network(config)
    latents, timestep, conditioning = inputs(config)
    two = conditioning._replace(rays=conditioning.rays[:, R - 1 : R + 1], num_reference=1)
    outcomes = [dit(latents[:, R - 1 : R + 1], timestep, two).prediction]
    for kind in ("identity", "own_view"):
        with perturbed_attention(dit, 1, kind):
            outcomes.append(dit(latents[:, R - 1 : R + 1], timestep, two).prediction)
    for i, one in enumerate(outcomes):
        assert all((one - other).abs().max() > 1e-3 for other in outcomes[:i])
    with pytest.raises(ValueError, match="one reference and one target"), perturbed_attention(dit, 1, "own_view", V):
        pass


@pytest.fixture
def own_model(small_model) -> ReshootModel:
    config = replace(small_model.config, dit=replace(small_model.config.dit, reference_attention="own"))
    dit = WanDiT(config.dit, config.rays)
    dit.load_state_dict(small_model.dit.state_dict())  # the parameters are those of joint attention
    return replace(small_model, config=config, dit=dit.eval())


@pytest.fixture
def shot(own_model, generator) -> tuple[torch.Tensor, Window]:
    size, frames = own_model.config.sizes[0], own_model.config.num_frames
    poses = torch.stack([torch.eye(4).expand(frames, 4, 4), CameraPath("arc_left").poses(frames).float()])
    camera = Camera(poses, intrinsics_from_fov(50.0, size).expand(2, frames, 3, 3), size)
    return torch.rand(frames, 3, *size, generator=generator) * 2 - 1, Window(camera, 4.0)


def runs_of_the_first_block(model: ReshootModel) -> list[int]:
    tokens = []
    model.dit.blocks[0].register_forward_hook(lambda _block, given, _out: tokens.append(given[0].shape[1]))
    return tokens


@pytest.mark.parametrize("cache", [0.0, 1e-12])
def test_a_sampling_runs_references_once(own_model, shot, cache, monkeypatch):
    tokens = runs_of_the_first_block(own_model)
    made = generate(own_model, *shot, SamplerOptions(5, cache=cache))
    assert len(tokens) == 6
    assert len(set(tokens)) == 1
    assert own_model.dit.reference_cache is None
    monkeypatch.setattr(ReferenceCache, "pass_of", lambda _cache, compute: compute())
    assert torch.equal(generate(own_model, *shot, SamplerOptions(5, cache=cache)), made)
    assert len(tokens) == 6 + 10


def test_another_reference_is_computed_anew(own_model, shot):
    (video, window), tokens = shot, runs_of_the_first_block(own_model)
    first, second = (generate(own_model, x, window, SamplerOptions(2)) for x in (video, video.flip(0)))
    assert len(tokens) == 6
    assert not torch.equal(first, second)
    assert torch.equal(generate(own_model, video, window, SamplerOptions(2)), first)


def test_guidance_keeps_references_of_both_captions_apart(small_run, small_model, shot, monkeypatch):
    dit = replace(small_model.config.dit, reference_attention="own", text_dim=11)
    model = replace(small_model, config=replace(small_model.config, dit=dit), dit=WanDiT(dit, small_model.config.rays))
    for parameter in model.dit.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    g = torch.Generator().manual_seed(2)
    prompts = Prompts(torch.randn(5, 11, generator=g), torch.randn(5, 11, generator=g))
    video, window = shot[0], replace(shot[1], prompts=prompts)
    tokens = runs_of_the_first_block(model)
    made = generate(model, video, window, SamplerOptions(3, guidance=2.0))
    assert len(tokens) == 2 * 4
    monkeypatch.setattr(ReferenceCache, "pass_of", lambda _cache, compute: compute())
    assert torch.equal(generate(model, video, window, SamplerOptions(3, guidance=2.0)), made)


def test_operations_of_both_parts_are_those_that_run():
    """Every variant's difference to joint attention: reference queries skip the targets' keys."""
    grid, text = (2, F), 13
    tokens = 2 * F * GH * GW
    own = replace(JOINT, reference_attention="own")
    whole = forward_flops(own, tokens, text, grid=grid)
    assert forward_flops(JOINT, tokens, text, grid=grid) - whole == 3 * 4 * (tokens // 2) ** 2 * JOINT.dim
    once = reference_flops(own, tokens, text, grid=grid)
    assert once == forward_flops(JOINT, tokens // 2, text, grid=(1, F))
    assert reference_flops(JOINT, tokens, text, grid=grid) == 0
    full = replace(DiTConfig(), reference_attention="own")  # Wan2.1-1.3B, 81 frames at 480x832
    left = forward_flops(full, 65_520, 512) - reference_flops(full, 65_520, 512)
    assert forward_flops(DiTConfig(), 65_520, 512) / left == pytest.approx(2, abs=0.01)


def test_memory_of_a_pass_holds_keys_and_values_of_all_blocks(small_model):
    scene, config = InputShape((24, 40), 9), small_model.config
    deep = replace(config.dit, num_layers=9)
    own, joint = (
        forward_bytes(replace(config, dit=replace(deep, reference_attention=kind)), scene, torch.float32)
        for kind in ("own", "joint")
    )
    held = 2 * 9 * scene.tokens(config) // 2 * deep.dim * 4
    assert own > held
    assert own > joint


def test_what_it_cannot_take_is_refused(small_model):
    config = replace(JOINT, reference_attention="own")
    latents, timestep, conditioning = inputs(config)
    with pytest.raises(ValueError, match="5 of 5 views"):
        network(config)(latents, timestep, conditioning._replace(num_reference=V))
    some = torch.zeros(B, V, F, dtype=torch.bool)
    with pytest.raises(ValueError, match="a choice of frames"):
        network(config)(latents, timestep, conditioning._replace(reference=some))
    dit = replace(small_model.config.dit, reference_attention="own")
    with pytest.raises(ValueError, match="set it to joint"):
        replace(small_model.config, dit=dit, views=ViewsConfig(count=3, references=(1,)), num_frames=1)
