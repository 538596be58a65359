import json
import re
from dataclasses import replace

import pytest

from mvtrack.config.presets import PRESETS
from mvtrack.models.weights.registry import WeightsEntry, fetch_command, needed_by, problem_with, registry


def test_registry_entries_are_whole():
    for name, entry in registry().items():
        assert entry.name == name
        assert entry.source
        assert entry.file
        assert entry.needed_by
        assert entry.sha256 is None or re.fullmatch("[0-9a-f]{8}|[0-9a-f]{64}", entry.sha256)
        assert entry.licence or entry.note, f"{name} says nothing about its licence"
        assert (entry.non_commercial is None) == (entry.licence is None)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_name_their_weights(name):
    parts = {entry.part for entry in needed_by(f"preset {name}")}
    config = PRESETS[name]
    assert parts == {"dit", "vae", "text", "tokenizer"} | ({"image"} if config.image else set())
    sources = {entry.part: entry.source for entry in needed_by(f"preset {name}")}
    assert sources["vae"] == config.codec.weights
    assert sources["text"] == sources["tokenizer"] == config.text.weights
    assert config.image is None or sources["image"] == config.image.weights


def test_entry_lists_files_to_fetch():
    entries = registry()
    wan = "hf download Wan-AI/Wan2.1-T2V-1"
    assert fetch_command(entries["wan2.1_vae"]) == f"{wan}.3B Wan2.1_VAE.pth"
    assert fetch_command(entries["umt5_tokenizer"]) == f"{wan}.3B --include 'google/umt5-xxl/*'"
    shards = "--include 'diffusion_pytorch_model-*.safetensors'"
    index = "--include 'diffusion_pytorch_model.safetensors.index.json'"
    assert fetch_command(entries["wan2.1_t2v_14b"]) == f"{wan}4B {index} {shards}"


def test_partial_entry_is_not_found(tmp_path):
    entry = registry()["wan2.1_t2v_14b"]
    index, shards = tmp_path / entry.file, [f"diffusion_pytorch_model-0000{n}-of-00003.safetensors" for n in (1, 2, 3)]
    index.write_text(json.dumps({"weight_map": {f"k{n}": name for n, name in enumerate(shards)}}))
    (tmp_path / shards[0]).write_bytes(b"x")
    problem = problem_with(index, entry, hash_it=False)
    assert f"but not {shards[1]} (and 1 more) that belongs to it: {fetch_command(entry)}" in problem
    for name in shards:
        (tmp_path / name).write_bytes(b"x")
    assert problem_with(index, entry, hash_it=False) is None
    entry = replace(registry()["umt5_tokenizer"], bytes=None, sha256=None)
    tokenizer = tmp_path / "tokenizer.json"
    tokenizer.write_text("{}")
    assert "but not tokenizer_config.json that belongs to it" in problem_with(tokenizer, entry)


def test_wrong_size_and_hash_are_reported(tmp_path):
    path = tmp_path / "w.pth"
    path.write_bytes(b"hello")
    digest = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"  # of "hello", from sha256sum
    entry = WeightsEntry("w", "dit", "a/b", "w.pth", 5, digest)
    assert problem_with(path, entry) is None
    assert problem_with(path, replace(entry, sha256=digest[:8], bytes=None)) is None
    assert "has 5 bytes, w has 7: download it again" in problem_with(path, replace(entry, bytes=7))
    assert "it is another file" in problem_with(path, replace(entry, sha256="0" * 64))
    assert problem_with(path, replace(entry, sha256="0" * 64), hash_it=False) is None
