import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from mvtrack.inference.environment import needed_files
from mvtrack.inference.pipeline import model_hash
from mvtrack.models.reshoot_model import load_model, model_file, read_config, save_model
from mvtrack.models.weights.sources import HubModel, parse_hub, resolve

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize(
    ("text", "hub"),
    [
        ("Wan-AI/Wan2.1-T2V-1.3B", HubModel("Wan-AI/Wan2.1-T2V-1.3B")),
        ("a/b@refs/pr/3", HubModel("a/b", "refs/pr/3")),
        ("a/b@9f3c:sub/step20000.ckpt", HubModel("a/b", "9f3c", "sub/step20000.ckpt")),
        ("a/b:x.safetensors", HubModel("a/b", None, "x.safetensors")),
        ("/models/a/b", None),
        ("./a/b", None),
        ("runs/model.safetensors", None),
        ("model", None),
    ],
)
def test_hub_ids_are_told_apart_from_paths(text, hub):
    assert parse_hub(text) == hub


def test_existing_path_comes_before_hub_id(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a/b").mkdir(parents=True)
    save_file({"w": torch.zeros(1)}, "a/b/step.safetensors")
    assert resolve("a/b", "dit") == Path("a/b/step.safetensors")
    with pytest.raises(ValueError, match="weights nowhere/x.ckpt do not exist: give a file, a folder, or a hub id"):
        resolve("nowhere/x.ckpt", "dit")


def hub_cache(home: Path, files: dict[str, dict]) -> Path:
    """A hub cache below `home` with one model, a snapshot of it on branch main."""
    model = home / "hub/models--maker--thing"
    (model / "refs").mkdir(parents=True)
    (model / "refs/main").write_text("c0ffee")
    for name, state in files.items():
        path = model / "snapshots/c0ffee" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(state, path) if name.endswith(".safetensors") else path.write_text(str(state).replace("'", '"'))
    return model / "snapshots/c0ffee"


def resolve_apart(queries: list[tuple[str, str]], home: Path, **environment: str) -> list[tuple[str, int]]:
    """`resolve` in a process of its own (the hub client reads the environment once), where every connection fails.

    Returns for each query the path or the error, and how often the network was tried.
    """
    pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")
    code = (
        "import json, socket\n"
        "tried = []\n"
        "def refuse(*_, **__): tried.append(1); raise OSError('no network')\n"
        "socket.getaddrinfo = socket.socket.connect = refuse\n"
        "from mvtrack.models.weights.sources import resolve\n"
        "answers = []\n"
        f"for source, wanted in {queries!r}:\n"
        "    tried.clear()\n"
        "    try: answers.append([str(resolve(source, wanted)), len(tried)])\n"
        "    except ValueError as error: answers.append([str(error), len(tried)])\n"
        "print(json.dumps(answers))\n"
    )
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    given = inherited | {"PYTHONPATH": str(ROOT), "HF_HOME": str(home)} | environment
    done = subprocess.run([sys.executable, "-c", code], env=given, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_hub_is_asked_only_for_uncached_files(tmp_path):
    snapshot = hub_cache(tmp_path, {"step20000.safetensors": {"w": torch.zeros(1)}})
    found, named, absent = resolve_apart(
        [("maker/thing", "dit"), ("maker/thing:step20000.safetensors", "dit"), ("maker/other", "dit")], tmp_path
    )
    assert found == named == [str(snapshot / "step20000.safetensors"), 0]
    assert absent[0].startswith("maker/other could not be had from the hub (")
    assert "check the name, the network" in absent[0]
    assert "\n" not in absent[0]
    assert absent[1] > 0


def test_offline_missing_files_raise(tmp_path):
    index = {"weight_map": {"w": "diffusion_pytorch_model-00001-of-00001.safetensors"}}
    hub_cache(tmp_path, {"diffusion_pytorch_model.safetensors.index.json": index})
    incomplete, absent = resolve_apart([("maker/thing", "dit"), ("maker/other", "vae")], tmp_path, HF_HUB_OFFLINE="1")
    assert incomplete[0].startswith(f"maker/thing is not in the cache {tmp_path}/hub (diffusion_pytorch_model.safet")
    assert "is not complete) and HF_HUB_OFFLINE is set: unset it, or run `hf download maker/thing`" in incomplete[0]
    assert "(its vae is not there) and HF_HUB_OFFLINE is set" in absent[0]
    assert incomplete[1] == absent[1] == 0


def test_cached_tokenizer_without_config_is_incomplete(tmp_path):
    hub_cache(tmp_path, {"google/umt5-xxl/tokenizer.json": {}})
    query = ("maker/thing", "tokenizer")
    (online,), (offline,) = resolve_apart([query], tmp_path), resolve_apart([query], tmp_path, HF_HUB_OFFLINE="1")
    assert "could not be had from the hub" in online[0]
    assert online[1] > 0  # it goes for the rest
    assert "google/umt5-xxl/tokenizer.json of it is not complete) and HF_HUB_OFFLINE is set" in offline[0]


def test_model_folder_loads_from_hub(tmp_path, small_model, monkeypatch):
    """By the cache alone: no network."""
    constants = pytest.importorskip("huggingface_hub.constants", reason="huggingface_hub is not installed")
    snapshot = hub_cache(tmp_path, {"step20000.safetensors": {"w": torch.zeros(1)}})
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match="no model at maker/thing: .* by `mvtrack convert maker/thing FOLDER`"):
        load_model("maker/thing")  # released weights
    save_model(small_model, snapshot)
    assert model_file("maker/thing") == snapshot / "model.safetensors"
    assert read_config("maker/thing") == small_model.config
    loaded = load_model("maker/thing@main")
    assert torch.equal(loaded.dit.head.modulation, small_model.dit.head.modulation)
    assert model_hash("maker/thing") == model_hash(str(snapshot))
    assert list(needed_files(small_model.config, "maker/thing"))[-1].fine
    lacking = list(needed_files(small_model.config, "maker/other"))[-1]
    assert not lacking.fine
    assert "`hf download maker/other`" in lacking.text


def test_hub_id_without_client_names_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ValueError, match=r"a/b is a hub id.*pip install -e '\.\[wan\]', or give a local path"):
        resolve("a/b", "dit")
