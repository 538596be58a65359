"""Captions of a dataset's scenes by an image-text network of transformers, as a table that `mvtrack prepare` reads."""

import csv
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from mvtrack.config.datasets import DatasetOptions
from mvtrack.data.public.registry import open_dataset_folder
from mvtrack.models.diffsynth_parts import declare_torchvision_operators
from mvtrack.models.weights.sources import local_folder

DEFAULT_MODEL = "HuggingFaceTB/SmolVLM-500M-Instruct"  # Apache-2.0
PROMPT = "Describe in one or two sentences what this video shows: subjects, what they do, surroundings, light."
_COLUMNS = ("file_name", "text", "model")
_LONGEST_PX = 768  # frames are shrunk to this before the network's own preparation
Describe = Callable[[Sequence[Image.Image]], str]


class CaptionReport(NamedTuple):
    """How many scenes were captioned now, and how many were before. failed: what is wrong with the others."""

    written: int
    kept: int
    failed: tuple[str, ...]


def caption_scenes(
    root: Path, table: Path, model: str, describe: Callable[[], Describe], frames: int, dataset: DatasetOptions
) -> CaptionReport:
    """Caption every scene that the table has no row of: its first view, at `frames` evenly spaced moments.

    Each row is on disk before the next scene is begun. describe: loads the network, if there is anything to do. Raises
    ValueError for a table of another model; scenes that cannot be read are gone past.
    """
    layout, scenes = open_dataset_folder(root, dataset)
    there = _resume(table, model)
    todo = [scene for scene in scenes if scene.name not in there]
    failed: list[str] = []
    if todo:
        say = describe()
        with table.open("a", encoding="utf-8", newline="") as file:
            rows = csv.writer(file)
            if not there:
                rows.writerow(_COLUMNS)
            for scene in tqdm(todo, desc=f"captions of {root}", unit="scene"):
                try:
                    video = layout.read(scene).views[0].video
                    moments = torch.linspace(0, len(video) - 1, min(frames, len(video))).round().long().tolist()
                    pictures = [_picture(video.read(t, t + 1)[0]) for t in moments]
                except ValueError as error:
                    failed.append(str(error))
                    tqdm.write(f"left out: {error}", file=sys.stderr)
                    continue
                rows.writerow((scene.name, " ".join(say(pictures).split()), model))
                file.flush()
                os.fsync(file.fileno())
    return CaptionReport(len(todo) - len(failed), len(scenes) - len(todo), tuple(failed))


def _resume(table: Path, model: str) -> set[str]:
    """Scenes that a table has; what a killed run left of its last line is cut off."""
    if not table.exists():
        table.parent.mkdir(parents=True, exist_ok=True)
        return set()
    whole = table.read_bytes()
    whole = whole[: whole.rfind(b"\n") + 1]
    rows = list(csv.DictReader(whole.decode("utf-8-sig").splitlines()))
    others = {row.get("model") for row in rows} - {model}
    if others:
        whose = "captions of another origin" if None in others else f"captions by {min(others)}"
        raise ValueError(f"{table} holds {whose}: move it away, or write to another file with --out")
    table.write_bytes(whole)
    return {row["file_name"] for row in rows}


def _picture(frame: UInt8[Tensor, "3 H W"]) -> Image.Image:
    picture = Image.fromarray(rearrange(frame, "c h w -> h w c").contiguous().numpy())
    picture.thumbnail((_LONGEST_PX, _LONGEST_PX))
    return picture


def load_captioner(name: str, device: torch.device, tokens: int) -> Describe:
    """A network by its hub id or folder, chat models (asked with `PROMPT`) as well as plain captioners, which see the
    middle picture alone. Nothing is downloaded.

    Raises ValueError with the command that brings the weights where they are not on this machine.
    """
    declare_torchvision_operators()
    try:
        from transformers import AutoModelForImageTextToText, AutoProcessor
    except ImportError as error:
        raise ValueError("captions need transformers: pip install -e '.[wan]'") from error
    folder = local_folder(name)
    try:
        if folder is None:
            raise OSError(name)
        processor = AutoProcessor.from_pretrained(folder, local_files_only=True)
        network = AutoModelForImageTextToText.from_pretrained(folder, local_files_only=True).eval().to(device)
    except (ImportError, RuntimeError) as error:
        raise ValueError(f"transformers cannot load {name} here: {str(error).splitlines()[0]}") from error
    except (OSError, ValueError) as error:
        where = "is no folder of an image-text model" if Path(name).exists() else "is not on this machine"
        raise ValueError(f"{name} {where}: `hf download {name}` brings it; another one: --model ID") from error

    @torch.no_grad()
    def describe(pictures: Sequence[Image.Image]) -> str:
        if getattr(processor, "chat_template", None):
            asked = [*({"type": "image"} for _ in pictures), {"type": "text", "text": PROMPT}]
            text = processor.apply_chat_template([{"role": "user", "content": asked}], add_generation_prompt=True)
            inputs = processor(text=text, images=list(pictures), return_tensors="pt")
        else:
            inputs = processor(images=pictures[len(pictures) // 2], return_tensors="pt")
        made = network.generate(**inputs.to(device), max_new_tokens=tokens, do_sample=False)
        said = inputs["input_ids"].shape[1] if getattr(processor, "chat_template", None) else 0
        return processor.decode(made[0, said:], skip_special_tokens=True)

    return describe
