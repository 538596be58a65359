import json
import pickle

import pytest
import torch
from safetensors.torch import save_file

from mvtrack.models.weights.checkpoint import Checkpoint, open_checkpoint, shard_names


def state() -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(3)
    return {"a.weight": torch.randn(5, 7, generator=g), "b.bias": torch.randn(11, generator=g).bfloat16()}


def assert_holds(checkpoint: Checkpoint, expected: dict[str, torch.Tensor]) -> None:
    assert checkpoint.shapes == {name: tuple(t.shape) for name, t in expected.items()}
    for name, tensor in expected.items():
        assert checkpoint.tensors[name].dtype == checkpoint.read(name).dtype == tensor.dtype
        assert torch.equal(checkpoint.read(name), tensor)


@pytest.fixture
def shards(tmp_path):
    """Two shards and their index."""
    for number, (name, tensor) in enumerate(state().items(), 1):
        save_file({name: tensor}, tmp_path / f"m-{number:05}-of-00002.safetensors")
    files = {name: f"m-{number:05}-of-00002.safetensors" for number, name in enumerate(state(), 1)}
    index = tmp_path / "m.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": files}))
    return index


def test_checkpoint_reads_safetensors_with_metadata(tmp_path):
    save_file(state(), tmp_path / "m.safetensors", metadata={"config": "{}"})
    checkpoint = open_checkpoint(tmp_path / "m.safetensors")
    assert_holds(checkpoint, state())
    assert checkpoint.metadata == {"config": "{}"}
    assert checkpoint.common_dtype == torch.float32


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"state_dict": s}, lambda s: {"model_state": s}])
@pytest.mark.parametrize("zipped", [True, False])
def test_checkpoint_reads_pickles(tmp_path, wrap, zipped):
    torch.save(wrap(state()), tmp_path / "m.pth", _use_new_zipfile_serialization=zipped)
    assert_holds(open_checkpoint(tmp_path / "m.pth"), state())


def test_checkpoint_reads_shards(shards):
    assert_holds(open_checkpoint(shards), state())
    assert shard_names(shards) == ["m-00001-of-00002.safetensors", "m-00002-of-00002.safetensors"]


def test_loaded_tensor_does_not_alias_file(tmp_path):
    save_file(state(), tmp_path / "m.safetensors")
    torch.save(state(), tmp_path / "m.pth")
    for name in ("m.safetensors", "m.pth"):
        open_checkpoint(tmp_path / name).read("a.weight").zero_()
        assert_holds(open_checkpoint(tmp_path / name), state())


def test_delta_overrides_base(tmp_path):
    save_file(state(), tmp_path / "base.safetensors")
    save_file({"b.bias": torch.zeros(11), "c": torch.ones(2)}, tmp_path / "delta.safetensors")
    base, delta = open_checkpoint(tmp_path / "base.safetensors"), open_checkpoint(tmp_path / "delta.safetensors")
    assert_holds(base.overlaid(delta), state() | {"b.bias": torch.zeros(11), "c": torch.ones(2)})
    save_file({"b.bias": torch.zeros(13)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"other.safetensors does not fit .*b.bias is \[13\], the base has \[11\]"):
        base.overlaid(open_checkpoint(tmp_path / "other.safetensors"))


class Command:
    """An object whose unpickling would run code."""

    def __reduce__(self):
        return print, ("ran",)


def test_unsafe_pickle_raises(tmp_path, capsys):
    torch.save({"a": torch.zeros(2), "b": Command()}, tmp_path / "evil.ckpt")
    with pytest.raises(ValueError, match="evil.ckpt holds more than tensors.*was not read"):
        open_checkpoint(tmp_path / "evil.ckpt")
    (tmp_path / "plain.bin").write_bytes(pickle.dumps(Command(), protocol=2))
    with pytest.raises(ValueError, match="plain.bin holds more than tensors"):
        open_checkpoint(tmp_path / "plain.bin")
    assert "ran" not in capsys.readouterr().out


@pytest.mark.parametrize("name", ["m.safetensors", "m.pth"])
@pytest.mark.parametrize("share", [0.3, 0.97])
def test_truncated_checkpoint_raises(tmp_path, name, share):
    path = tmp_path / name
    big = {"w": torch.zeros(40_000)}
    save_file(big, path) if path.suffix == ".safetensors" else torch.save(big, path)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(ValueError, match=f"{name} is (not a whole safetensors file|damaged).*again"):
        open_checkpoint(path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("m.safetensors", b"", "is empty"),
        ("m.safetensors", b"version https://git-lfs.github.com/spec/v1\noid", "git-lfs pointer.*git lfs pull"),
        ("m.pth", b"<!DOCTYPE html><html>log in", "web page"),
        ("m.pth", b"not a pickle at all", "m.pth (is damaged|holds more than tensors)"),
        ("m.onnx", b"ONNX", "no weights file; known endings: .safetensors"),
        ("m.safetensors.index.json", b"{}", "not an index of safetensors shards"),
        ("m.safetensors.index.json", b'{"weight_map": {"a": "gone.safetensors"}}', "names 1 file.*gone.safetensors"),
    ],
)
def test_placeholder_files_raise(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        open_checkpoint(tmp_path / name)


def test_missing_and_foreign_files_raise(tmp_path):
    with pytest.raises(ValueError, match="nowhere.safetensors does not exist"):
        open_checkpoint(tmp_path / "nowhere.safetensors")
    torch.save({"step": 5, "w": torch.zeros(2)}, tmp_path / "mixed.pt")
    with pytest.raises(ValueError, match="mixed.pt holds 'step' beside tensors"):
        open_checkpoint(tmp_path / "mixed.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(ValueError, match="list.pt holds no named tensors"):
        open_checkpoint(tmp_path / "list.pt")


def test_incomplete_shard_raises(shards):
    save_file({"z": torch.zeros(1)}, shards.parent / "m-00002-of-00002.safetensors")
    with pytest.raises(ValueError, match="m-00002-of-00002.safetensors lacks b.bias"):
        open_checkpoint(shards)


def test_colliding_names_raise(tmp_path):
    save_file(state(), tmp_path / "m.safetensors")
    with pytest.raises(ValueError, match="two tensors become 'x'"):
        open_checkpoint(tmp_path / "m.safetensors").renamed(lambda name: "x")
