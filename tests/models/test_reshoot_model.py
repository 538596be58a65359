import pytest
import torch

from mvtrack.models.reshoot_model import load_model, model_file, read_config, save_model, write_model


def test_half_precision_file_keeps_three_digits(small_model, tmp_path):
    whole = save_model(small_model, tmp_path / "whole")
    half = write_model(
        small_model.config, small_model.dit.state_dict(), small_model.codec.state_dict(), tmp_path / "half", half=True
    )
    assert read_config(half) == read_config(whole)
    assert half.stat().st_size < 0.7 * whole.stat().st_size
    loaded, exact = load_model(half), dict(small_model.dit.named_parameters())
    for name, value in loaded.dit.named_parameters():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, exact[name], rtol=1e-3, atol=1e-6)
    for name, value in loaded.codec.state_dict().items():
        assert torch.equal(value, small_model.codec.state_dict()[name])  # the codec keeps every digit


def test_truncated_model_file_raises(small_model, tmp_path):
    path = save_model(small_model, tmp_path)
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(ValueError, match="is not a whole safetensors file"):
        load_model(path)


def test_a_shipped_model_is_found_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert model_file("shipped:tiny").parts[-3:] == ("shipped", "tiny", "model.safetensors")
    with pytest.raises(ValueError, match="no model at .*shipped/none"):
        model_file("shipped:none")
