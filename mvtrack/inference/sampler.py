"""Model + reference video + cameras -> video of the same moments along the new path.

Everything that makes pictures calls this: `reshoot`, validation during training, and evaluation.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from mvtrack.config.checked import config
from mvtrack.config.model import ModelConfig
from mvtrack.data.clip import padded_length
from mvtrack.geometry.camera import Camera
from mvtrack.models.camera_conditioning import ray_maps
from mvtrack.models.checkpoint_adapters import NativeInputs
from mvtrack.models.decoder.decode_aligned import SecondDecoding
from mvtrack.models.diffusion.flow import euler_steps, velocity_from_x0
from mvtrack.models.prompts import Prompts, make_prompts
from mvtrack.models.released_cameras import native_inputs
from mvtrack.models.reshoot_model import ReshootModel, model_cameras


@config
class SamplerOptions:
    """How a video is sampled. guidance, camera_guidance: scales of text and camera guidance; 1 switches them off."""

    steps: int = 8
    guidance: float = 1.0
    seed: int = 0
    camera_guidance: float = 1.0

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"sampling steps must be at least 1, got {self.steps}")
        if self.guidance != 1 and self.camera_guidance != 1:
            raise ValueError("guidance and camera_guidance cannot be combined: set one of them to 1")

    @staticmethod
    def of(
        model: ModelConfig, steps: int | None = None, guidance: float | None = None, seed: int = 0
    ) -> "SamplerOptions":
        """As a model is meant to be sampled, where nothing else is asked for."""
        wish = model.sampling
        return SamplerOptions(
            wish.steps if steps is None else steps, wish.guidance if guidance is None else guidance, seed
        )


class Given(NamedTuple):
    """What the transformer is told of one window beside latents and noise level. negative: what guidance steers away
    from."""

    rays: Float[Tensor, "B V f r hr wr"]
    native: NativeInputs | None = None
    text: Float[Tensor, "B L t"] | None = None
    negative: Float[Tensor, "B L t"] | None = None


@torch.no_grad()
def generate(
    model: ReshootModel,
    reference: Float[Tensor, "T 3 H W"],
    camera: Camera,
    sample: SamplerOptions | None = None,
    depth: Float[Tensor, "T H W"] | None = None,
    scene_depth: float | None = None,
    prompts: Prompts | None = None,
    on_step: Callable[[], None] | None = None,
    on_latents: Callable[[Float[Tensor, "V f c h w"]], None] | None = None,
    start: Float[Tensor, "2 4 4"] | None = None,
    again: SecondDecoding | None = None,
    frames: list[int] | None = None,
) -> Float[Tensor, "T 3 H W"]:
    """Generate the target view of one window.

    reference: RGB in [-1, 1], 4n + 1 frames. camera: (2, T), the reference's cameras, then the target's. sample: None
    is what the model is meant for. depth: z-depth of the reference where known; scene_depth: else the distance of the
    subject, in the camera's unit. prompts: see `make_prompts`; None is the empty caption, where the model takes
    captions. on_step: called after every sampling step. on_latents: gets the reference's clean latents and the
    generated ones. start: both views' poses at the first frame of the video that this is a window of, see
    `relative_cameras`. again: decode a second time, with the views aligned; it takes scene_depth, or depth. frames: of
    these frames in the video, for it; None: they are counted from 0. Raises ValueError on shapes the model cannot take.
    """
    sample = sample or SamplerOptions.of(model.config)
    if model.config.views is not None:
        raise ValueError("this model makes views of still scenes, it cannot re-shoot videos: use generate_views")
    check_guidance(model, sample)
    if camera.shape != (2, len(reference)):
        raise ValueError(f"camera must be (2, {len(reference)}): reference and target, got {tuple(camera.shape)}")
    if camera.size != tuple(reference.shape[-2:]):
        raise ValueError(f"camera is for images of {camera.size}, the reference is {tuple(reference.shape[-2:])}")
    if prompts is None:
        prompts = make_prompts(model.config, reference[0], guidance=sample.guidance, device=model.device)
    clean = model.encode(reference[None, None])
    given = tell(model.config, camera, prompts, depth, scene_depth, start)
    latents = sample_latents(model, clean, given, sample, on_step)
    both = torch.cat([clean, latents], 1)[0].cpu()
    if on_latents:
        on_latents(both)
    made = model.decode(latents)[0, 0].clamp(-1, 1)
    if again is None:
        return made
    distance = float(depth[0].median()) if scene_depth is None and depth is not None else scene_depth
    if distance is None:
        raise ValueError("a second decoding needs the distance of the subject: give scene_depth, or depth")
    return again.decode(model, both, reference, made, camera, distance, frames or list(range(len(reference))))


def tell(
    config: ModelConfig,
    camera: Camera,
    prompts: Prompts,
    depth: Float[Tensor, "T H W"] | None = None,
    scene_depth: float | None = None,
    start: Float[Tensor, "V 4 4"] | None = None,
) -> Given:
    """What a model is told of one window (B = 1). camera: (V, T). depth, scene_depth: see `model_cameras`. start: see
    `relative_cameras`."""
    scaled, _ = model_cameras(camera, config.rays, None if depth is None else depth[None], scene_depth)
    text, negative, image = (
        None if x is None else x[None] for x in (prompts.text, prompts.negative_text, prompts.image)
    )
    native = native_inputs(
        camera[None], config.dit, config.native_camera, image, start=None if start is None else start[None]
    )
    return Given(ray_maps(scaled, config.rays)[None], native, text, negative)


@torch.no_grad()
def sample_latents(
    model: ReshootModel,
    clean: Float[Tensor, "1 R f c h w"],
    given: Given,
    sample: SamplerOptions,
    on_step: Callable[[], None] | None = None,
) -> Float[Tensor, "1 R f c h w"]:
    """The target's latents from the reference's, on the model's device.

    Raises ValueError for guidance without its prompts.
    """
    if sample.guidance != 1 and (given.text is None or given.negative is None):
        raise ValueError("guidance needs the features of two captions: make the prompts with it, or set it to 1")
    other = _unguided(given, sample)
    scale = sample.guidance if sample.guidance != 1 else sample.camera_guidance
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(sample.seed)).to(model.device)

    def velocity(x: Tensor, sigma: Float[Tensor, "B"]) -> Tensor:
        if other is None:
            return _velocity(model, clean, x, sigma, given)
        if model.batched_guidance:
            both = _velocity(model, _twice(clean), _twice(x), _twice(sigma), _joined(given, other))
            predicted, unguided = both.chunk(2)
        else:
            predicted, unguided = (_velocity(model, clean, x, sigma, told) for told in (given, other))
        return unguided + scale * (predicted - unguided)

    latents = noise
    for latents in euler_steps(velocity, noise, sample.steps, model.config.flow.shift):  # noqa: B007  (the last is used)
        if on_step:
            on_step()
    return latents


def check_guidance(model: ReshootModel, sample: SamplerOptions) -> None:
    """Raise ValueError for guidance by the camera of a model that never learned to do without."""
    if sample.camera_guidance != 1 and model.config.rays.drop == 0:
        raise ValueError(
            "camera_guidance needs a model that was trained with cameras left out (model.rays.drop): set it to 1"
        )


def _unguided(given: Given, sample: SamplerOptions) -> Given | None:
    """The same without what guidance strengthens; None without guidance."""
    if sample.guidance != 1:
        return given._replace(text=given.negative)
    return given._replace(rays=torch.zeros_like(given.rays)) if sample.camera_guidance != 1 else None


def _twice(x: Tensor) -> Tensor:
    return torch.cat([x, x])


def _joined(one: Given, other: Given) -> Given:
    """Both as one batch."""
    rays, text = (None if a is None else torch.cat([a, b]) for a, b in ((one.rays, other.rays), (one.text, other.text)))
    native = one.native and NativeInputs(*(None if x is None else _twice(x) for x in one.native))
    return Given(rays, native, text)


def _velocity(model: ReshootModel, clean: Tensor, noisy: Tensor, sigma: Float[Tensor, "B"], given: Given) -> Tensor:
    with matmul_precision(model):
        state = torch.cat([clean, noisy], 1)
        output = model.run(state, sigma, given.rays, given.text, given.native).prediction[:, clean.shape[1] :]
    output = output.float()
    return velocity_from_x0(output, noisy, sigma) if model.config.flow.prediction == "x0" else output


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
    model: ReshootModel,
    read: Callable[[int, int], Float[Tensor, "T 3 H W"]],
    camera: Camera,
    sample: SamplerOptions | None = None,
    spans: list[tuple[int, int]] | None = None,
    scene_depth: float | None = None,
    prompts: Sequence[Prompts] | None = None,
    on_step: Callable[[], None] | None = None,
    on_latents: Callable[[int, Float[Tensor, "V f c h w"]], None] | None = None,
    again: SecondDecoding | None = None,
) -> Iterator[Float[Tensor, "n 3 H W"]]:
    """A video of any length in overlapping, cross-faded windows; yields frames in order, as soon as they are final.

    read: gives reference frames [start, stop); only one window is held at a time. spans: windows, see `window_spans`.
    Each window sees cameras relative to its own first reference frame, as in training; where a released model takes
    paths to start at the reference's viewpoint, that is the start of the video, not of the window. A video shorter than
    one window is padded to 4n + 1 frames by repeating its last frame, and trimmed back. prompts: one for every window,
    see `window_prompts`. on_latents, again: see `generate`; on_latents gets the window's number first.
    """
    spans = spans or window_spans(model.config, camera.shape[1])
    held = None  # the end of the last window, which the next one shares, weighted by its fading
    for number, ((start, stop), after) in enumerate(zip(spans, [*spans[1:], None], strict=True)):
        length = padded_length(stop - start)
        reference = read(start, stop)
        reference = torch.cat([reference, reference[-1:].expand(length - len(reference), -1, -1, -1)])
        index = torch.arange(start, start + length).clamp_max(stop - 1)
        keep = partial(on_latents, number) if on_latents else None
        told = prompts[number] if prompts else None
        begin = camera.c2w[:, 0]
        part = generate(
            model, reference, camera[:, index], sample, None, scene_depth, told, on_step, keep, begin, again,
            index.tolist(),
        )  # fmt: skip
        part = part[: stop - start]
        if held is not None:
            part[: len(held)] = part[: len(held)] * _rising(len(held)) + held
        final = stop if after is None else after[0]
        yield part[: final - start]
        held = part[final - start :] * (1 - _rising(stop - final))


def _rising(count: int) -> Float[Tensor, "T 1 1 1"]:
    """Weights between 0 and 1 with which a window takes over the frames it shares with the one before."""
    return (torch.arange(1, count + 1) / (count + 1))[:, None, None, None]


def generate_long(
    model: ReshootModel,
    reference: Float[Tensor, "T 3 H W"],
    camera: Camera,
    sample: SamplerOptions | None = None,
    spans: list[tuple[int, int]] | None = None,
    scene_depth: float | None = None,
    prompts: Sequence[Prompts] | None = None,
    again: SecondDecoding | None = None,
) -> Float[Tensor, "T 3 H W"]:
    """`generate_stream` for a video that is in memory, as one tensor."""

    def read(start: int, stop: int) -> Tensor:
        return reference[start:stop]

    return torch.cat(list(generate_stream(model, read, camera, sample, spans, scene_depth, prompts, again=again)))
