"""ReCamMaster's and ReDirector's transformers: their own numbers on random weights, and the switches one by one."""

import json
from dataclasses import replace

import pytest
import torch
from einops import rearrange

from mvtrack.config.model import DiTConfig, RayConfig
from mvtrack.models.activation_checkpointing import Checkpointing
from mvtrack.models.conditioning import Conditioning
from mvtrack.models.dit import WanDiT

TOLERANCE = {"atol": 1e-5, "rtol": 0}


class Golden:
    """A peer's weights, inputs and outputs, and our transformer with these weights."""

    def __init__(self, numbers, **switches):
        given = self.given = json.loads(str(numbers.pop("config")))
        self.numbers = {name: torch.from_numpy(array) for name, array in numbers.items()}
        names = ("dim", "ffn_dim", "num_heads", "num_layers", "text_dim", "freq_dim", "eps")
        config = DiTConfig(**{name: given[name] for name in names}, in_channels=given["in_dim"], **switches)
        self.dit = WanDiT(config).eval()
        weights = {name[2:]: value for name, value in self.numbers.items() if name.startswith("w.")}
        self.dit.load_state_dict(weights, strict=True)

    def __getitem__(self, name):
        return self.numbers[name]

    def views(self, first, second, pattern):
        """(reference, target) as our model takes views."""
        return torch.stack([rearrange(self[first], pattern), rearrange(self[second], pattern)], 1)

    def ours_to_theirs(self, tokens):
        """Our tokens have the reference first, theirs the target."""
        reference, target = tokens.chunk(2, 1)
        return torch.cat([target, reference], 1)

    def run(self, *inputs, **options):
        """Forward; also every block's output, its self-attention's input and output, in the peer's order."""
        seen, hooks = {}, []
        for i, block in enumerate(self.dit.blocks):

            def keep(_module, given, out, i=i):
                seen[f"block{i}"] = self.ours_to_theirs(out[0])

            def keep_attention(_module, given, out, i=i):
                seen[f"sa_in{i}"], seen[f"sa_out{i}"] = self.ours_to_theirs(given[0]), self.ours_to_theirs(out[0])

            hooks += [block.register_forward_hook(keep), block.self_attn.register_forward_hook(keep_attention)]
        with torch.no_grad():
            out = self.dit(*inputs, **options)
        for hook in hooks:
            hook.remove()
        return out, seen

    def check_tap(self, tap):
        for ours, name in zip(tap, "qk", strict=True):
            tokens = self.ours_to_theirs(ours.flatten(1, 4).flatten(2))
            torch.testing.assert_close(tokens, self[f"out.{name}"], **TOLERANCE)


@pytest.fixture
def recammaster(golden_numbers):
    return Golden(golden_numbers("dit_recammaster"), rope_frames="concat", pose_encoder=True, projector=True)


@pytest.fixture
def redirector(golden_numbers):
    return Golden(
        golden_numbers("dit_redirector"), rope_frames="shared", control_adapter=True, rope_phases=True, image_dim=16
    )


def test_golden_recammaster_forward(recammaster):
    golden = recammaster
    latents = golden.views("in.latents_source", "in.latents_target", "b c f h w -> b f c h w")
    conditioning = Conditioning(text=golden["in.context"], poses=golden["in.cam"][:, None].expand(-1, 2, -1, -1))
    tap = golden.given["qk_block"]
    out, seen = golden.run(latents, golden["in.timestep"], conditioning, tap_layers=(tap,))
    velocity = rearrange(out.prediction.flip(1), "b v f c h w -> b c (v f) h w")
    torch.testing.assert_close(velocity, golden["out.velocity_all"], **TOLERANCE)
    golden.check_tap(out.taps[0])
    for i in range(3):
        torch.testing.assert_close(seen[f"block{i}"], golden[f"out.block{i}"], **TOLERANCE)


def redirector_inputs(golden):
    latents = golden.views("in.latents_source", "in.latents_target", "b c f h w -> b f c h w")
    maps = []
    for view in ("source", "target"):
        frames = rearrange(golden[f"in.plucker_{view}"], "b t h w c -> b t c h w")
        groups = torch.cat([frames[:, :1].expand(-1, 3, -1, -1, -1), frames], 1)
        maps.append(rearrange(groups, "b (f k) c h w -> b f (c k) h w", k=4))
    conditioning = Conditioning(text=golden["in.context"], maps=torch.stack(maps, 1), image=golden["in.clip_feature"])
    return latents, golden["in.timestep"], conditioning


def test_golden_redirector_forward(redirector):
    golden = redirector
    latents, timestep, conditioning = redirector_inputs(golden)
    inner = golden.given["inner_block"]
    attention, values = golden.dit.blocks[inner].self_attn, []
    attend = attention.attend
    attention.attend = lambda q, k, v, kernel: values.append(v) or attend(q, k, v, kernel)
    out, seen = golden.run(latents, timestep, conditioning, tap_layers=(inner,))
    torch.testing.assert_close(golden.ours_to_theirs(values[0].flatten(2)), golden["out.v"], **TOLERANCE)
    velocity = rearrange(out.prediction[:, 1], "b f c h w -> b c f h w")
    torch.testing.assert_close(velocity, golden["out.velocity"], **TOLERANCE)
    golden.check_tap(out.taps[0])
    for ours, theirs in (
        (f"sa_in{inner}", "sa_in"),
        (f"sa_out{inner}", "sa_out"),
        *[(f"block{i}",) * 2 for i in (0, 1)],
    ):
        torch.testing.assert_close(seen[ours], golden[f"out.{theirs}"], **TOLERANCE)


def test_golden_redirector_camera_tokens_and_phases(redirector):
    golden = redirector
    *_, conditioning = redirector_inputs(golden)
    attention = golden.dit.blocks[golden.given["inner_block"]].self_attn
    with torch.no_grad():
        tokens = golden.dit.control_adapter(conditioning.maps)
        torch.testing.assert_close(golden.ours_to_theirs(tokens), golden["out.cam_emb"], **TOLERANCE)
        for name in ("qk", "vo"):
            phase = golden.ours_to_theirs(getattr(attention, f"rope_phase_{name}")(tokens))
            torch.testing.assert_close(phase, golden[f"out.phase_{name}"], **TOLERANCE)


B, V, F, GH, GW = 2, 3, 2, 3, 5
SMALL = DiTConfig(
    dim=24, ffn_dim=28, num_heads=2, num_layers=3, in_channels=7, out_channels=5, text_dim=11, freq_dim=10,
    rope_frames="shared",
)  # fmt: skip
BRANCHES = {
    "recammaster": {"pose_encoder": True, "projector": True, "rope_frames": "concat"},
    "redirector": {"control_adapter": True, "rope_phases": True, "image_dim": 13},
    "everything": {
        "pose_encoder": True, "projector": True, "control_adapter": True, "rope_phases": True, "image_dim": 13,
    },
}  # fmt: skip


def small(name, seed=0):
    """A model whose every parameter is random, and its inputs."""
    g = torch.Generator().manual_seed(seed)
    config = replace(SMALL, **BRANCHES[name])
    torch.manual_seed(0)
    dit = WanDiT(config, RayConfig(token_px=16, stride=8))
    for parameter in dit.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    conditioning = Conditioning(
        torch.randn(B, V, F, 24, 2 * GH, 2 * GW, generator=g),
        torch.randn(B, 11, 11, generator=g),
        torch.randn(B, V, F, 12, generator=g) if config.pose_encoder else None,
        torch.randn(B, V, F, 24, 16 * GH, 16 * GW, generator=g) / 8 if config.control_adapter else None,
        torch.randn(B, 17, 13, generator=g) if config.image_dim else None,
    )
    inputs = {
        "latents": torch.randn(B, V, F, 5, 2 * GH, 2 * GW, generator=g),
        "timestep": torch.tensor([300.0, 700.0]),
        "conditioning": conditioning,
    }
    return dit, inputs


@pytest.mark.parametrize("name", BRANCHES)
def test_samples_stay_apart_and_taps_are_returned(name):
    dit, inputs = small(name)
    out = dit(**inputs, tap_layers=(0, 2))
    assert [tuple(tap.k.shape) for tap in out.taps] == [(B, V, F, GH, GW, 2, 12)] * 2
    second = Conditioning(*(x[1:] if isinstance(x, torch.Tensor) else x for x in inputs["conditioning"]))
    alone = dit(inputs["latents"][1:], inputs["timestep"][1:], second)
    torch.testing.assert_close(out.prediction[1:], alone.prediction)


@pytest.mark.parametrize(("name", "field"), [("recammaster", "poses"), ("redirector", "maps"), ("redirector", "image")])
def test_every_branch_reaches_prediction(name, field):
    dit, inputs = small(name)
    before = dit(**inputs).prediction
    changed = getattr(inputs["conditioning"], field).clone()
    changed[:, 0] *= -1  # the reference's poses or maps, or an image token
    after = dit(**inputs | {"conditioning": inputs["conditioning"]._replace(**{field: changed})}).prediction
    assert (after - before)[:, 1:].abs().max() > 1e-3


def test_fresh_branch_changes_nothing():
    """ReCamMaster's branches and the rays start as the identity: a fresh model equals its base."""
    from mvtrack.config.encoders import CodecConfig
    from mvtrack.config.model import ModelConfig
    from mvtrack.models.init_weights import fill, initial_weights

    _, inputs = small("recammaster")
    outputs = []
    for switches in ({"rope_frames": "concat"}, BRANCHES["recammaster"]):
        codec = CodecConfig(channels=5, stride=8)
        config = ModelConfig(replace(SMALL, **switches), rays=RayConfig(stride=8), codec=codec, tap_layer=1)
        dit = WanDiT(config.dit, config.rays)
        fill(dit, initial_weights(config, 3))
        conditioning = inputs["conditioning"]
        if "projector" not in switches:
            conditioning = conditioning._replace(poses=None)
        for rays in (conditioning.rays, -conditioning.rays):
            outputs.append(dit(**inputs | {"conditioning": conditioning._replace(rays=rays)}).prediction)
    for other in outputs[1:]:
        torch.testing.assert_close(other, outputs[0])


@pytest.mark.parametrize("keep", ["nothing", "attention"])
@pytest.mark.parametrize("name", BRANCHES)
def test_checkpointing_changes_nothing(name, keep):
    grads = []
    for checkpointing in (None, Checkpointing(keep=keep), Checkpointing(2, keep)):
        dit, inputs = small(name)
        dit.checkpointing = checkpointing
        out = dit(**inputs, tap_layers=(1,))
        (out.prediction.square().mean() + out.taps[0].q.square().mean()).backward()
        grads.append({n: p.grad for n, p in dit.named_parameters() if p.grad is not None})
    assert len(grads[0]) == len(list(dit.parameters()))
    for other in grads[1:]:
        for parameter, grad in grads[0].items():
            torch.testing.assert_close(other[parameter], grad, msg=parameter)


def test_missing_and_unused_inputs_raise(unchecked):
    dit, inputs = small("recammaster")
    conditioning = inputs["conditioning"]
    for changes, message in (
        ({"poses": None}, r"needs conditioning\.poses"),
        ({"maps": torch.zeros(1)}, r"no use for conditioning\.maps"),
        ({"poses": conditioning.poses[:, :2]}, "must be for 3 x 2 frames"),
        ({"text": None}, r"needs conditioning\.text"),
    ):
        with pytest.raises(ValueError, match=message):
            dit(**inputs | {"conditioning": conditioning._replace(**changes)})
    with pytest.raises(ValueError, match="must have 5 channels, got 7"):
        dit(**inputs | {"latents": torch.zeros(B, V, F, 7, 2 * GH, 2 * GW)})
    dit, inputs = small("redirector")
    small_maps = inputs["conditioning"]._replace(maps=inputs["conditioning"].maps[..., :40, :])
    with pytest.raises(ValueError, match=r"maps must be \(2, 3, 2, 24, 48, 80\), got \(2, 3, 2, 24, 40, 80\)"):
        dit(**inputs | {"conditioning": small_maps})
    with pytest.raises(ValueError, match="set dit.control_adapter: true"):
        replace(SMALL, rope_phases=True)
    with pytest.raises(ValueError, match="needs dit.text_dim"):
        replace(SMALL, image_dim=13, text_dim=0)
