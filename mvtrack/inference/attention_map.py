"""Where one point of a user's own video looks, in both views (MVTrack4Gen D, Fig. 15).

One window of the video is enough: attention does not reach beyond it. In a fresh re-shoot the attention is that of the
sampling itself; a generated video that exists is noised to the same level and seen once.
"""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import torch
from jaxtyping import Float
from torch import Tensor

from mvtrack.config.model import ModelConfig
from mvtrack.correspondence.attention_row import AttentionRow, attention_row
from mvtrack.correspondence.features import features_from_tokens
from mvtrack.data.clip import TEMPORAL_STRIDE, padded_length
from mvtrack.data.visualize.attention_overlay import (
    Looks,
    attention_sheet,
    frame_titles,
    shown_frames,
    token_centres,
    token_heat,
)
from mvtrack.files.atomic_io import new_folder
from mvtrack.inference.attention_pair import VIEWS, Pair
from mvtrack.inference.forward_noised import noised_videos
from mvtrack.inference.sampler import Callbacks, generate, window_spans
from mvtrack.models.backbone import check_layer
from mvtrack.models.conditioning import Window
from mvtrack.models.diffusion.flow import sampling_sigmas
from mvtrack.models.hooks import visiting_layers
from mvtrack.models.prompts import Captions, make_prompts
from mvtrack.models.reshoot_model import ReshootModel
from mvtrack.video.resize import Fit
from mvtrack.video.video import Video


@dataclass(frozen=True)
class AttentionQuery:
    """A point: raster x, y in a view's own pixels (of the source file, or of the generated video), at a frame."""

    x: float
    y: float
    frame: int
    view: str = "generated"

    @staticmethod
    def parse(text: str, view: str) -> "AttentionQuery":
        """From "x,y,t". Raises ValueError that says what it should look like."""
        parts = text.split(",")
        try:
            x, y, frame = float(parts[0]), float(parts[1]), int(parts[2])
        except (ValueError, IndexError):
            parts = []
        if len(parts) != 3 or not (math.isfinite(x) and math.isfinite(y)):
            raise ValueError(f"--query must be x,y,t: pixels right and down, and a whole frame number, got {text!r}")
        return AttentionQuery(x, y, frame, view)


@dataclass(frozen=True)
class Lens:
    """What is looked at. layer: None is the tapped one. step: of the sampling run, counted from 0; None: the middle.

    noise_level: instead of a step, the step whose sigma lies nearest. heads: counted from 0; None: the mean of all.
    """

    layer: int | None = None
    step: int | None = None
    noise_level: float | None = None
    heads: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Seen:
    """looks, frames: what is drawn, and which video frames these are. record: everything as plain numbers."""

    looks: Looks
    frames: list[int]
    record: dict


def follow_query(
    model: ReshootModel, pair: Pair, query: AttentionQuery, lens: Lens, on_step: Callable[[], None] | None = None
) -> Seen:
    """Where the query's token looks. on_step: called after every sampling step.

    Raises ValueError that gives the valid range for a point, frame, layer, step or head that does not exist, before
    anything is generated.
    """
    layer = model.config.tap_layer if lens.layer is None else lens.layer
    check_layer(model.dit, layer)
    num_heads = model.config.dit.num_heads
    if lens.heads is not None and not (lens.heads and all(0 <= head < num_heads for head in lens.heads)):
        raise ValueError(f"heads {lens.heads} do not exist: this model has heads 0 .. {num_heads - 1}")
    step, sigma = chosen_step(lens, pair.sample.steps, model.config.flow.shift)
    x, y = place_query(pair, query)
    span = query_window(model.config, pair, query)
    latent, token_px = -(-(query.frame - span[0]) // TEMPORAL_STRIDE), model.config.rays.token_px
    token = (VIEWS.index(query.view), latent, int(y // token_px), int(x // token_px))
    moment = _Moment(layer, 0 if pair.generated else step, sigma, lens.heads, token)
    row, videos = _watch(model, pair, span, moment, on_step)
    numbers = {
        "query": {"view": query.view, "x": query.x, "y": query.y, "frame": query.frame},
        "token": dict(zip(("view", "latent_frame", "row", "column"), token, strict=True)),
        "layer": layer,
        "heads": list(range(num_heads) if lens.heads is None else lens.heads),
        "num_heads": num_heads,
        "step": step,
        "sigma": round(sigma, 5),
        "caption": pair.caption,
        "attention_of": "a generated video, noised" if pair.generated else "the sampling",
    }
    return _seen(row, videos, pair, span, (token[0], latent, x, y, query.frame), token_px, numbers)


def chosen_step(lens: Lens, steps: int, shift: float) -> tuple[int, float]:
    """Which sampling step to look at, and its noise level. Raises ValueError for one that does not exist."""
    sigmas = sampling_sigmas(steps, shift)[:-1]
    if lens.noise_level is not None:
        if lens.step is not None:
            raise ValueError("--step and --noise-level say the same thing: give one of them")
        if not 0 < lens.noise_level <= 1:
            raise ValueError(f"--noise-level must lie in (0, 1], got {lens.noise_level:g}")
        step = int((sigmas - lens.noise_level).abs().argmin())
    else:
        step = steps // 2 if lens.step is None else lens.step
        if not 0 <= step < steps:
            raise ValueError(
                f"--step {step} does not exist: with {steps} sampling steps it must lie in [0, {steps - 1}]"
            )
    return step, float(sigmas[step])


def place_query(pair: Pair, query: AttentionQuery) -> tuple[float, float]:
    """The query in the model's picture. Raises ValueError with the valid ranges when it lies outside."""
    frames = len(pair.reference)
    if not 0 <= query.frame < frames:
        raise ValueError(f"the query's frame {query.frame} does not exist: it must lie in [0, {frames - 1}]")
    fit = pair.fits[VIEWS.index(query.view)]
    (height, width), (top, left) = fit.content, fit.place
    corners = torch.tensor([[left, top], [left + width, top + height]], dtype=torch.float64)
    (low_x, low_y), (high_x, high_y) = fit.to_source(corners).tolist()
    high_x, high_y = min(high_x, fit.source[1]), min(high_y, fit.source[0])
    low_x, low_y = max(low_x, 0.0), max(low_y, 0.0)
    if not (low_x <= query.x < high_x and low_y <= query.y < high_y):
        cut = " (fit crop cuts off the rest)" if fit.mode == "crop" else ""
        raise ValueError(
            f"the query ({query.x:g}, {query.y:g}) lies outside the {query.view} view: x must lie in "
            f"[{low_x:g}, {high_x:g}), y in [{low_y:g}, {high_y:g}){cut}"
        )
    x, y = fit.to_picture(torch.tensor([query.x, query.y], dtype=torch.float64)).tolist()
    # rounding must not push a point on the border over it
    return min(max(x, left), left + width - 1e-3), min(max(y, top), top + height - 1e-3)


def query_window(config: ModelConfig, pair: Pair, query: AttentionQuery) -> tuple[int, int]:
    """The window in which a query is looked at: first and last + 1 frame. Raises ValueError as `place_query`."""
    place_query(pair, query)
    return best_window(window_spans(config, len(pair.reference)), query.frame)


def best_window(spans: list[tuple[int, int]], frame: int) -> tuple[int, int]:
    """Of the windows that hold a frame, the one in which it lies furthest from both ends."""
    holding = [span for span in spans if span[0] <= frame < span[1]]
    return max(holding, key=lambda span: min(frame - span[0], span[1] - 1 - frame))


@dataclass(frozen=True)
class _Moment:
    """Which row to take: of which layer, at which forward of the run, of which token."""

    layer: int
    forward: int
    sigma: float
    heads: tuple[int, ...] | None
    token: tuple[int, int, int, int]


def _watch(
    model: ReshootModel, pair: Pair, span: tuple[int, int], moment: _Moment, on_step: Callable[[], None] | None
) -> tuple[AttentionRow, Float[Tensor, "2 T 3 H W"]]:
    """Run the window and take the row; also both views' frames, padded to 4n + 1."""
    start, stop = span
    reference = _frames(pair.reference, pair.fits[0], span)
    camera = pair.cameras[:, torch.arange(start, start + len(reference)).clamp_max(stop - 1)]
    latents, token_px = (len(reference) - 1) // TEMPORAL_STRIDE + 1, model.config.rays.token_px
    grid = tuple(side // token_px for side in reference.shape[-2:])
    captions = Captions(pair.caption, pair.negative, pair.guidance)
    prompts = make_prompts(model.config, reference[0], captions, model.device)
    window = Window(camera, pair.subject_distance, prompts, pair.cameras.c2w[:, 0])
    rows: list[AttentionRow] = []
    done = 0

    def visit(_layer: int, q: Tensor, k: Tensor) -> None:
        if done == moment.forward and not rows:
            q, k = (x[:1].float().cpu() for x in (q, k))  # guidance may run two at once, the guided one first
            q, k = (features_from_tokens(x.flatten(2), 2, latents, grid, x.shape[2])[0] for x in (q, k))
            rows.append(attention_row(q, k, moment.token, moment.heads))

    def count() -> None:
        nonlocal done
        done += 1
        if on_step:
            on_step()

    with visiting_layers(model.dit, visit, (moment.layer,)):
        if pair.generated is None:
            made = generate(model, reference, window, pair.sample, callbacks=Callbacks(count))
            videos = torch.stack([reference, made])
        else:
            videos = torch.stack([reference, _frames(pair.generated, pair.fits[1], span)])
            noised_videos(model, videos, window, pair.sample.seed).forward(model, moment.sigma)
    return rows[0], videos


def _frames(footage: Video, fit: Fit, span: tuple[int, int]) -> Float[Tensor, "T 3 H W"]:
    frames = fit.apply(footage.read(*span, fit.scaled))
    return torch.cat([frames, frames[-1:].expand(padded_length(len(frames)) - len(frames), -1, -1, -1)])


def _seen(
    row: AttentionRow, videos: Float[Tensor, "2 T 3 H W"], pair: Pair, span: tuple[int, int],
    query: tuple[int, int, float, float, int], token_px: int, numbers: dict,
) -> Seen:  # fmt: skip
    """What to draw and to write down; latent frames that hold padding only are left out."""
    view, latent, x, y, frame = query
    start, stop = span
    real = -(-(stop - start - 1) // TEMPORAL_STRIDE) + 1
    frames = [frame if i == latent else min(start + TEMPORAL_STRIDE * i, stop - 1) for i in range(real)]
    peaks = token_centres(row.peak, token_px)
    top, left = pair.fits[0].place
    shown = shown_frames(real, latent)
    heat = token_heat(row.per_frame[:, shown], tuple(videos.shape[-2:]))
    index = [frames[i] - start for i in shown]
    undo = pair.fits[0].undo
    looks = Looks(
        frames=torch.stack([undo(view_frames[index]) for view_frames in videos]),
        heat=undo(heat),
        peak=peaks[:, shown] - torch.tensor([left, top]),
        share=row.share[:, shown],
        query=(view, shown.index(latent), x - left, y - top),
    )
    numbers["window"] = [start, stop]
    numbers["share"] = {name: round(float(row.share[v].sum()), 5) for v, name in enumerate(VIEWS)}
    numbers["frames"] = {
        name: [
            {
                "frame": frames[i],
                "share": round(float(row.share[v, i]), 6),
                "peak_xy": [round(c, 2) for c in pair.fits[v].to_source(peaks[v, i]).tolist()],
                "peak_probability": round(float(row.per_frame[v, i].max()), 6),
            }
            for i in range(real)
        ]
        for v, name in enumerate(VIEWS)
    }
    return Seen(looks, [frames[i] for i in shown], numbers)


def write_seen(folder: Path, seen: Seen, model: Path | str, overwrite: bool = False, *inputs: Path | None) -> Path:
    """Write attention.png and attention.json to a folder; returns the picture's path.

    model: where the model came from, for the record. overwrite, inputs: see `refuse_existing`.
    """
    n = seen.record
    heads = "all heads" if len(n["heads"]) == n["num_heads"] else f"heads {','.join(map(str, n['heads']))}"
    title = (
        f"({n['query']['x']:g}, {n['query']['y']:g}) of the {n['query']['view']} view's frame {n['query']['frame']}: "
        f"layer {n['layer']}, {heads}, sigma {n['sigma']:.2f} (step {n['step']}), attention of {n['attention_of']}"
    )
    with new_folder(folder, overwrite, *inputs) as aside:
        sheet = attention_sheet(title, seen.looks, frame_titles(list(VIEWS), seen.frames))
        cv2.imwrite(str(aside / "attention.png"), sheet[..., ::-1])
        (aside / "attention.json").write_text(json.dumps({"model": str(model), **n}, indent=1))
    return folder / "attention.png"
