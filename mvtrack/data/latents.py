"""Clips that were encoded once: latents, cameras, tracks, image tokens and caption features on disk.

A folder holds `card.json` (what encoded it, and each clip's key), one safetensors file per clip and one per caption. A
key is a hash of all that a clip was made of; a clip whose file bears another key, or a folder of another codec or
encoder than the run's, is an error and never used.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mvtrack.config.data import LatentsConfig
from mvtrack.files.atomic_io import write_aside
from mvtrack.files.tensor_file import write_tensors
from mvtrack.geometry.camera import Camera
from tracking_head import Tracks

FORMAT = "mvtrack-latents-1"
CARD = "card.json"
LATENT_DTYPE, TEXT_DTYPE = torch.float16, torch.bfloat16  # umT5 computes in bfloat16


@dataclass(frozen=True)
class Encoders:
    """What made the numbers: names that change with weights and settings. None: the model has no such branch."""

    codec: str
    text: str | None = None
    image: str | None = None


@dataclass(frozen=True)
class EncodedClip:
    """V views of T frames in D directions of time: forward, and reversed where D is 2 (a codec is causal).

    distance: median z-depth of every view and frame, where depth is known. image: CLIP's tokens of each direction's
    first frame.
    """

    latents: Float[Tensor, "D V f c h w"]
    camera: Camera  # (V, T)
    caption: str = ""
    tracks: Tracks | None = None
    distance: Float[Tensor, "V T"] | None = None
    image: Float[Tensor, "D V M e"] | None = None


@dataclass(frozen=True)
class LatentClip:
    """Some views of a clip in one direction; the first is the reference."""

    latents: Float[Tensor, "V f c h w"]
    camera: Camera  # (V, T)
    key: str
    caption: str
    tracks: Tracks | None = None
    distance: Float[Tensor, ""] | None = None  # of the reference's first frame
    image: Float[Tensor, "M e"] | None = None  # of the reference's first frame


class LatentFolder:
    """Encoded clips of one size and length. held_out: the last clips by name are for validation.

    Raises ValueError that names the folder and the fix when it holds something else, or less, than the config asks for.
    """

    def __init__(self, config: LatentsConfig, num_frames: int) -> None:
        self.root = Path(config.root)
        card = read_card(self.root)
        found = (tuple(card["size"]), card["num_frames"])
        if found != (config.size, num_frames):
            raise ValueError(
                f"{self.root} holds {found[1]} frames of {found[0]}, the config asks for {num_frames} of "
                f"{config.size}: change data.num_frames and the size in data.latents, or encode into another folder"
            )
        self.size, self.directions, self.keys = config.size, card["directions"], card["clips"]
        self.encoders = Encoders(**card["encoders"])
        names = sorted(self.keys)
        missing = [name for name in names if not clip_file(self.root, name).is_file()]
        if missing:
            raise ValueError(
                f"{self.root} lacks {len(missing)} of its {len(names)} clips, {missing[0]} first: run `mvtrack "
                "prepare` to its end"
            )
        if len(names) <= config.held_out:
            raise ValueError(f"{self.root} has {len(names)} clips, held_out {config.held_out} leaves none to train on")
        cut = len(names) - config.held_out
        self.training, self.held_out = names[:cut], names[cut:]

    def check(self, encoders: Encoders) -> None:
        """Raise ValueError where other weights or settings encoded the clips than those of the run."""
        for part, setting in (("codec", "model.codec"), ("text", "model.text"), ("image", "model.image")):
            ours, theirs = getattr(encoders, part), getattr(self.encoders, part)
            if ours is not None and ours != theirs:
                raise ValueError(
                    f"{self.root} was encoded with another {setting} (its {part} is {theirs}, the run's is {ours}): "
                    "encode the clips again into another folder, or use the weights and settings of then"
                )

    def num_views(self, name: str) -> int:
        return self._shape(name)[1]

    def clip(self, name: str, views: list[int], reverse: bool = False) -> LatentClip:
        """Chosen views of a clip, read without the rest. reverse: of time, where it was encoded."""
        with self._open(name) as file:
            part = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118
            metadata, direction = file.metadata(), int(reverse)
            take = lambda key: torch.stack([part[key][v] for v in views])  # noqa: E731
            frames = slice(None) if not reverse else torch.arange(part["c2w"].get_shape()[1] - 1, -1, -1)
            camera = Camera(take("c2w"), take("K"), self.size, metadata["scale_known"] == "true")[:, frames]
            tracks = distance = image = None
            if "track_xy" in part:
                tracks = Tracks(take("track_xy"), take("track_visible"), take("track_valid")).frames(frames)
            if "distance" in part:
                distance = part["distance"][views[0]][frames][0]
            if "image" in part:
                image = part["image"][direction, views[0]].float()
            latents = torch.stack([part["latents"][direction, v] for v in views]).float()
        return LatentClip(latents, camera, f"{self.root.name}/{name}", metadata["caption"], tracks, distance, image)

    def text(self, caption: str, length: int) -> Float[Tensor, "L t"]:
        """Features of a caption of the folder ("" among them), zeros behind its end."""
        path = caption_file(self.root, caption)
        try:
            with safe_open(path, "pt") as file:
                features = file.get_tensor("features").float()
        except (SafetensorError, FileNotFoundError) as error:
            raise ValueError(f"{path}, the features of a caption, cannot be read ({error}): encode again") from error
        return F.pad(features, (0, 0, 0, length - len(features)))

    def _shape(self, name: str) -> list[int]:
        with self._open(name) as file:
            return file.get_slice("latents").get_shape()

    def _open(self, name: str):
        path = clip_file(self.root, name)
        try:
            file = safe_open(path, "pt")
        except (SafetensorError, FileNotFoundError) as error:
            raise ValueError(f"{path} cannot be read ({error}): delete it and run `mvtrack prepare` again") from error
        key = (file.metadata() or {}).get("key")
        if key != self.keys[name]:
            raise ValueError(f"{path} is stale: its key is {key}, {CARD} says {self.keys[name]}; run `mvtrack prepare`")
        return file


def clip_file(root: Path, name: str) -> Path:
    return root / f"clip_{name}.safetensors"


def caption_file(root: Path, caption: str) -> Path:
    return root / "text" / f"{hashlib.sha256(caption.encode()).hexdigest()[:32]}.safetensors"


def clip_key(parts: Iterable[object]) -> str:
    """A hash of everything that a clip is made of."""
    return hashlib.sha256(json.dumps(list(parts)).encode()).hexdigest()[:32]


def key_of_file(path: Path) -> str | None:
    """The key that a clip's file bears; None where there is no whole file."""
    try:
        with safe_open(path, "pt") as file:
            return (file.metadata() or {}).get("key")
    except (SafetensorError, FileNotFoundError):
        return None


def read_card(root: Path) -> dict:
    """The card of a folder. Raises ValueError where there is none of this format."""
    path = root / CARD
    if not path.is_file():
        raise ValueError(f"{root} holds no encoded clips ({CARD} is missing): run `mvtrack prepare`, see docs/data.md")
    try:
        card = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is damaged ({error}): run `mvtrack prepare` again") from error
    if card.get("format") != FORMAT:
        raise ValueError(f"{path} has format {card.get('format')!r}, this version reads {FORMAT!r}: encode again")
    return card


@dataclass(frozen=True)
class Kind:
    """What all clips of a folder share."""

    size: tuple[int, int]
    num_frames: int
    directions: int
    encoders: Encoders

    def check(self, root: Path) -> None:
        """Raise ValueError where a folder holds clips of another kind."""
        if not (root / CARD).exists():
            return
        before = read_card(root)
        for name, value in self._plain().items():
            if before[name] != value:
                raise ValueError(
                    f"{root} holds clips whose {name} is {before[name]!r}, now it is {value!r}: choose another folder "
                    "(root in data.latents), or delete this one"
                )

    def write(self, root: Path, clips: dict[str, str]) -> None:
        """Write the card. clips: names and keys of all that belong there."""
        root.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"format": FORMAT, **self._plain(), "clips": clips}, indent=1)
        write_aside(root / CARD, lambda aside: aside.write_text(text))

    def _plain(self) -> dict:
        return asdict(self) | {"size": list(self.size)}


def write_clip(root: Path, name: str, key: str, clip: EncodedClip) -> None:
    """Write a clip's file whole or not at all."""
    tensors = {"latents": clip.latents.to(LATENT_DTYPE), "c2w": clip.camera.c2w.float(), "K": clip.camera.K.float()}
    if clip.tracks is not None:
        tensors |= {f"track_{field}": getattr(clip.tracks, field) for field in ("xy", "visible", "valid")}
    if clip.distance is not None:
        tensors["distance"] = clip.distance.float()
    if clip.image is not None:
        tensors["image"] = clip.image.to(LATENT_DTYPE)
    for field, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise ValueError(f"clip {name}: {field} holds values that are not finite")
    metadata = {"key": key, "caption": clip.caption, "scale_known": str(clip.camera.scale_known).lower()}
    write_tensors(clip_file(root, name), tensors, metadata)


def write_caption(root: Path, caption: str, features: Float[Tensor, "L t"]) -> None:
    """Write the features of a caption without the zeros behind its end."""
    used = features.any(-1).nonzero()
    length = int(used[-1]) + 1 if len(used) else 1
    path = caption_file(root, caption)
    write_tensors(path, {"features": features[:length].to(TEXT_DTYPE)}, {"caption": caption})
