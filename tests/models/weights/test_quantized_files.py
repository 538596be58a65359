"""Files of fewer bits, written by the packages that others write them with."""

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from mvtrack.models.weights.checkpoint import open_checkpoint

TENSORS = {
    "blocks.0.ffn.0.weight": torch.randn(7, 64, generator=torch.Generator().manual_seed(1)),
    "patch_embedding.weight": torch.randn(5, 2, 1, 4, 8, generator=torch.Generator().manual_seed(2)),
    "head.modulation": torch.randn(1, 2, 11, generator=torch.Generator().manual_seed(3)),
}


@pytest.fixture
def file(tmp_path) -> Path:
    """Quantised, of five axes and thus with its shape beside it, and plain."""
    writer = gguf.GGUFWriter(tmp_path / "wan.gguf", "wan")
    first, second, third = TENSORS.items()
    quantised = gguf.quantize(first[1].numpy(), gguf.GGMLQuantizationType.Q8_0)
    writer.add_tensor(first[0], quantised, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.add_array(f"comfy.gguf.orig_shape.{second[0]}", list(second[1].shape))
    writer.add_tensor(second[0], second[1].reshape(40, 8).numpy().astype(np.float16))
    writer.add_tensor(third[0], third[1].numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tmp_path / "wan.gguf"


def test_a_gguf_file_is_read(file):
    found = open_checkpoint(file)
    assert found.shapes == {name: tuple(tensor.shape) for name, tensor in TENSORS.items()}
    assert [stored.dtype for stored in found.tensors.values()] == [torch.float32, torch.float16, torch.float32]
    for name, tensor in TENSORS.items():
        assert found.read(name).dtype == found.tensors[name].dtype
        torch.testing.assert_close(found.read(name).float(), tensor, rtol=1e-3, atol=0.02)
    rows = TENSORS["blocks.0.ffn.0.weight"].unflatten(1, (2, 32))  # Q8_0: a scale for each 32
    step = rows.abs().amax(-1, keepdim=True) / 127
    error = (found.read("blocks.0.ffn.0.weight").unflatten(1, (2, 32)) - rows).abs()
    assert (error <= 0.6 * step).all()  # half a step, and the scale is a float16
    assert torch.equal(found.read("head.modulation"), TENSORS["head.modulation"])
    found.read("head.modulation").zero_()
    assert torch.equal(found.read("head.modulation"), TENSORS["head.modulation"])


@pytest.mark.parametrize("length", [3, 40, 300, -20])
def test_a_gguf_file_cut_short_is_named(file, length):
    file.write_bytes(file.read_bytes()[:length])
    with pytest.raises(ValueError, match=r"wan\.gguf is not a whole GGUF file .*download or copy it again"):
        open_checkpoint(file)


def test_a_quantisation_that_nobody_knows_is_named(file, monkeypatch):
    found = open_checkpoint(file)

    def unknown(*_: object) -> None:
        raise NotImplementedError

    monkeypatch.setattr(gguf, "dequantize", unknown)
    with pytest.raises(ValueError, match=r"wan\.gguf holds blocks\.0\.ffn\.0\.weight as Q8_0, which cannot be read"):
        found.read("blocks.0.ffn.0.weight")


def test_8_bit_floats_are_what_they_stand_for(tmp_path):
    eight = {name: tensor.to(torch.float8_e4m3fn) for name, tensor in TENSORS.items()}
    save_file(eight, tmp_path / "plain.safetensors")
    found = open_checkpoint(tmp_path / "plain.safetensors")
    for name, tensor in eight.items():
        assert found.tensors[name].dtype == torch.bfloat16
        assert torch.equal(found.read(name), tensor.bfloat16())
    name = "blocks.0.ffn.0"
    scale = {f"{name}.scale_weight": torch.tensor(0.25), "scaled_fp8": torch.empty(2).to(torch.float8_e4m3fn)}
    save_file({f"{name}.weight": eight[f"{name}.weight"]} | scale, tmp_path / "scaled.safetensors")
    found = open_checkpoint(tmp_path / "scaled.safetensors")
    assert list(found.tensors) == [f"{name}.weight"]
    assert torch.equal(found.read(f"{name}.weight"), 0.25 * eight[f"{name}.weight"].float())
