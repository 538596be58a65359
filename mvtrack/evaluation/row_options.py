"""Which rows a benchmark's command adds: a model, videos of another program, baselines; and what each may be told."""

import argparse
import re
from dataclasses import replace
from pathlib import Path

from mvtrack.config.placement import Placement
from mvtrack.evaluation.interface import Method
from mvtrack.evaluation.methods.baselines import BASELINES, Baseline
from mvtrack.evaluation.methods.external_videos import GivenVideos
from mvtrack.evaluation.methods.model import ModelMethod
from mvtrack.evaluation.unused_options import refuse_idle
from mvtrack.inference.device import placed_config
from mvtrack.inference.model_options import (
    ENCODERS,
    add_memory_argument,
    add_placement_arguments,
    add_sample_arguments,
    read_placement,
    read_sample,
)
from mvtrack.models.decoder.files import load_aligner
from mvtrack.models.reshoot_model import model_file

_OF_ROW = ("name", "title", "group")
_OF_ANY = ("backbone", "replace")
_OF_SAMPLE = ("steps", "seed", "guidance", "negative", "other_size", "decoder")
_PINNED = ("precision", "tiled", *ENCODERS)  # a row that is there was made with its own
_OF_PLACE = (
    *_PINNED,
    "device",
    "offload",
    "compile",
    "attention",
    "batched_guidance",
    "encoders_on_cpu",
    "ignore_memory",
)


def add_row_arguments(parser: argparse.ArgumentParser) -> None:
    """--model, --videos, --baselines and their options."""
    row = parser.add_argument_group("rows to add to the table; without one, those that are there are gone on with")
    row.add_argument("--model", type=Path, help="folder of a model of this project, or its hub id")
    row.add_argument("--videos", type=Path, help="folder of videos that another program made: <case>.mp4")
    row.add_argument("--baselines", help=f"comma-separated, or all: {', '.join(BASELINES)}")
    row.add_argument("--name", help="of the row of --model or --videos, for files; default: the folder's name")
    row.add_argument("--title", help="of that row, for tables; default: the name")
    row.add_argument("--group", default="Models", help="heading above that row")
    row.add_argument("--backbone", help="row, ours or a published one, that changes of the rows added are counted from")
    row.add_argument("--resize-videos", action="store_true", help="scale --videos of another size; else they fail")
    row.add_argument(
        "--other-size", action="store_true",
        help="let --model make the benchmark's size where it was trained at others; else its cases fail",
    )  # fmt: skip
    row.add_argument(
        "--decoder", type=Path, metavar="FOLDER",
        help="an aligning decoder, with which --model's videos are decoded a second time (docs/decoder.md)",
    )  # fmt: skip
    row.add_argument("--replace", action="store_true", help="replace a row of this name that was made otherwise")
    add_sample_arguments(parser, captions=False)
    add_placement_arguments(parser)
    add_memory_argument(parser)


def methods_of(options: argparse.Namespace) -> tuple[Method, ...]:
    """The rows that the options ask for. Raises ValueError for an option that would have no effect."""
    if options.model and options.videos:
        raise ValueError("--model and --videos are two rows: add them with one command each")
    methods: list[Method] = []
    if options.model or options.videos:
        folder, given = _folder(options), options.model or options.videos
        name = options.name or re.sub(r"[^A-Za-z0-9_.-]+", "_", (given.resolve() if given.exists() else given).name)
        title = options.title or name
        methods.append(model_row(options, name, title, folder) if options.model else _given(options, name, title))
    kinds = [k.strip() for k in (options.baselines or "").split(",") if k.strip()]
    for kind in BASELINES if kinds == ["all"] else kinds:
        if kind not in BASELINES:
            raise ValueError(f"unknown baseline {kind!r}; known: {', '.join(BASELINES)}")
        methods.append(Baseline(kind, None if kind == options.backbone else options.backbone))
    _refuse_idle(options, bool(methods))
    return tuple(methods)


def _folder(options: argparse.Namespace) -> Path:
    """Where the row's model or videos lie; a model's hub id is downloaded where the hub's cache lacks it."""
    if options.model:
        return options.model if options.model.exists() else model_file(options.model).parent
    if not options.videos.exists():
        raise ValueError(f"--videos {options.videos} does not exist")
    return options.videos


def model_row(options: argparse.Namespace, name: str, title: str, folder: Path) -> ModelMethod:
    """A model, sampled and placed as the options say, or as its file does where they are silent."""
    method = ModelMethod(
        name, title, folder, None, placement_of(options), options.negative, options.other_size, options.backbone,
        options.group,
    )  # fmt: skip
    placed_config(method.config, method.placement)
    sample, has_captions = read_sample(options, method.config), bool(method.config.dit.text_dim)
    if sample.guidance != 1 and not has_captions:
        raise ValueError(f"{folder} takes no captions (dit.text_dim is 0): leave out --guidance")
    if options.negative is not None and sample.guidance == 1:
        raise ValueError("--negative is for guidance by captions: set --guidance above 1, or leave it out")
    if options.decoder is not None:
        load_aligner(options.decoder, method.config.codec)  # one that does not fit is said before any video
    return replace(method, sample=sample, check_memory=not options.ignore_memory, decoder=options.decoder)


def placement_of(options: argparse.Namespace) -> Placement:
    """Where models are to work. Raises ValueError for a device that is not there."""
    placement = read_placement(options)
    _ = placement.torch_device
    return placement


def _given(options: argparse.Namespace, name: str, title: str) -> GivenVideos:
    return GivenVideos(name, title, options.videos, options.resize_videos, options.backbone, options.group)


def _refuse_idle(options: argparse.Namespace, is_adding: bool) -> None:
    """Raise ValueError for an option that belongs to a row which is not asked for."""
    refuse_idle(options, add_row_arguments, _OF_ROW, bool(options.model or options.videos), "--model or --videos")
    refuse_idle(options, add_row_arguments, ("resize_videos",), bool(options.videos), "--videos")
    refuse_idle(options, add_row_arguments, _OF_ANY, is_adding, "--model, --videos or --baselines")
    places = _OF_PLACE if is_adding else _PINNED
    refuse_idle(options, add_row_arguments, (*_OF_SAMPLE, *places), bool(options.model), "--model")
