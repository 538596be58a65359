"""Where and how a model works when it makes videos: device, precision, offloading, kernel, compilation, encoders, LoRA.

But for LoRA and weights of fewer bits none of it changes what is made beyond rounding, if the encoders are those that
it was trained with.
"""

import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from mvtrack.config.checked import Count, config
from mvtrack.config.command_line import option, section

if TYPE_CHECKING:
    import torch

AttentionKernel = Literal[
    "auto", "cpu", "blocked", "cudnn", "flash", "efficient", "flash_attn_2", "flash_attn_3", "sage"
]
Offload = Literal["none", "model", "blocks"]
Share = Literal["passes", "windows"]
Quantization = Literal["int8", "fp8", "int8_dynamic", "fp8_dynamic"]
OFFLOADS: tuple[Offload, ...] = get_args(Offload)
SOURCE_HELP = "a file, a folder, or a hub id such as Wan-AI/Wan2.1-T2V-1.3B[@revision][:file]"


def launched_processes() -> int:
    """How many processes torchrun started, this one among them; 1 where it did not."""
    return int(os.environ["WORLD_SIZE"]) if "TORCHELASTIC_RUN_ID" in os.environ else 1


@config
class EncoderSources:
    """Where a model's encoders are found, when not where its own file says: files, folders or hub ids."""

    vae: str | None = option(None, "the VAE", metavar="SOURCE")
    text: str | None = option(None, "umT5, and its tokenizer unless --tokenizer says otherwise", metavar="SOURCE")
    tokenizer: str | None = option(None, "umT5's tokenizer", metavar="SOURCE")
    image: str | None = option(None, "CLIP's image encoder", metavar="SOURCE")

    @property
    def given(self) -> dict[str, str]:
        """Those that are not None, by name; paths that exist are absolute."""
        return {name: _absolute(source) for name, source in asdict(self).items() if source is not None}


def _absolute(source: str) -> str:
    path = Path(source).expanduser()
    return str(path.resolve()) if path.exists() else source


@config
class Placement:
    """What `place` does with a model. compile: each block, at its first use; None: where `settled` finds that it pays
    (inference/memory/forecast.py). cuda_graphs: see inference/cuda_graphs.py. tiled: tiles of 30 x 52 latents
    (ReCamMaster's). encoders_on_cpu: before the model is loaded. offload blocks: the encoders stay on the CPU, too.
    """

    device: str = option("auto", "cpu, cuda or cuda:1; default: a GPU where there is one")
    precision: Literal["stored", "float32", "bfloat16"] | None = option(
        None, "of the transformer's weights; default: the model's own wish"
    )
    offload: Offload = option(
        "none", "what rests in the CPU's memory: model: the part that is not at work; blocks: all but two blocks"
    )
    compile: bool | None = option(None, "compile the block: slower at first, then faster; default: where that pays")
    cuda_graphs: bool = option(False, "record a pass and replay it: for small models, whose kernels are short")
    attention: AttentionKernel = option("auto", "the kernel to use")
    tiled: bool = option(False, "Wan's VAE works on tiles of pictures: less memory")
    vae_precision: Literal["float32", "bfloat16"] | None = option(None, "of Wan's VAE; default: the model's own")
    encoders_on_cpu: bool = option(False, "captions and pictures are encoded on the CPU: umT5 takes 11 GB")
    gpus: Count = option(1, "GPUs that share one video, from --device on (on a CPU: processes)")
    share: Share = option("passes", "what they share: every pass; or the windows of a long video, each a whole one")
    batched_guidance: bool = option(False, "both predictions of a guided step at once: more memory")
    lora: tuple[str, ...] = option(
        (),
        "add a LoRA to the model's weights, so many times (1); may be given again",
        metavar="FILE[:WEIGHT]",
        repeat=True,
    )
    quantize: Quantization | None = option(
        None, "weights in 8 bits: half the memory, small errors (torchao); _dynamic: products too, faster on some GPUs"
    )
    encoders: EncoderSources = section(
        EncoderSources, f"the model's encoders, each {SOURCE_HELP}; default: where the model's file says"
    )

    def __post_init__(self) -> None:
        if self.compile and self.offload == "blocks":
            raise ValueError("blocks that come and go cannot be compiled: leave out --compile, or use --offload model")
        for flag, there in (("--offload blocks", self.offload == "blocks"), (f"--gpus {self.gpus}", self.gpus > 1)):
            if self.quantize and there:
                raise ValueError(f"--quantize is for one device that holds all of the network: leave it out, or {flag}")
        if self.cuda_graphs and (self.offload != "none" or self.gpus > 1):
            raise ValueError("--cuda-graphs is for one GPU that holds all of the model: leave out --offload and --gpus")
        if self.gpus > 1 and self.offload != "none":
            raise ValueError(f"with --gpus {self.gpus} each holds all of the network: leave out --offload")

    def record(self) -> dict:
        """As plain values, what is chosen by itself spelled out."""
        import torch

        device = self.torch_device
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
        names = ("offload", "compile", "attention", "batched_guidance", "tiled", "encoders_on_cpu")
        found = {"encoders": self.encoders.given} if self.encoders.given else {}
        found |= {name: getattr(self, name) for name in ("cuda_graphs", "vae_precision") if getattr(self, name)}
        found |= {"quantize": self.quantize} if self.quantize else {}
        found |= {"lora": list(self.lora)} if self.lora else {}
        found |= {"gpus": self.gpus, "share": self.share} if self.gpus > 1 else {}
        return {"device": name} | {name: getattr(self, name) or False for name in names} | found

    @property
    def torch_device(self) -> "torch.device":
        """Raises ValueError for a device that is not there."""
        import torch

        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        try:
            device = torch.device(self.device)
        except RuntimeError as error:
            raise ValueError(f"unknown device {self.device!r}: use auto, cpu, cuda or cuda:1") from error
        if device.type not in ("cpu", "cuda"):
            raise ValueError(f"device {self.device} is not supported: use auto, cpu, cuda or cuda:1")
        if device.type == "cuda" and (device.index or 0) + self.gpus > torch.cuda.device_count():
            more = f"with --gpus {self.gpus} " if self.gpus > 1 else ""
            seen = "is built without CUDA" if torch.version.cuda is None else f"sees {torch.cuda.device_count()} GPUs"
            raise ValueError(
                f"device {self.device} {more}is not there (PyTorch {torch.__version__} {seen}): use cpu, or auto"
            )
        return device

    @property
    def encoder_device(self) -> "torch.device":
        """Where text and image encoders run."""
        import torch

        return torch.device("cpu") if self.offload == "blocks" or self.encoders_on_cpu else self.torch_device
