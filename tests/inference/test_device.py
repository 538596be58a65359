import sys
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import replace

import pytest
import torch

from mvtrack.config.model import ModelConfig, SamplingConfig
from mvtrack.config.placement import Placement
from mvtrack.config.presets import preset
from mvtrack.geometry.camera import Camera, intrinsics_from_fov
from mvtrack.geometry.trajectory import CameraPath
from mvtrack.inference import sampler as generating
from mvtrack.inference.block_offload import offload
from mvtrack.inference.device import place, placed_config
from mvtrack.inference.memory.inference import weights_bytes
from mvtrack.inference.quantization import bytes_of
from mvtrack.inference.sampler import SamplerOptions, generate
from mvtrack.models.conditioning import Window
from mvtrack.models.prompts import Prompts
from mvtrack.models.reshoot_model import ReshootModel, build_model

T, SIZE = 5, (24, 32)


@pytest.fixture
def model(tracking_model):
    """A copy that may be changed in place; camera_proj is lively."""
    dit = deepcopy(tracking_model.dit)
    return ReshootModel(tracking_model.config, dit, deepcopy(tracking_model.codec))


def video(model: ReshootModel, sample: SamplerOptions | None = None, prompts: Prompts | None = None) -> torch.Tensor:
    K = intrinsics_from_fov(50.0, SIZE).expand(2, T, 3, 3)
    poses = torch.stack([torch.eye(4).double().expand(T, 4, 4), CameraPath("arc_left").poses(T)]).float()
    reference = torch.rand(T, 3, *SIZE, generator=torch.Generator().manual_seed(0)) * 2 - 1
    sample = sample or SamplerOptions(2)
    return generate(model, reference, Window(Camera(poses, K, SIZE), 4.0, prompts), sample)


def test_where_there_is_nothing_to_do_nothing_changes(model):
    before = video(model)
    placed = place(model, Placement(device="cpu"))
    assert torch.equal(video(placed), before)
    assert not placed.swapped


def test_precision_leaves_the_tracking_head_alone(model):
    before = video(model)
    placed = place(model, Placement(device="cpu", precision="bfloat16"))
    head = [p for n, p in placed.dit.named_parameters() if n.startswith("tracking_head.")]
    rest = [p for n, p in placed.dit.named_parameters() if not n.startswith("tracking_head.")]
    assert {p.dtype for p in head} == {torch.float32}
    assert {p.dtype for p in rest} == {torch.bfloat16}
    torch.testing.assert_close(video(placed), before, atol=0.1, rtol=0)


def test_a_models_own_precision_is_kept_unless_asked(model):
    config = replace(model.config, sampling=SamplingConfig(precision="bfloat16"))
    asked = place(replace(model, config=config), Placement(device="cpu", precision="stored"))
    assert asked.dit.dtype == torch.float32
    assert place(asked, Placement(device="cpu")).dit.dtype == torch.bfloat16


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_blocks_come_and_go(model, precision):
    plain = place(ReshootModel(model.config, deepcopy(model.dit), model.codec), Placement("cpu", precision))
    expected = video(plain)
    placed = place(model, Placement("cpu", precision, offload="blocks"))
    for _ in range(2):  # and again
        assert all(p.untyped_storage().nbytes() <= 4 for p in placed.dit.blocks.parameters())
        assert torch.equal(video(placed), expected)
    assert placed.dit.patch_embedding.weight.untyped_storage().nbytes() > 4


def test_blocks_may_be_called_in_any_order(model):
    """The next block is on its way to where none is at work, whichever comes then; three blocks and two places."""
    blocks, x = torch.nn.ModuleList(torch.nn.Linear(5, 5) for _ in range(3)), torch.randn(2, 5)
    order = [0, 1, 2, 0, 0, 2, 1, 1, 0, 2]
    expected = [blocks[number](x) for number in order]
    offload(blocks, torch.device("cpu"), torch.float32)
    for number, result in zip(order, expected, strict=True):
        assert torch.equal(blocks[number](x), result)
    assert {name: p.shape for name, p in blocks[1].named_parameters()} == {"weight": (5, 5), "bias": (5,)}


def test_parts_take_turns(model):
    expected = video(model)
    moves = []
    placed = place(model, Placement("cpu", offload="model"))
    assert placed.swapped
    for name in ("dit", "codec"):
        module = getattr(placed, name)
        module.to = lambda device, name=name: moves.append(name)
    assert torch.equal(video(placed), expected)
    # the codec comes (and the transformer leaves) to encode, the transformer in both steps, the codec to decode
    assert moves == ["dit", "codec", "codec", "dit", "codec", "dit", "dit", "codec"]


def test_guidance_in_one_pass_or_two(small_run, small_model, monkeypatch):
    from mvtrack.config.tree import from_tree

    tree = small_run["model"] | {"dit": small_run["model"]["dit"] | {"text_dim": 7}}
    model = replace(build_model(from_tree(ModelConfig, tree, "model"), seed=2), codec=small_model.codec)
    g = torch.Generator().manual_seed(1)
    told = Prompts(torch.randn(11, 7, generator=g), torch.randn(11, 7, generator=g))
    sample = SamplerOptions(2, guidance=40.0)
    monkeypatch.setattr(generating, "matmul_precision", lambda _: nullcontext())
    apart = video(place(model, Placement("cpu")), sample, told)
    together = video(place(model, Placement("cpu", batched_guidance=True)), sample, told)
    torch.testing.assert_close(together, apart, atol=1e-5, rtol=0)
    assert (video(model, SamplerOptions(2), told) - apart).abs().max() > 1e-3


def test_compiling_is_passed_on(model, monkeypatch):
    calls = []
    monkeypatch.setattr(type(model.dit), "compile_blocks", lambda self, or_not: calls.append(or_not))
    place(model, Placement("cpu"))
    place(model, Placement("cpu", compile=True))
    assert calls == [True]


def test_a_failing_compiler_costs_a_warning_and_no_video(model, monkeypatch):
    def fails(*_):
        raise torch._dynamo.exc.TorchDynamoException("no C++ compiler\nand more")

    expected = video(model)
    monkeypatch.setattr(torch, "compile", lambda function, dynamic: fails)
    with pytest.warns(UserWarning, match="runs as it is, for the compiler failed: no C\\+\\+ compiler$"):
        made = video(place(model, Placement("cpu", compile=True)))
    assert torch.equal(made, expected)
    model.dit.compile_blocks()  # as training does
    with pytest.raises(torch._dynamo.exc.TorchDynamoException):
        video(model)


def test_vae_settings_are_for_wans(model):
    with pytest.raises(ValueError, match="--vae-precision is for codec.kind wan_vae, this model's is pca"):
        place(model, Placement("cpu", vae_precision="bfloat16"))
    config = preset("recammaster_1.3b")
    assert placed_config(config, Placement("cpu")).codec == config.codec
    assert placed_config(config, Placement("cpu", vae_precision="bfloat16")).codec.precision == "bfloat16"


@pytest.mark.parametrize(
    ("placement", "message"),
    [
        ({"device": "cuda:99"}, "device cuda:99 is not there"),
        ({"device": "toaster"}, "unknown device 'toaster'"),
        ({"device": "xpu"}, "device xpu is not supported"),
        ({"compile": True, "offload": "blocks"}, "leave out --compile, or use --offload model"),
        ({"cuda_graphs": True, "offload": "model"}, "for one GPU that holds all of the model: leave out --offload"),
        ({"cuda_graphs": True, "device": "cpu"}, "--cuda-graphs is for a GPU, the device is cpu: leave it out"),
    ],
)
def test_what_cannot_be_is_said(model, placement, message):
    with pytest.raises(ValueError, match=message):
        place(model, Placement(**placement))


def test_offloading_names_its_package(model, monkeypatch):
    monkeypatch.setitem(sys.modules, "mvtrack.inference.block_offload", None)
    with pytest.raises(ValueError, match=r"needs the package accelerate: pip install -e '\.\[wan\]'"):
        place(model, Placement("cpu", offload="blocks"))


def test_a_model_says_how_it_is_sampled(small_model):
    config = replace(small_model.config, sampling=SamplingConfig(steps=3))
    assert SamplerOptions.of(config) == SamplerOptions(3)
    assert SamplerOptions.of(config, steps=5, seed=2) == SamplerOptions(5, seed=2)
    with pytest.raises(ValueError, match="set it to 1 where dit.text_dim is 0"):
        replace(small_model.config, sampling=SamplingConfig(guidance=5.0))
    with pytest.raises(ValueError, match="at least 1, got 0"):
        SamplingConfig(steps=0)


@pytest.mark.gpu
@pytest.mark.parametrize("offload", ["none", "model", "blocks"])
def test_the_same_video_on_a_gpu(model, offload):
    expected = video(ReshootModel(model.config, deepcopy(model.dit), deepcopy(model.codec)))
    placed = place(model, Placement("cuda", offload=offload))
    torch.testing.assert_close(video(placed), expected, atol=0.1, rtol=0)


@pytest.mark.parametrize("kind", ["int8", "fp8", "int8_dynamic"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_weights_of_8_bits_change_little_and_take_what_is_foretold(model, kind, precision):
    dtype = getattr(torch, precision)
    before = video(place(replace(model, dit=deepcopy(model.dit)), Placement(device="cpu", precision=precision)))
    placed = place(model, Placement(device="cpu", precision=precision, quantize=kind))
    error = (video(placed) - before).square().mean().sqrt()
    assert 0 < error < 0.05 * before.std()
    weights = [p for n, p in placed.dit.named_parameters() if not n.startswith("tracking_head.")]
    head = sum(p.nbytes for p in placed.dit.tracking_head.parameters())
    zero_points = 2 * (4 * 24 + 32 + 24) if kind == "fp8" else 0  # a byte for each row of two blocks, which it lacks
    assert sum(map(bytes_of, weights)) + head == weights_bytes(model.config, dtype, quantized=True)[0] - zero_points
    kept = {n for n, p in placed.dit.named_parameters() if type(p.data) is torch.Tensor}
    assert {"blocks.0.camera_proj.weight", "head.head.weight", "patch_embedding.weight"} <= kept
    assert not any(n.endswith(("self_attn.q.weight", "ffn.2.weight")) for n in kept)


def test_weights_of_8_bits_are_refused_where_they_cannot_be(model):
    with pytest.raises(ValueError, match="--quantize is for one device .* leave it out, or --offload blocks"):
        Placement(quantize="int8", offload="blocks")
    with pytest.raises(ValueError, match="--quantize is for one device .* leave it out, or --gpus 2"):
        Placement(quantize="int8", gpus=2)
    with pytest.raises(ValueError, match="fp8_dynamic needs a GPU .* cpu does not: use fp8, or int8_dynamic"):
        place(model, Placement(device="cpu", quantize="fp8_dynamic"))
