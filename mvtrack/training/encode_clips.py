"""Encode clips once for training: latents in both directions of time, image tokens, features of captions."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from tqdm import tqdm

from mvtrack.config.data import LatentsConfig
from mvtrack.config.run import RunConfig
from mvtrack.data.clip import Clip
from mvtrack.data.latents import (
    EncodedClip,
    Kind,
    clip_file,
    clip_key,
    key_of_file,
    write_caption,
    write_clip,
)
from mvtrack.data.synthetic.bank import BankRecipe, render_scene_tensors
from mvtrack.geometry.camera import Camera
from mvtrack.models.encoders import run_encoders
from mvtrack.models.image_encoder import encode as encode_images
from mvtrack.models.image_encoder import load_encoder
from mvtrack.models.pca_codec import VideoCodec, build_codec
from mvtrack.models.reshoot_model import load_model
from mvtrack.models.text_encoder import embed_captions
from mvtrack.models.weights.sources import open_part
from mvtrack.training.clip_folders import clip_folders, read_clip
from mvtrack.video.resize import plan_fit
from tracking_head import Tracks

RENDERED_VIEWS = 3


@dataclass(frozen=True)
class Source:
    """A clip to come. contents: what it is made of, for its key."""

    name: str
    contents: list
    caption: str
    read: Callable[[], Clip]


def sources_of_folder(root: Path, config: RunConfig, entry: LatentsConfig) -> list[Source]:
    """The clips of a user's folder, see clip_folders.py."""

    def fit(size: tuple[int, int]):
        return plan_fit(size, config.model, "crop", entry.size)

    frames = config.data.num_frames
    return [
        Source(found.name, found.contents(), found.caption, lambda found=found: read_clip(found, frames, fit))
        for found in clip_folders(root)
    ]


def rendered_sources(count: int, config: RunConfig, entry: LatentsConfig) -> list[Source]:
    """Scenes that the project renders, with exact tracks and depth, and no caption."""
    recipe = BankRecipe(entry.size, config.data.num_frames, RENDERED_VIEWS)
    return [
        Source(f"rendered_{n:06d}", [asdict(recipe), n], "", lambda n=n: _rendered(recipe, n)) for n in range(count)
    ]


def _rendered(recipe: BankRecipe, number: int) -> Clip:
    part = render_scene_tensors(recipe, number)
    camera = Camera(part["c2w"], part["K"], recipe.size, scale_known=True)
    tracks = Tracks(part["track_xy"], part["track_visible"], part["track_valid"])
    return Clip(part["video"].float() / 127.5 - 1, camera, tracks=tracks, depth=part["depth"].float())


@dataclass(frozen=True)
class PreparationReport:
    """How many clips were encoded now, and how many were there already. strays: files that no source names."""

    encoded: int
    kept: int
    strays: int


def prepare_clips(
    config: RunConfig,
    entry: LatentsConfig,
    sources: list[Source],
    device: torch.device,
    shard: tuple[int, int] = (1, 1),
    overwrite: bool = False,
) -> PreparationReport:
    """Encode what is missing. shard: (i, n), every n-th clip from the i-th on, so that n processes share the work.

    Raises ValueError for a clip that was encoded from other files, unless it may be overwritten.
    """
    root, model = Path(entry.root), config.model
    codec = _codec(config)
    encoders = run_encoders(model, codec)
    kind = Kind(entry.size, config.data.num_frames, 2 if config.data.reverse else 1, encoders)
    kind.check(root)
    keys = {source.name: clip_key([source.contents, asdict(kind)]) for source in sources}
    mine = sources[shard[0] - 1 :: shard[1]]
    todo = list(_todo(mine, keys, root, overwrite))
    kind.write(root, keys)
    if encoders.text is not None:
        _write_captions(config, mine, root, device)
    images = None
    if encoders.image is not None and todo:
        images = load_encoder(open_part(model.image.weights, "image"), torch.float32).to(device)
    codec.to(device)
    for source in tqdm(todo, desc=f"encoding into {root}", unit="clip"):
        clip = source.read()
        write_clip(root, source.name, keys[source.name], encode_clip(clip, codec, images, device, kind.directions))
    strays = {path.name for path in root.glob("clip_*.safetensors")} - {clip_file(root, name).name for name in keys}
    return PreparationReport(len(todo), len(mine) - len(todo), len(strays))


@torch.no_grad()
def encode_clip(
    clip: Clip, codec: VideoCodec, images: nn.Module | None, device: torch.device, directions: int
) -> EncodedClip:
    """One view at a time: a view's video is all that lies on the device."""
    latents, tokens = [], []
    for direction in range(directions):
        video = clip.video if direction == 0 else clip.video.flip(1)
        latents.append(torch.cat([_encoded(codec, view.to(device)) for view in video]))
        if images is not None:
            tokens.append(encode_images(images, video[:, 0].to(device)).cpu())
    distance = None if clip.depth is None else clip.depth.flatten(2).median(-1).values
    image = torch.stack(tokens) if tokens else None
    return EncodedClip(torch.stack(latents), clip.camera, clip.caption, clip.tracks, distance, image)


def _encoded(codec: VideoCodec, video: Float[Tensor, "T 3 H W"]) -> Float[Tensor, "1 f c h w"]:
    return codec.encode(video[None, None])[0].cpu()


def _codec(config: RunConfig) -> VideoCodec:
    if config.model.codec.kind == "pca":
        return load_model(config.train.init_from).codec
    return build_codec(config.model.codec)


def _todo(sources: list[Source], keys: dict[str, str], root: Path, overwrite: bool) -> Iterator[Source]:
    for source in sources:
        found = key_of_file(clip_file(root, source.name))
        if found is not None and found != keys[source.name] and not overwrite:
            raise ValueError(
                f"{clip_file(root, source.name)} was made of other files or settings than {source.name} has now: pass "
                "--overwrite to encode it again, or choose another folder"
            )
        if found != keys[source.name]:
            yield source


def _write_captions(config: RunConfig, sources: list[Source], root: Path, device: torch.device) -> None:
    """Features of the empty caption and of all others, by a text encoder that is gone when this returns."""
    captions = sorted({"", *(source.caption for source in sources)})
    for caption in tqdm(captions, desc="captions", unit="caption", disable=len(captions) < 20):
        # one by one out of the cache, which the first call fills for all
        if caption == captions[0]:
            embed_captions(captions, config.model.text, device=device)
        write_caption(root, caption, embed_captions([caption], config.model.text)[0])
