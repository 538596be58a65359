"""Clips that were encoded once: latents, cameras, tracks, image tokens and caption features on disk.

A folder holds `card.json` (what encoded it, each clip's keys, captions and domain), a safetensors file per clip, one
for its tracks and one per caption. A key is a hash of all that a file was made of; a file that bears another key, or a
folder of another codec or encoder than the run's, is an error and never used. Tracks and captions have files of their
own, so that new ones do not encode any video anew. `skipped.jsonl` lists clips that could not be read.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mvtrack.config.data import LatentsConfig
from mvtrack.files.atomic_io import locked, write_aside
from mvtrack.files.tensor_file import write_tensors
from mvtrack.geometry.camera import Camera
from tracking_head import Tracks

FORMAT = "mvtrack-latents-2"
CARD, SKIPPED = "card.json", "skipped.jsonl"
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
    first frame. depth: of every pixel, 0 where there is none, for models of still scenes.
    """

    latents: Float[Tensor, "D V f c h w"]
    camera: Camera  # (V, T)
    distance: Float[Tensor, "V T"] | None = None
    image: Float[Tensor, "D V M e"] | None = None
    depth: Float[Tensor, "V T H W"] | None = None


@dataclass(frozen=True)
class ClipRecord:
    """What the card says of a clip. key: of its latents. tracks: key of its tracks, where it has some. captions: none,
    one of all views, or one of each. domain: the kind of its pictures."""

    key: str
    tracks: str | None = None
    captions: tuple[str, ...] = ()
    domain: str = ""

    @staticmethod
    def of(tree: dict) -> "ClipRecord":
        """As the card has it."""
        return ClipRecord(**{**tree, "captions": tuple(tree["captions"])})

    def caption(self, view: int) -> str:
        return self.captions[view if len(self.captions) > 1 else 0] if self.captions else ""


@dataclass(frozen=True)
class LatentClip:
    """Some views of a clip in one direction; the first is the reference. caption: of the last one."""

    latents: Float[Tensor, "V f c h w"]
    camera: Camera  # (V, T)
    key: str
    caption: str
    tracks: Tracks | None = None
    distance: Float[Tensor, ""] | None = None  # of the reference's first frame
    image: Float[Tensor, "M e"] | None = None  # of the reference's first frame
    depth: Float[Tensor, "V T H W"] | None = None
    domain: str = ""
    points: Float[Tensor, "V T 3 y x"] | None = None


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
        self.size, self.directions, self.encoders = config.size, card["directions"], Encoders(**card["encoders"])
        skipped = read_skipped(self.root)
        self.records = {name: ClipRecord.of(made) for name, made in card["clips"].items() if name not in skipped}
        self.view_window, self.label = config.view_window, config.label
        self.points = None if config.points is None else Path(config.points)
        names = sorted(n for n, made in self.records.items() if not config.domains or made.domain in config.domains)
        missing = [n for n in names if not all(file.is_file() for file in files_of(self.root, n, self.records[n]))]
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
        with self._open(name, clip_file(self.root, name), self.records[name].key) as file:
            part = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118
            metadata, direction = _metadata(file), int(reverse)
            take = lambda key: torch.stack([part[key][v] for v in views])  # noqa: E731
            frames = slice(None) if not reverse else torch.arange(part["c2w"].get_shape()[1] - 1, -1, -1)
            camera = Camera(take("c2w"), take("K"), self.size, metadata["scale_known"], metadata["projection"])
            camera = camera[:, frames]
            tracks = distance = image = depth = None
            if "distance" in part:
                distance = part["distance"][views[0]][frames][0]
            if "depth" in part:
                depth = take("depth")[:, frames].float()
            if "image" in part:
                image = part["image"][direction, views[0]].float()
            latents = torch.stack([part["latents"][direction, v] for v in views]).float()
        record = self.records[name]
        if record.tracks is not None:
            with self._open(name, tracks_file(self.root, name), record.tracks) as file:
                part = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118
                xy, visible, valid = (torch.stack([part[key][v] for v in views]) for key in ("xy", "visible", "valid"))
            tracks = Tracks(xy, visible, valid).frames(frames)
        key, caption = f"{self.root.name}/{name}", record.caption(views[-1])
        points = self.points and read_points(self.points, name, self.num_views(name), views)
        points = points.flip(1) if reverse and points is not None else points
        label = self.label or record.domain
        return LatentClip(latents, camera, key, caption, tracks, distance, image, depth, label, points)

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
        with self._open(name, clip_file(self.root, name), self.records[name].key) as file:
            return file.get_slice("latents").get_shape()

    def _open(self, name: str, path: Path, key: str):
        try:
            file = safe_open(path, "pt")
        except (SafetensorError, FileNotFoundError) as error:
            raise ValueError(f"{path} cannot be read ({error}): delete it and run `mvtrack prepare` again") from error
        found = _metadata(file).get("key")
        if found != key:
            raise ValueError(f"{path} is stale: its key is {found}, {CARD} says {key}; run `mvtrack prepare`")
        return file


def _metadata(file) -> dict:
    """What a file says of itself, in one field: several would stand in another order each time they are written."""
    return json.loads((file.metadata() or {}).get("clip", "{}"))


def clip_file(root: Path, name: str) -> Path:
    return root / f"clip_{name}.safetensors"


def tracks_file(root: Path, name: str) -> Path:
    return root / "tracks" / f"clip_{name}.safetensors"


def points_file(folder: Path, name: str) -> Path:
    return folder / f"{name}.npy"


def read_points(folder: Path, name: str, num_views: int, views: list[int]) -> Float[Tensor, "V T 3 y x"]:
    """Point maps of chosen views, from a file of all (V, 3, h, w), or (V, T, 3, h, w) of paths, in any one frame and
    unit, of any resolution; not finite where there is none. Raises ValueError for a file that is missing or other."""
    path = points_file(folder, name)
    try:
        points = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}, the point maps of clip {name}, cannot be read ({error})") from None
    if points.ndim == 4:
        points = points[:, None]
    if points.ndim != 5 or len(points) != num_views or points.shape[2] != 3:
        raise ValueError(f"{path} holds {points.shape}, expected (V, 3, h, w) of the clip's {num_views} views")
    return torch.from_numpy(np.stack([points[view] for view in views])).float()


def files_of(root: Path, name: str, record: ClipRecord) -> list[Path]:
    """What a clip needs to be whole."""
    return [clip_file(root, name), *([tracks_file(root, name)] if record.tracks else [])]


def caption_file(root: Path, caption: str) -> Path:
    return root / "text" / f"{hashlib.sha256(caption.encode()).hexdigest()[:32]}.safetensors"


def clip_key(parts: Iterable[object]) -> str:
    """A hash of everything that a clip is made of."""
    return hashlib.sha256(json.dumps(list(parts)).encode()).hexdigest()[:32]


def key_of_file(path: Path) -> str | None:
    """The key that a file of a clip bears; None where there is no whole file."""
    try:
        with safe_open(path, "pt") as file:
            return _metadata(file).get("key")
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

    def write(self, root: Path, clips: dict[str, ClipRecord]) -> None:
        """Write the card. clips: all that belong there, by name."""
        root.mkdir(parents=True, exist_ok=True)
        records = {name: asdict(record) for name, record in clips.items()}
        text = json.dumps({"format": FORMAT, **self._plain(), "clips": records}, indent=1)
        write_aside(root / CARD, lambda aside: aside.write_text(text))

    def _plain(self) -> dict:
        return asdict(self) | {"size": list(self.size)}


def write_clip(root: Path, name: str, key: str, clip: EncodedClip) -> None:
    """Write a clip's file whole or not at all."""
    tensors = {"latents": clip.latents.to(LATENT_DTYPE), "c2w": clip.camera.c2w.float(), "K": clip.camera.K.float()}
    if clip.distance is not None:
        tensors["distance"] = clip.distance.float()
    if clip.depth is not None:
        tensors["depth"] = clip.depth.to(LATENT_DTYPE)
    if clip.image is not None:
        tensors["image"] = clip.image.to(LATENT_DTYPE)
    _write(
        clip_file(root, name),
        tensors,
        {"key": key, "scale_known": clip.camera.scale_known, "projection": clip.camera.projection},
    )


def write_tracks(root: Path, name: str, key: str, tracks: Tracks) -> None:
    """Write the file of a clip's tracks whole or not at all."""
    tensors = {field: getattr(tracks, field) for field in ("xy", "visible", "valid")}
    _write(tracks_file(root, name), tensors, {"key": key})


def _write(path: Path, tensors: dict[str, Tensor], metadata: dict) -> None:
    for field, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise ValueError(f"{path.name}: {field} holds values that are not finite")
    write_tensors(path, tensors, {"clip": json.dumps(metadata)})


def read_skipped(root: Path) -> dict[str, str]:
    """Clips that could not be read when they were to be encoded, with what was wrong with them."""
    path = root / SKIPPED
    if not path.is_file():
        return {}
    try:
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        return {row["name"]: row["reason"] for row in rows}
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error}): delete it and run `mvtrack prepare` again") from error


def change_skipped(root: Path, name: str, reason: str | None) -> None:
    """List a clip as skipped, or no longer (None); processes that share the work may do so at once."""
    if reason is None and not (root / SKIPPED).exists():
        return
    with locked(root / f".{SKIPPED}.lock"):
        before = read_skipped(root)
        rows = {key: value for key, value in before.items() if key != name} | ({name: reason} if reason else {})
        if rows != before:
            lines = "".join(json.dumps({"name": key, "reason": rows[key]}) + "\n" for key in sorted(rows))
            write_aside(root / SKIPPED, lambda aside: aside.write_text(lines))
            if not rows:
                (root / SKIPPED).unlink()


def write_caption(root: Path, caption: str, features: Float[Tensor, "L t"]) -> None:
    """Write the features of a caption without the zeros behind its end."""
    used = features.any(-1).nonzero()
    length = int(used[-1]) + 1 if len(used) else 1
    path = caption_file(root, caption)
    write_tensors(path, {"features": features[:length].to(TEXT_DTYPE)}, {"caption": caption})
