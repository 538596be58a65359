"""Model + reference video + cameras -> video of the same moments along the new path.

Everything that makes pictures calls this: `reshoot`, validation during training, and evaluation.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from mvtrack.config.checked import NonNegative, config
from mvtrack.config.model import ModelConfig
from mvtrack.data.clip import padded_length
from mvtrack.geometry.camera import Camera
from mvtrack.inference.guidance import check_guidance, guided
from mvtrack.models.conditioning import Conditioning, Window, encode_conditioning
from mvtrack.models.decoder.decode_aligned import AlignedDecoding
from mvtrack.models.prompts import Captions, Prompts, make_prompts
from mvtrack.models.reference_pass import ReferenceCache
from mvtrack.models.reshoot_model import ReshootModel
from mvtrack.models.step_cache import StepCache


@config
class SamplerOptions:
    """How a video is sampled. guidance, camera_guidance: scales of text and camera guidance; 1 switches them off.
    cache: threshold of the step cache (models/step_cache.py); 0 switches it off."""

    steps: int = 8
    guidance: float = 1.0
    seed: int = 0
    camera_guidance: float = 1.0
    cache: NonNegative = 0.0

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"sampling steps must be at least 1, got {self.steps}")
        if self.guidance != 1 and self.camera_guidance != 1:
            raise ValueError("guidance and camera_guidance cannot be combined: set one of them to 1")
        if self.cache and self.steps < 3:
            raise ValueError(
                f"a step cache does nothing in {self.steps} steps, of which the first and the last always run: leave "
                "out --cache, or set --steps to 3 or more"
            )

    @property
    def record(self) -> dict:
        """As plain values; a step cache that is off is not among them, so that records from before it are the same."""
        return {name: value for name, value in asdict(self).items() if name != "cache" or value}

    @staticmethod
    def of(
        model: ModelConfig, steps: int | None = None, guidance: float | None = None, seed: int = 0, cache: float = 0.0
    ) -> "SamplerOptions":
        """As a model is meant to be sampled, where nothing else is asked for. Raises ValueError for a step cache of a
        model that has none."""
        if cache and model.dit is None:
            raise ValueError("the step cache is for WanDiT, this model's network is diffusers': leave out --cache")
        wish = model.sampling
        if model.diffusion is not None:
            by_camera = model.diffusion.guidance if model.ray_drop else 1.0
            return SamplerOptions(model.diffusion.steps if steps is None else steps, guidance or 1.0, seed, by_camera)
        return SamplerOptions(
            wish.steps if steps is None else steps, wish.guidance if guidance is None else guidance, seed, cache=cache
        )


@dataclass(frozen=True)
class Callbacks:
    """on_step: called after every sampling step. on_latents: gets the reference's clean latents and the generated ones
    (V f c h w), in `generate_stream` after the window's number."""

    on_step: Callable[[], None] | None = None
    on_latents: Callable[..., None] | None = None


@dataclass(frozen=True)
class LongVideo:
    """A video of any length that is re-shot window by window.

    read: gives reference frames [start, stop), RGB in [-1, 1]; only one window is held at a time. camera: (2, T).
    scene_depth: see `Window`. prompts: one for every window, see `window_prompts`. spans: windows; None: see
    `window_spans`.
    """

    read: Callable[[int, int], Float[Tensor, "T 3 H W"]]
    camera: Camera
    scene_depth: float | None = None
    prompts: Sequence[Prompts] | None = None
    spans: Sequence[tuple[int, int]] | None = None

    @staticmethod
    def in_memory(reference: Float[Tensor, "T 3 H W"], camera: Camera, scene_depth: float | None = None) -> "LongVideo":
        """Of a video that is one tensor."""
        return LongVideo(lambda start, stop: reference[start:stop], camera, scene_depth)


@torch.no_grad()
def generate(
    model: ReshootModel, reference: Float[Tensor, "T 3 H W"], window: Window, sample: SamplerOptions | None = None,
    aligned: AlignedDecoding | None = None, callbacks: Callbacks = Callbacks(),
) -> Float[Tensor, "T 3 H W"]:  # fmt: skip
    """Generate the target view of one window.

    reference: RGB in [-1, 1], 4n + 1 frames. window: its two views' cameras and what else conditions the model. sample:
    None is what the model is meant for. aligned: decode a second time, with the views aligned; it needs the window's
    scene_depth. Raises ValueError on shapes the model cannot take.
    """
    window, sample = _checked(model, reference, window, sample)
    made = make_window(model, reference, window, sample, callbacks.on_step)
    return _handed_out(model, reference, window, made, aligned, callbacks.on_latents)


def _checked(
    model: ReshootModel, reference: Float[Tensor, "T 3 H W"], window: Window, sample: SamplerOptions | None
) -> tuple[Window, SamplerOptions]:
    """The window with prompts, and how it is sampled. Raises ValueError on shapes the model cannot take."""
    sample, camera = sample or SamplerOptions.of(model.config), window.camera
    if model.config.views is not None:
        raise ValueError("this model makes views of still scenes, it cannot re-shoot videos: use generate_views")
    check_guidance(model.config, sample.guidance, sample.camera_guidance)
    if camera.shape != (2, len(reference)):
        raise ValueError(f"camera must be (2, {len(reference)}): reference and target, got {tuple(camera.shape)}")
    if camera.size != tuple(reference.shape[-2:]):
        raise ValueError(f"camera is for images of {camera.size}, the reference is {tuple(reference.shape[-2:])}")
    if window.prompts is None:
        prompts = make_prompts(model.config, reference[0], Captions(guidance=sample.guidance), model.device)
        window = replace(window, prompts=prompts)
    return window, sample


@torch.no_grad()
def make_window(
    model: ReshootModel, reference: Float[Tensor, "T 3 H W"], window: Window, sample: SamplerOptions,
    on_step: Callable[[], None] | None = None,
) -> tuple[Float[Tensor, "2 f c h w"], Float[Tensor, "T 3 H W"]]:  # fmt: skip
    """Both views' latents, the reference's clean, and the generated frames, on the CPU; of a window with prompts."""
    clean = model.encode(reference[None, None])
    latents = sample_latents(model, clean, encode_conditioning(model.config, window), sample, on_step)
    return torch.cat([clean, latents], 1)[0].cpu(), model.decode(latents)[0, 0].clamp(-1, 1)


def _handed_out(
    model: ReshootModel, reference: Tensor, window: Window, made: tuple[Tensor, Tensor],
    aligned: AlignedDecoding | None, on_latents: Callable[[Tensor], None] | None,
) -> Float[Tensor, "T 3 H W"]:  # fmt: skip
    latents, frames = made
    if on_latents:
        on_latents(latents)
    return frames if aligned is None else aligned.decode(model, latents, torch.stack([reference, frames]), window)[0]


@torch.no_grad()
def sample_latents(
    model: ReshootModel, clean: Float[Tensor, "1 R f c h w"], conditioning: Conditioning, sample: SamplerOptions,
    on_step: Callable[[], None] | None = None,
) -> Float[Tensor, "1 R f c h w"]:  # fmt: skip
    """The target's latents from the reference's, on the model's device.

    Raises ValueError for guidance without its prompts.
    """

    def both_views(x: Tensor) -> Tensor:
        return torch.cat([clean.expand(len(x), *clean.shape[1:]), x], 1)

    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(sample.seed))
    return denoise(model, noise, both_views, conditioning, sample, on_step)


@torch.no_grad()
def denoise(
    model: ReshootModel, noise: Float[Tensor, "1 v f c h w"], state: Callable[[Tensor], Tensor],
    conditioning: Conditioning, sample: SamplerOptions, on_step: Callable[[], None] | None = None,
) -> Float[Tensor, "1 v f c h w"]:  # fmt: skip
    """From noise to a sample. state: what the network sees of x, clean references included; x is its last views."""
    process, caches = model.process, _caches(model, sample)

    def velocity(x: Tensor, sigma: Float[Tensor, "B"], conditioning: Conditioning) -> Tensor:
        noisy = state(x)
        for cache in caches.values():
            cache.branch(id(conditioning))
        with matmul_precision(model):
            output = model.run(noisy, sigma, conditioning).prediction
        output, noisy = output[:, -x.shape[1] :].float(), noisy[:, -x.shape[1] :]
        return process.velocity(output, noisy, sigma)

    step = guided(velocity, conditioning, sample.guidance, sample.camera_guidance, model.batched_guidance)
    latents = noise.to(model.device)
    with _using(model, caches):
        for latents in process.sample(step, latents, sample.steps):  # noqa: B007, B020  (the last is used)
            if on_step:
                on_step()
    return latents


def _caches(model: ReshootModel, sample: SamplerOptions) -> dict[str, StepCache | ReferenceCache]:
    """Of the network: the step cache that is asked for, or that somebody has put there to see what happens, and one of
    references that do not look at the target."""
    step = getattr(model.dit, "step_cache", None)
    if sample.cache:
        if model.passes is not None:
            raise ValueError("the step cache decides for one process: leave out --cache, or --gpus and --cuda-graphs")
        step = StepCache(sample.cache, sample.steps, model.config.sampling.cache_fit or (1.0, 0.0))
    own = model.config.dit is not None and model.config.dit.reference_attention == "own"
    return ({"step_cache": step} if step else {}) | ({"reference_cache": ReferenceCache()} if own else {})


@contextmanager
def _using(model: ReshootModel, caches: dict[str, StepCache | ReferenceCache]) -> Iterator[None]:
    """The network has its caches, which hold as much as its tokens and more, only while it samples."""
    before = {name: getattr(model.dit, name) for name in caches}
    for name, cache in caches.items():
        setattr(model.dit, name, cache)
    try:
        yield
    finally:
        for name, cache in before.items():
            setattr(model.dit, name, cache)


def matmul_precision(model: ReshootModel):
    """bfloat16 products for float32 weights, where the processor has them; elsewhere all in the weights' precision."""
    fast = model.device.type == "cuda" or torch.backends.cpu.get_cpu_capability().startswith("AVX512")
    if fast and model.dit.dtype == torch.float32:
        return torch.autocast(model.device.type, torch.bfloat16)
    return nullcontext()


def windows(num_frames: int, window: int, overlap: int) -> list[tuple[int, int]]:
    """(start, stop) of windows of `window` frames that cover a video; the last one starts earlier to fit.

    A video that is shorter than the window gives one window, to be padded.
    """
    if not 0 <= overlap < window:
        raise ValueError(f"overlap must lie in [0, {window - 1}], got {overlap}")
    if num_frames <= window:
        return [(0, num_frames)]
    starts = list(range(0, num_frames - window, window - overlap)) + [num_frames - window]
    return [(s, s + window) for s in starts]


def window_spans(config: ModelConfig, num_frames: int) -> list[tuple[int, int]]:
    """Windows of the length a model was trained at, a quarter of it shared by neighbours."""
    return windows(num_frames, config.num_frames, config.num_frames // 4)


def generate_stream(
    model: ReshootModel, video: LongVideo, sample: SamplerOptions | None = None, aligned: AlignedDecoding | None = None,
    callbacks: Callbacks = Callbacks(),
) -> Iterator[Float[Tensor, "n 3 H W"]]:  # fmt: skip
    """A video of any length in overlapping, cross-faded windows; yields frames in order, as soon as they are final.

    Each window sees cameras relative to its own first reference frame, as in training; where a released model takes
    paths to start at the reference's viewpoint, that is the start of the video, not of the window. A video shorter than
    one window is padded to 4n + 1 frames by repeating its last frame, and trimmed back. Processes that share windows
    make as many at once as they are.
    """
    spans = video.spans or window_spans(model.config, video.camera.shape[1])
    held = None  # the end of the last window, which the next one shares, weighted by its fading
    made = _windows(model, video, spans, sample, aligned, callbacks)
    for (start, stop), after, part in zip(spans, [*spans[1:], None], made, strict=True):
        part = part[: stop - start]
        if held is not None:
            part[: len(held)] = part[: len(held)] * _rising(len(held)) + held
        final = stop if after is None else after[0]
        yield part[: final - start]
        held = part[final - start :] * (1 - _rising(stop - final))


def _windows(
    model: ReshootModel, video: LongVideo, spans: Sequence[tuple[int, int]], sample: SamplerOptions | None,
    aligned: AlignedDecoding | None, callbacks: Callbacks,
) -> Iterator[Float[Tensor, "T 3 H W"]]:  # fmt: skip
    together = 1 if model.window_ranks is None else model.window_ranks.count
    for first in range(0, len(spans), together):
        numbers = range(first, min(first + together, len(spans)))
        inputs = [_inputs(video, spans[number], number) for number in numbers]
        given = [callbacks.on_latents and partial(callbacks.on_latents, number) for number in numbers]
        if len(inputs) == 1:
            yield generate(model, *inputs[0], sample, aligned, replace(callbacks, on_latents=given[0]))
            continue
        jobs = []
        for reference, window in inputs:
            window, how = _checked(model, reference, window, sample)
            jobs.append((reference, replace(window, prompts=window.prompts.cpu()), how))
        made = model.window_ranks.make_windows(jobs, partial(make_window, model, on_step=_times(len(jobs), callbacks)))
        for (reference, window, _), latents_and_frames, on_latents in zip(jobs, made, given, strict=True):
            yield _handed_out(model, reference, window, latents_and_frames, aligned, on_latents)


def _times(count: int, callbacks: Callbacks) -> Callable[[], None]:
    """Every step of this process stands for one of all that make windows."""

    def on_step() -> None:
        for _ in range(count if callbacks.on_step else 0):
            callbacks.on_step()

    return on_step


def _inputs(video: LongVideo, span: tuple[int, int], number: int) -> tuple[Float[Tensor, "T 3 H W"], Window]:
    """A window's reference and what conditions it."""
    start, stop = span
    length = padded_length(stop - start)
    reference = video.read(start, stop)
    reference = torch.cat([reference, reference[-1:].expand(length - len(reference), -1, -1, -1)])
    index = torch.arange(start, start + length).clamp_max(stop - 1)
    prompts = video.prompts[number] if video.prompts else None
    start_poses = video.camera.c2w[:, 0]
    return reference, Window(video.camera[:, index], video.scene_depth, prompts, start_poses, tuple(index.tolist()))


def _rising(count: int) -> Float[Tensor, "T 1 1 1"]:
    """Weights between 0 and 1 with which a window takes over the frames it shares with the one before."""
    return (torch.arange(1, count + 1) / (count + 1))[:, None, None, None]


def generate_long(
    model: ReshootModel, video: LongVideo, sample: SamplerOptions | None = None, aligned: AlignedDecoding | None = None
) -> Float[Tensor, "T 3 H W"]:
    """`generate_stream` as one tensor."""
    return torch.cat(list(generate_stream(model, video, sample, aligned)))
