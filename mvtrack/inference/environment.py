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

from mvtrack.config.decoder import DecoderConfig
from mvtrack.config.model import ModelConfig
from mvtrack.config.placement import AttentionKernel
from mvtrack.inference.machine import free_gib
from mvtrack.models.attention import kernel_report, why_not
from mvtrack.models.cached_weights import resolve_here
from mvtrack.models.reshoot_model import on_disk
from mvtrack.models.weights.locate import Wanted
from mvtrack.models.weights.registry import WeightsEntry, cached_file, fetch_command, problem_with, registry
from mvtrack.models.weights.sources import parse_hub
from mvtrack.video.reader import ffmpeg

PACKAGES = {  # and what they are for
    "torch": "", "safetensors": "", "numpy": "", "decord": "reading videos", "opencv-python-headless": "",
    "deepspeed": "training: pip install -e '.[train]'", "tensorboard": "training: pip install -e '.[train]'",
    "diffsynth": "Wan's VAE and encoders: pip install -e '.[wan]'",
    "transformers": "tokenizers: pip install -e '.[wan]'",
    "huggingface-hub": "weights from the hub: pip install -e '.[wan]'",
    "accelerate": "--offload blocks: pip install -e '.[wan]'",
    "diffusers": "still views on SD2.1 and Hunyuan-DiT: pip install -e '.[sd]'",
    "flash-attn": "a faster kernel (optional)", "flash-attn-3": "the same for Hopper (optional)",
    "sageattention": "an 8-bit kernel (optional)",
    "torchao": "--quantize: pip install -e '.[bits]'", "gguf": "GGUF files: pip install -e '.[bits]'",
    "viser": "the interactive preview: pip install -e '.[page]'",
}  # fmt: skip
WAN_HEAD_WIDTH = 128


@dataclass(frozen=True)
class CheckLine:
    """One fact. fine: None where it is neither good nor bad."""

    name: str
    text: str
    fine: bool | None = None


def packages() -> Iterator[CheckLine]:
    yield CheckLine("python", platform.python_version(), True)
    for name, purpose in {"mvtrack": "", **PACKAGES}.items():
        try:
            yield CheckLine(name, metadata.version(name), True)
        except metadata.PackageNotFoundError:
            yield CheckLine(
                name, f"not installed; {purpose}" if purpose else "not installed", None if purpose else False
            )


def devices() -> Iterator[CheckLine]:
    capability, free = torch.backends.cpu.get_cpu_capability(), free_gib(torch.device("cpu"))
    memory = "" if free is None else f", {free:.1f} GiB free"
    yield CheckLine("cpu", f"{platform.machine()} with {capability}, {os.cpu_count()} cores{memory}", True)
    for index in range(torch.cuda.device_count()):
        properties, device = torch.cuda.get_device_properties(index), torch.device("cuda", index)
        total = properties.total_memory / 2**30
        yield CheckLine(f"cuda:{index}", f"{properties.name}, {free_gib(device):.1f} of {total:.1f} GiB free", True)
    if torch.version.cuda is not None:
        yield CheckLine("CUDA", f"{torch.version.cuda}, cuDNN {_cudnn()}, driver {_driver()}")
    if not torch.cuda.is_available():
        built = "is built without CUDA" if torch.version.cuda is None else "finds none (is the driver installed?)"
        yield CheckLine("cuda", f"no GPU: PyTorch {torch.__version__} {built}")


def _cudnn() -> str:
    """PyTorch's number: 90100 is 9.1.0."""
    number = torch.backends.cudnn.version()
    return "none" if number is None else f"{number // 10000}.{number // 100 % 100}.{number % 100}"


def _driver() -> str:
    """The NVIDIA driver's version, as its own program tells it."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return "not known (nvidia-smi does not run)"
    lines = told.stdout.split()
    return lines[0] if told.returncode == 0 and lines else "not known (nvidia-smi does not tell)"


def kernels(
    training: bool, wanted: AttentionKernel = "auto", device: torch.device | None = None
) -> Iterator[CheckLine]:
    """Attention kernels for Wan's heads in bfloat16, in the order in which `auto` takes them. wanted: the one that is
    asked for, which must work. device: default: a GPU where there is one."""
    device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    report = kernel_report(device, torch.bfloat16, WAN_HEAD_WIDTH, training)
    if wanted != "auto":
        report[wanted] = why_not(wanted, device, torch.bfloat16, WAN_HEAD_WIDTH, training) or "works"
    chosen = next((name for name, state in report.items() if state == "works" and name != "sage"), None)
    chosen = chosen if wanted == "auto" else wanted
    for name, state in report.items():
        if name != chosen:
            yield CheckLine(name, state, state == "works" or None)
        elif state == "works":
            yield CheckLine(name, "works (taken)", True)
        else:
            yield CheckLine(name, f"is asked for, but {state}", False)
    if chosen is None:
        yield CheckLine("auto", "none works: pictures of full size are refused", False)


def programs() -> Iterator[CheckLine]:
    """ffmpeg, which comes with imageio."""
    try:
        program = ffmpeg()
        first = subprocess.run([program, "-version"], capture_output=True, text=True, timeout=60).stdout.splitlines()[0]
    except (OSError, RuntimeError, IndexError, subprocess.SubprocessError) as error:
        yield CheckLine("ffmpeg", f"does not run ({error}): pip install --force-reinstall imageio-ffmpeg", False)
        return
    yield CheckLine("ffmpeg", f"{first.split(' Copyright')[0].removeprefix('ffmpeg version ')}, {program}", True)


def weights(hash_them: bool = False) -> Iterator[CheckLine]:
    """Registered weights of models in the hub's cache."""
    if importlib.util.find_spec("huggingface_hub") is None:
        yield CheckLine("cache", "huggingface_hub is not installed, so nothing is looked up: pip install -e '.[wan]'")
    for entry in registry().values():
        if entry.of_model:
            yield _weights_line(entry, hash_them)


def _weights_line(entry: WeightsEntry, hash_them: bool) -> CheckLine:
    path = cached_file(entry)
    if path is not None:
        return _file_line(entry.name, path, entry, hash_them)
    size = "" if entry.bytes is None else f", {entry.bytes / 1e9:.1f} GB"
    how = fetch_command(entry) if entry.from_hub else f"{entry.source}/{entry.file}"
    return CheckLine(entry.name, f"missing{size}{_digest(entry)}; {_licence(entry)}; {how}")


def _file_line(name: str, path: Path, entry: WeightsEntry, hash_them: bool) -> CheckLine:
    """A file that is there, compared with what it should be."""
    size = f", {path.stat().st_size / 1e9:.1f} GB"
    problem = problem_with(path, entry, hash_them)
    state = "hash is right" if hash_them and entry.sha256 else "not hashed (--hash)"
    return CheckLine(name, problem or f"{path}{size}{_digest(entry)}, {state}; {_licence(entry)}", problem is None)


def _licence(entry: WeightsEntry) -> str:
    licence = entry.licence or "licence not looked up: read the model card"
    return licence + (", NON-COMMERCIAL" if entry.non_commercial else "")


def _digest(entry: WeightsEntry) -> str:
    return f", sha256 {entry.sha256[:12]}" if entry.sha256 else ", sha256 not known"


def needed_files(config: ModelConfig, init_from: str | None = None, hash_them: bool = False) -> Iterator[CheckLine]:
    """What a config names, as far as it is on this machine; nothing is downloaded. Of files that the registry knows by
    name, licence and hash too."""
    wanted: list[tuple[str, str, Wanted]] = []
    if config.codec.weights:
        wanted.append(("model.codec.weights", config.codec.weights, "vae"))
    if config.text:
        wanted.append(("model.text.weights", config.text.weights, "text"))
        wanted.append(("model.text.tokenizer", config.text.tokenizer or config.text.weights, "tokenizer"))
    if config.image:
        wanted.append(("model.image.weights", config.image.weights, "image"))
    yield from _named(wanted, hash_them)
    if init_from is not None:
        yield _start(init_from)


def decoder_files(config: DecoderConfig, hash_them: bool = False) -> Iterator[CheckLine]:
    """The same for the training of an aligning decoder."""
    if config.codec is not None and config.codec.weights:
        yield from _named([("decoder.codec.weights", config.codec.weights, "vae")], hash_them)
    for name in ("model", "perceptual_backbone"):
        path = getattr(config, name)
        if path is not None:
            there = Path(path).exists()
            yield CheckLine(f"decoder.{name}", path if there else f"{path} does not exist", there)


def _named(wanted: list[tuple[str, str, Wanted]], hash_them: bool) -> Iterator[CheckLine]:
    for name, source, part in wanted:
        try:
            path = resolve_here(source, part)
            known = next((e for e in registry().values() if e.part == part and Path(e.file).name == path.name), None)
            yield CheckLine(name, str(path), True) if known is None else _file_line(name, path, known, hash_them)
        except ValueError as error:
            hub = None if Path(source).exists() else parse_hub(source)
            fetch = hub and f"{source} is not on this machine: `hf download {hub.repo}`, or name a local path"
            yield CheckLine(name, fetch or str(error), False)


def _start(init_from: str) -> CheckLine:
    """What `train.init_from` names: a path, or a model of this project in the hub's cache."""
    if on_disk(init_from).exists():
        return CheckLine("train.init_from", init_from, True)
    try:
        return CheckLine("train.init_from", str(resolve_here(init_from, "model")), True)
    except ValueError:
        hub = parse_hub(init_from)
        fetch = f", and `hf download {hub.repo}` would be needed if it is a hub id" if hub else ""
        return CheckLine("train.init_from", f"{init_from} does not exist{fetch}: see docs/weights.md", False)
