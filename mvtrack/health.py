"""What an installation has and lacks, section by section: packages, devices, attention kernels, programs, weights."""

import importlib.util
import os
import platform
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import torch

from mvtrack.backbone.attention import kernel_report
from mvtrack.config import ModelConfig
from mvtrack.data.footage import ffmpeg
from mvtrack.machine import free_gib
from mvtrack.weights.locate import Wanted
from mvtrack.weights.registry import WeightsEntry, cached_file, fetch_command, problem_with, registry
from mvtrack.weights.sources import parse_hub, resolve

PACKAGES = {  # and what they are for
    "torch": "", "safetensors": "", "numpy": "", "decord": "reading videos", "opencv-python-headless": "",
    "deepspeed": "training: pip install 'mvtrack[train]'", "tensorboard": "training: pip install 'mvtrack[train]'",
    "diffsynth": "Wan's VAE and encoders: pip install 'mvtrack[wan]'",
    "transformers": "tokenizers: pip install 'mvtrack[wan]'",
    "huggingface-hub": "weights from the hub: pip install 'mvtrack[wan]'",
    "accelerate": "--offload blocks: pip install 'mvtrack[wan]'",
    "flash-attn": "a faster kernel (optional)", "sageattention": "an 8-bit kernel (optional)",
    "viser": "the interactive preview: pip install 'mvtrack[page]'",
}  # fmt: skip
WAN_HEAD_WIDTH = 128


@dataclass(frozen=True)
class Line:
    """One fact. fine: None where it is neither good nor bad."""

    name: str
    text: str
    fine: bool | None = None


def packages() -> Iterator[Line]:
    yield Line("python", platform.python_version(), True)
    for name, purpose in {"mvtrack": "", **PACKAGES}.items():
        try:
            yield Line(name, metadata.version(name), True)
        except metadata.PackageNotFoundError:
            yield Line(name, f"not installed; {purpose}" if purpose else "not installed", None if purpose else False)


def devices() -> Iterator[Line]:
    capability, free = torch.backends.cpu.get_cpu_capability(), free_gib(torch.device("cpu"))
    memory = "" if free is None else f", {free:.1f} GiB free"
    yield Line("cpu", f"{platform.machine()} with {capability}, {os.cpu_count()} cores{memory}", True)
    for index in range(torch.cuda.device_count()):
        properties, device = torch.cuda.get_device_properties(index), torch.device("cuda", index)
        total = properties.total_memory / 2**30
        yield Line(f"cuda:{index}", f"{properties.name}, {free_gib(device):.1f} of {total:.1f} GiB free", True)
    if not torch.cuda.is_available():
        built = "is built without CUDA" if torch.version.cuda is None else "finds none (is the driver installed?)"
        yield Line("cuda", f"no GPU: PyTorch {torch.__version__} {built}")


def kernels(training: bool) -> Iterator[Line]:
    """Attention kernels for Wan's heads in bfloat16, in the order in which `auto` takes them."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    report = kernel_report(device, torch.bfloat16, WAN_HEAD_WIDTH, training)
    chosen = next((name for name, state in report.items() if state == "works" and name != "sage"), None)
    for name, state in report.items():
        yield Line(name, state + (" (taken)" if name == chosen else ""), state == "works" or None)
    if chosen is None:
        yield Line("auto", "none works: pictures of full size are refused", False)


def programs() -> Iterator[Line]:
    """ffmpeg, which comes with imageio."""
    try:
        program = ffmpeg()
        first = subprocess.run([program, "-version"], capture_output=True, text=True, timeout=60).stdout.splitlines()[0]
    except (OSError, RuntimeError, IndexError, subprocess.SubprocessError) as error:
        yield Line("ffmpeg", f"does not run ({error}): pip install --force-reinstall imageio-ffmpeg", False)
        return
    yield Line("ffmpeg", f"{first.split(' Copyright')[0].removeprefix('ffmpeg version ')}, {program}", True)


def weights(hash_them: bool = False) -> Iterator[Line]:
    """Registered weights of models in the hub's cache."""
    if importlib.util.find_spec("huggingface_hub") is None:
        yield Line("cache", "huggingface_hub is not installed, so nothing is looked up: pip install 'mvtrack[wan]'")
    for entry in registry().values():
        if entry.of_model:
            yield _weights_line(entry, hash_them)


def _weights_line(entry: WeightsEntry, hash_them: bool) -> Line:
    licence = entry.licence or "licence not looked up: read the model card"
    licence += ", NON-COMMERCIAL" if entry.non_commercial else ""
    size = "" if entry.bytes is None else f", {entry.bytes / 1e9:.1f} GB"
    digest = f", sha256 {entry.sha256[:12]}" if entry.sha256 else ", sha256 not known"
    path = cached_file(entry)
    if path is None:
        how = fetch_command(entry) if entry.from_hub else f"{entry.source}/{entry.file}"
        return Line(entry.name, f"missing{size}{digest}; {licence}; {how}")
    problem = problem_with(path, entry, hash_them)
    state = "hash is right" if hash_them and entry.sha256 else "not hashed (--hash)"
    return Line(entry.name, problem or f"{path}{size}{digest}, {state}; {licence}", problem is None)


def needed_files(config: ModelConfig, init_from: str | None = None) -> Iterator[Line]:
    """What a config names, as far as it is on this machine; nothing is downloaded."""
    wanted: list[tuple[str, str, Wanted]] = []
    if config.codec.weights:
        wanted.append(("model.codec.weights", config.codec.weights, "vae"))
    if config.text:
        wanted.append(("model.text.weights", config.text.weights, "text"))
        wanted.append(("model.text.tokenizer", config.text.tokenizer or config.text.weights, "tokenizer"))
    if config.image:
        wanted.append(("model.image.weights", config.image.weights, "image"))
    for name, source, part in wanted:
        try:
            yield Line(name, str(_offline(source, part)), True)
        except ValueError as error:
            hub = None if Path(source).exists() else parse_hub(source)
            fetch = hub and f"{source} is not on this machine: `hf download {hub.repo}`, or name a local path"
            yield Line(name, fetch or str(error), False)
    if init_from is not None:
        yield _start(init_from)


def _start(init_from: str) -> Line:
    """What `train.init_from` names: a path, or a model of this project in the hub's cache."""
    if Path(init_from).exists():
        return Line("train.init_from", init_from, True)
    try:
        return Line("train.init_from", str(_offline(init_from, "model")), True)
    except ValueError:
        hub = parse_hub(init_from)
        fetch = f", and `hf download {hub.repo}` would be needed if it is a hub id" if hub else ""
        return Line("train.init_from", f"{init_from} does not exist{fetch}: see docs/weights.md", False)


def _offline(source: str, part: Wanted) -> Path:
    try:
        from huggingface_hub import constants
    except ImportError:
        return resolve(source, part)
    before, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, True
    try:
        return resolve(source, part)
    finally:
        constants.HF_HUB_OFFLINE = before
