"""The options that say how a model works, where its encoders are, and what it is told: for every command."""

import argparse
from dataclasses import replace
from typing import get_args

from mvtrack.config.model import ModelConfig
from mvtrack.config.placement import OFFLOADS, AttentionKernel, EncoderSources, Placement
from mvtrack.inference.sampler import SamplerOptions

LESS_MEMORY = (
    "try --offload model, --offload blocks, --encoders-on-cpu, --tiled, --precision bfloat16 or a smaller --size; "
    "`mvtrack doctor --model FOLDER` says what they take"
)

SOURCE_HELP = "a file, a folder, or a hub id such as Wan-AI/Wan2.1-T2V-1.3B[@revision][:file]"
ENCODERS = {
    "vae": "Wan's VAE",
    "text": "umT5, and its tokenizer unless --tokenizer says otherwise",
    "tokenizer": "umT5's tokenizer",
    "image": "CLIP's image encoder",
}


def add_encoder_arguments(parser: argparse.ArgumentParser, default: str) -> None:
    """--vae, --text, --tokenizer and --image. default: where they are without, in words."""
    group = parser.add_argument_group(f"the model's encoders, each {SOURCE_HELP}; default: {default}")
    for name, what in ENCODERS.items():
        group.add_argument(f"--{name}", metavar="SOURCE", help=what)


def read_encoders(options: argparse.Namespace) -> EncoderSources:
    """What the options name."""
    return EncoderSources(**{name: getattr(options, name) for name in ENCODERS})


def add_sample_arguments(parser: argparse.ArgumentParser, captions: bool = True) -> None:
    """--steps, --guidance, --caption and what else changes the result. captions: the command is told what to say."""
    group = parser.add_argument_group("sampling; what is left out is what the model is meant for")
    group.add_argument("--steps", type=int, help="sampling steps")
    group.add_argument("--seed", type=int, default=0)
    if captions:
        add_caption_argument(group)
    add_guidance_arguments(group)


def add_caption_argument(group, default: str = "nothing") -> None:
    """--caption, for every command that runs a model. default: what is taken without it, in words."""
    group.add_argument("--caption", help=f"what the video shows, for models that take captions; default: {default}")


def add_guidance_arguments(group) -> None:
    """--guidance and --negative, for commands that sample."""
    group.add_argument("--guidance", type=float, help="scale of guidance by the caption; 1 is none")
    group.add_argument("--negative", help="what guidance steers away from; default: the list of Wan's authors")


def add_placement_arguments(parser: argparse.ArgumentParser, samples: bool = True) -> None:
    """--device, --offload and what else changes speed and memory; --vae and other encoders. samples: the command makes
    videos."""
    group = parser.add_argument_group("where and how the model works")
    group.add_argument("--device", default="auto", help="cpu, cuda or cuda:1; default: a GPU where there is one")
    group.add_argument(
        "--precision", choices=("stored", "float32", "bfloat16"), help="of the weights; default: the model's own wish"
    )
    group.add_argument(
        "--offload", choices=OFFLOADS, default="none",
        help="what rests in the CPU's memory: model: the part that is not at work; blocks: all but one block",
    )  # fmt: skip
    group.add_argument("--compile", action="store_true", help="compile the block: slower at first, then faster")
    group.add_argument("--attention", choices=get_args(AttentionKernel), default="auto", help="the kernel to use")
    group.add_argument("--tiled", action="store_true", help="Wan's VAE works on tiles of pictures: less memory")
    group.add_argument(
        "--encoders-on-cpu", action="store_true", help="captions and pictures are encoded on the CPU: umT5 takes 11 GB"
    )
    if samples:
        group.add_argument(
            "--batched-guidance", action="store_true", help="both predictions of a guided step at once: more memory"
        )
    add_encoder_arguments(parser, "where the model's file says")


def read_sample(options: argparse.Namespace, config: ModelConfig) -> SamplerOptions:
    """What the options ask of a model."""
    return SamplerOptions.of(config, options.steps, options.guidance, options.seed)


def read_placement(options: argparse.Namespace) -> Placement:
    """Raises ValueError for options that cannot be combined."""
    placement = Placement(options.device, options.precision, options.offload, options.compile, options.attention)
    return replace(
        placement,
        batched_guidance=getattr(options, "batched_guidance", False),
        tiled=options.tiled,
        encoders_on_cpu=options.encoders_on_cpu,
        encoders=read_encoders(options),
    )


def add_memory_argument(parser: argparse.ArgumentParser) -> None:
    """--ignore-memory, for every command that refuses what will not fit."""
    parser.add_argument(
        "--ignore-memory", action="store_true", help="start although the estimate says that memory will not do"
    )
