"""Encode clips once for training: latents in both directions of time, image tokens, features of captions."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from tqdm import tqdm

from mvtrack.config.cluster import RayOptions, Shard, shard_of
from mvtrack.config.data import LatentsConfig
from mvtrack.config.run import RunConfig
from mvtrack.data.latents import (
    SKIPPED,
    ClipRecord,
    EncodedClip,
    Kind,
    change_skipped,
    clip_file,
    clip_key,
    key_of_file,
    tracks_file,
    write_caption,
    write_clip,
    write_tracks,
)
from mvtrack.data.public.fitting import FittedView
from mvtrack.files.atomic_io import shared_folder
from mvtrack.geometry.camera import Camera
from mvtrack.inference.ray_pool import run_tasks
from mvtrack.models.encoders import run_encoders
from mvtrack.models.image_encoder import encode as encode_images
from mvtrack.models.image_encoder import load_encoder
from mvtrack.models.pca_codec import VideoCodec, build_codec
from mvtrack.models.reshoot_model import load_model
from mvtrack.models.text_encoder import embed_captions
from mvtrack.models.weights.sources import open_part
from mvtrack.training.clip_sources import Source
from mvtrack.video.writer import from_bytes

_READERS = 16  # threads that hash files, which wait for a disk most of the time


@dataclass(frozen=True)
class PreparationReport:
    """How many clips were encoded now, and how many were there already. tracks: how many only got new tracks. strays:
    files that no source names. skipped: clips that cannot be read."""

    encoded: int
    kept: int
    tracks: int
    skipped: int
    strays: int


@dataclass(frozen=True)
class EncodeOptions:
    """Which of a folder's clips this process encodes, and what it may do. max_skipped: how many clips may be broken, a
    count or a share of all. ray: spread over a cluster."""

    shard: Shard = (1, 1)
    overwrite: bool = False
    max_skipped: int | float = 0.01
    ray: RayOptions = RayOptions()


@dataclass
class ClipEncoder:
    """What encodes a clip: the codec and, where the model has one, the image encoder; both are loaded when needed."""

    config: RunConfig
    device: torch.device
    codec: VideoCodec = field(init=False)
    _images: nn.Module | None = None

    def __post_init__(self) -> None:
        self.codec = _codec(self.config)

    @torch.no_grad()
    def __call__(self, views: Iterator[FittedView], directions: int) -> EncodedClip:
        """One view at a time: a view's video is all that lies in memory and on the device."""
        latents, tokens, cameras, depths = [], [], [], []
        self.codec.to(self.device)
        for view in views:
            both = [view.video if direction == 0 else view.video.flip(0) for direction in range(directions)]
            latents.append(torch.stack([self._encoded(video) for video in both]))
            cameras.append(view.camera)
            depths.append(view.depth)
            if self.config.model.image is not None:
                first = from_bytes(torch.stack([video[0] for video in both]).to(self.device))
                tokens.append(encode_images(self._image_encoder(), first).cpu())
        depth = None if any(each is None for each in depths) else torch.stack(depths)
        return EncodedClip(
            torch.stack(latents, 1),
            Camera.stack(cameras),
            None if depth is None else median_depth(depth),
            torch.stack(tokens, 1) if tokens else None,
            None if self.config.model.views is None else depth,
        )

    def _encoded(self, video: UInt8[Tensor, "T 3 H W"]) -> Float[Tensor, "f c h w"]:
        return self.codec.encode(from_bytes(video.to(self.device))[None, None])[0, 0].cpu()

    def _image_encoder(self) -> nn.Module:
        if self._images is None:
            self._images = load_encoder(open_part(self.config.model.image.weights, "image"), torch.float32)
            self._images.to(self.device)
        return self._images


def median_depth(depth: Float[Tensor, "V T H W"]) -> Float[Tensor, "V T"] | None:
    """Of the pixels that have one; None where a frame has none at all, and its distance is not known."""
    known = torch.where(depth > 0, depth, torch.nan).flatten(2).nanmedian(-1).values
    return known if known.isfinite().all() else None


def prepare_clips(
    config: RunConfig, entry: LatentsConfig, sources: list[Source], device: torch.device,
    options: EncodeOptions | None = None,
) -> PreparationReport:  # fmt: skip
    """Encode what is missing. A clip that cannot be read is listed in `skipped.jsonl` and left out.

    Raises ValueError for a clip that was encoded from other files, unless it may be overwritten, and where more clips
    cannot be read than may.
    """
    root, options = Path(entry.root), options or EncodeOptions()
    encoder = ClipEncoder(config, device)
    kind = Kind(
        entry.size,
        config.data.num_frames,
        2 if config.data.reverse and config.data.num_frames > 1 else 1,
        run_encoders(config.model, encoder.codec),
    )
    kind.check(root)
    with shared_folder(root):
        skips = Skips(root, len(sources), options.max_skipped)
        records = _records(sources, kind, config, skips)
        mine = [source for source in shard_of(sources, options.shard) if source.name in records]
        todo = list(_todo(mine, records, root, options.overwrite))
        kind.write(root, records)
        if kind.encoders.text is not None:
            _write_captions(config, mine, root, device)
        encoded = tracks = 0
        make = partial(_clip_writer, config, device, root, kind.directions, None if options.ray.ray else encoder)
        tasks = [(source, records[source.name]) for source in todo]
        done = run_tasks(make, tasks, options.ray)
        for (source, _), fresh in tqdm(done, desc=f"encoding into {root}", unit="clip", total=len(todo)):
            skips.note(source.name, fresh if isinstance(fresh, ValueError) else None)
            if not isinstance(fresh, ValueError):
                encoded, tracks = encoded + fresh, tracks + (not fresh)
            source.close()
        names = {clip_file(root, name).name for name in records}
        strays = {path.name for path in root.glob("clip_*.safetensors")} - names
        kept = sum(source.name not in skips.names for source in mine) - encoded - tracks
        return PreparationReport(encoded, kept, tracks, len(skips.names), len(strays))


def _clip_writer(
    config: RunConfig, device: torch.device, root: Path, directions: int, encoder: ClipEncoder | None
) -> Callable[[tuple[Source, ClipRecord]], bool]:
    """What writes one clip. encoder: one that is loaded already, in this process."""
    encoder = encoder or ClipEncoder(config, device)

    def write(task: tuple[Source, ClipRecord]) -> bool:
        return _prepare_clip(*task, root, lambda source: encoder(source.views(), directions))

    return write


def _prepare_clip(source: Source, record: ClipRecord, root: Path, encode: Callable[[Source], EncodedClip]) -> bool:
    """Write what a clip lacks; whether that was more than its tracks. Tracks come first: a clip's file says that it is
    whole."""
    if record.tracks is not None and key_of_file(tracks_file(root, source.name)) != record.tracks:
        write_tracks(root, source.name, record.tracks, source.tracks())
    if key_of_file(clip_file(root, source.name)) == record.key:
        return False
    write_clip(root, source.name, record.key, encode(source))
    return True


class Skips:
    """Clips that cannot be read: listed, counted, and an error beyond the limit. What earlier runs listed is tried
    again."""

    def __init__(self, root: Path, num_clips: int, limit: int | float) -> None:
        self.root, self.limit, self.total = root, int(limit if isinstance(limit, int) else limit * num_clips), num_clips
        self.names: set[str] = set()

    def note(self, name: str, error: ValueError | None) -> None:
        """List a clip, or take it off the list."""
        change_skipped(self.root, name, None if error is None else " ".join(str(error).split()))
        if error is None:
            return
        self.names.add(name)
        if len(self.names) > self.limit:
            raise ValueError(
                f"{error} ({len(self.names)} of {self.total} clips cannot be read, listed in {self.root / SKIPPED}; "
                f"--max-skipped {self.limit} may be)"
            ) from error


def _records(sources: list[Source], kind: Kind, config: RunConfig, skips: Skips) -> dict[str, ClipRecord]:
    """What the card will say of every clip whose files are there."""
    settings = asdict(kind)
    settings["encoders"].pop("text")  # captions have files of their own
    fitted = [list(kind.size), kind.num_frames]

    def record(source: Source) -> ClipRecord | ValueError:
        try:
            contents, tracks = source.contents(), source.tracks_contents()
        except ValueError as error:
            return error
        key = clip_key([contents, settings, config.model.views is not None])
        return ClipRecord(key, None if tracks is None else clip_key([contents, tracks, fitted]), source.captions,
                          source.domain)  # fmt: skip

    records = {}
    with ThreadPoolExecutor(_READERS) as pool:
        found = pool.map(record, sources)
        for source, made in zip(tqdm(sources, "reading files", unit="clip", delay=5), found, strict=True):
            if isinstance(made, ValueError):
                skips.note(source.name, made)
            else:
                records[source.name] = made
    return records


def _todo(sources: list[Source], records: dict[str, ClipRecord], root: Path, overwrite: bool) -> Iterator[Source]:
    for source in sources:
        record, there = records[source.name], key_of_file(clip_file(root, source.name))
        if there is not None and there != record.key and not overwrite:
            raise ValueError(
                f"{clip_file(root, source.name)} was made of other files or settings than {source.name} has now: pass "
                "--overwrite to encode it again, or choose another folder"
            )
        has_tracks = record.tracks is None or key_of_file(tracks_file(root, source.name)) == record.tracks
        if there != record.key or not has_tracks:
            yield source


def _codec(config: RunConfig) -> VideoCodec:
    if config.model.codec.kind == "pca":
        return load_model(config.train.init_from).codec
    return build_codec(config.model.codec)


def _write_captions(config: RunConfig, sources: list[Source], root: Path, device: torch.device) -> None:
    """Features of the empty caption and of all others, by a text encoder that is gone when this returns."""
    captions = sorted({"", *(caption for source in sources for caption in source.captions)})
    for caption in tqdm(captions, desc="captions", unit="caption", disable=len(captions) < 20):
        # one by one out of the cache, which the first call fills for all
        if caption == captions[0]:
            embed_captions(captions, config.model.text, device=device)
        write_caption(root, caption, embed_captions([caption], config.model.text)[0])
