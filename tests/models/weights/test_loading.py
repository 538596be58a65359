import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from mvtrack.models.weights.checkpoint import open_checkpoint
from mvtrack.models.weights.loading import Gaps, load_into, match, pattern_of

EXPECTED = {
    "blocks.0.a.weight": (3, 5),
    "blocks.1.a.weight": (3, 5),
    "blocks.0.new.bias": (7,),
    "blocks.1.new.bias": (7,),
}
OLD = {name: shape for name, shape in EXPECTED.items() if ".new." not in name}


def test_allowed_differences_are_reported(invented):
    checkpoint = invented(OLD | {"blocks.0.extra.weight": (2,), "blocks.1.extra.weight": (2,)})
    found = match(EXPECTED, checkpoint, Gaps(new=("blocks.*.new.*",), dropped=("blocks.*.extra.*",)))
    assert found.read == tuple(OLD)
    assert found.new == ("blocks.0.new.bias", "blocks.1.new.bias")
    assert found.dropped == ("blocks.0.extra.weight", "blocks.1.extra.weight")


@pytest.mark.parametrize(
    ("change", "gaps", "message"),
    [
        ({}, Gaps(), "blocks.0.new.bias is missing; .*2 differences"),
        ({"blocks.0.extra.weight": (2,)}, Gaps(("*.new.*",)), r"extra.weight has no place .*drop 'blocks.\*.extra.\*'"),
        ({"blocks.1.a.weight": (3, 4)}, Gaps(("*.new.*",)), r"blocks.1.a.weight is \[3, 4\], the model has \[3, 5\]"),
        ({"blocks.0.new.bias": (7,)}, Gaps(("*.new.*",)), "has 1 of 2 .*lacks blocks.1.new.bias: it was cut off"),
        ({}, Gaps(("*.new.*",), ("nothing.*",)), r"has nothing that 'nothing.\*' could drop"),
    ],
)
def test_other_differences_raise(invented, change, gaps, message):
    with pytest.raises(ValueError, match=f"invented.safetensors.*{message}"):
        match(EXPECTED, invented(OLD | change), gaps)


def test_pattern_covers_every_block():
    assert pattern_of("blocks.12.cam_encoder.weight") == "blocks.*.cam_encoder.*"
    assert pattern_of("img_emb.proj.0.weight") == "img_emb.proj.0.*"


def test_module_takes_file_tensors_unchanged(tmp_path):
    state = {"weight": torch.randn(5, 3).bfloat16(), "bias": torch.randn(5).bfloat16()}
    save_file(state, tmp_path / "m.safetensors")
    with torch.device("meta"):
        module = nn.Linear(3, 5)
    load_into(module, open_checkpoint(tmp_path / "m.safetensors"))
    assert all(torch.equal(value, state[name]) for name, value in module.state_dict().items())
    assert module.weight.requires_grad
    load_into(module, open_checkpoint(tmp_path / "m.safetensors"), dtype=torch.float32)
    assert module.weight.dtype == torch.float32
    assert torch.equal(module.weight, state["weight"].float())


def test_new_parameters_keep_initial_values(tmp_path):
    save_file({"weight": torch.ones(5, 3)}, tmp_path / "m.safetensors")
    module = nn.Linear(3, 5)
    before = module.bias.clone()
    load_into(module, open_checkpoint(tmp_path / "m.safetensors"), Gaps(new=("bias",)))
    assert torch.equal(module.bias, before)
    assert torch.equal(module.weight, torch.ones(5, 3))
