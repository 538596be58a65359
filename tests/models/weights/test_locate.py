import json
from pathlib import Path

import pytest

from mvtrack.models.weights.locate import choose, companions, find

OFFICIAL = [
    "config.json", "diffusion_pytorch_model.safetensors", "Wan2.1_VAE.pth", "models_t5_umt5-xxl-enc-bf16.pth",
    "google/umt5-xxl/tokenizer.json", "google/umt5-xxl/spiece.model", "google/umt5-xxl/tokenizer_config.json",
]  # fmt: skip
PIPELINE = [
    "model_index.json", "transformer/config.json", "transformer/diffusion_pytorch_model.safetensors.index.json",
    "transformer/diffusion_pytorch_model-00001-of-00002.safetensors", "vae/diffusion_pytorch_model.safetensors",
    "text_encoder/model.safetensors.index.json", "tokenizer/tokenizer.json",
]  # fmt: skip


@pytest.mark.parametrize(
    ("names", "wanted", "chosen"),
    [
        (OFFICIAL, "dit", "diffusion_pytorch_model.safetensors"),
        (OFFICIAL, "vae", "Wan2.1_VAE.pth"),
        (OFFICIAL, "text", "models_t5_umt5-xxl-enc-bf16.pth"),
        (OFFICIAL, "tokenizer", "google/umt5-xxl/tokenizer.json"),
        (OFFICIAL, "image", None),
        (PIPELINE, "dit", "transformer/diffusion_pytorch_model.safetensors.index.json"),
        (PIPELINE, "vae", "vae/diffusion_pytorch_model.safetensors"),
        (PIPELINE, "text", "text_encoder/model.safetensors.index.json"),
        (PIPELINE, "tokenizer", "tokenizer/tokenizer.json"),
        (["README.md", "step20000.ckpt"], "dit", "step20000.ckpt"),
        (["a.ckpt", "b.safetensors"], "dit", None),
        (["config.json", "diffusion_pytorch_model.safetensors"], "vae", "diffusion_pytorch_model.safetensors"),
        (["tokenizer.json"], "tokenizer", "tokenizer.json"),
        (["model.safetensors", "other.safetensors"], "model", "model.safetensors"),
        (["step20000.safetensors"], "model", None),
        ([], "dit", None),
    ],
)
def test_parts_are_found_in_each_release(names, wanted, chosen):
    assert choose(wanted, names) == chosen


def test_companion_files_are_listed():
    index = "transformer/diffusion_pytorch_model.safetensors.index.json"
    assert companions(index) == [index, "transformer/diffusion_pytorch_model-*.safetensors"]
    assert companions("step20000.ckpt") == ["step20000.ckpt"]
    assert companions("google/umt5-xxl/spiece.model") == ["google/umt5-xxl/*"]
    assert companions("tokenizer.json") == ["*.json", "*.model"]


def folder(root: Path, names: list[str]) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("x")
    return root


def test_half_downloaded_folder_raises(tmp_path):
    root = folder(tmp_path, PIPELINE)
    shards = {f"k{n}": f"diffusion_pytorch_model-0000{n}-of-00002.safetensors" for n in (1, 2)}
    index = root / "transformer/diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": shards}))
    with pytest.raises(
        ValueError, match="names diffusion_pytorch_model-00002-of-00002.safetensors, which is not there: "
    ):
        find("dit", root)
    unfinished = root / ".cache/huggingface/download/transformer/abc.incomplete"
    folder(root, [str(unfinished.relative_to(root))])
    with pytest.raises(
        ValueError, match=r"not there \(a download stopped half-way: abc.incomplete\): download it again"
    ):
        find("dit", root)
    index.unlink()
    with pytest.raises(ValueError, match="shards such as transformer/.*00001-of-00002.safetensors but no .*index.json"):
        find("dit", root)


@pytest.mark.parametrize("given", ["", "google/umt5-xxl", "google/umt5-xxl/tokenizer.json"])
def test_tokenizer_without_config_raises(tmp_path, given):
    root = folder(tmp_path, ["google/umt5-xxl/tokenizer.json"])
    with pytest.raises(ValueError, match="tokenizer.json needs beside it tokenizer_config.json, which is not there"):
        find("tokenizer", root / given)


def test_missing_parts_of_folder_raise(tmp_path):
    with pytest.raises(ValueError, match=f"no dit weights in {tmp_path}: expected transformer/diffusion"):
        find("dit", tmp_path)
    with pytest.raises(ValueError, match="it has a.ckpt, b.ckpt: name the file"):
        find("dit", folder(tmp_path, ["a.ckpt", "b.ckpt"]))
    with pytest.raises(ValueError, match="no tokenizer weights|no tokenizer"):
        find("tokenizer", tmp_path)


def test_file_locates_itself(tmp_path):
    root = folder(tmp_path, OFFICIAL)
    assert find("vae", root / "Wan2.1_VAE.pth") == root / "Wan2.1_VAE.pth"
    assert find("tokenizer", root) == root / "google/umt5-xxl"
    assert find("tokenizer", root / "google/umt5-xxl/spiece.model") == root / "google/umt5-xxl"
