"""One training step's losses: rectified flow on the target views, correspondence on tapped attention, tracking."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mvtrack.config.run import RunConfig
from mvtrack.correspondence.loss import correspondence_loss_per_layer
from mvtrack.correspondence.nearest_neighbours import points_from_depth, targets_from_points
from mvtrack.correspondence.targets import CorrespondenceTargets, targets_from_depth, targets_from_tracks, token_grid
from mvtrack.data.clip import TEMPORAL_STRIDE
from mvtrack.data.loader import Batch
from mvtrack.models.camera_conditioning import ray_maps
from mvtrack.models.checkpoint_adapters import NativeInputs
from mvtrack.models.diffusion.flow import add_noise, draw_sigma, keep_references, training_weight
from mvtrack.models.dit import DiTOutput
from mvtrack.models.head_cameras import head_cameras
from mvtrack.models.pca_codec import VideoCodec
from mvtrack.models.released_cameras import native_inputs
from mvtrack.models.reshoot_model import model_cameras
from mvtrack.training.track_task import TrackTask, draw_track_task
from tracking_head import TrackLoss, Tracks, track_loss


@dataclass(frozen=True)
class Prepared:
    """A batch as the network takes it; all randomness is already drawn."""

    latents: Float[Tensor, "B V f c h w"]  # clean
    noise: Float[Tensor, "B V f c h w"]
    sigma: Float[Tensor, "B"]
    rays: Float[Tensor, "B V f r hr wr"]
    targets: CorrespondenceTargets | None
    tracking: TrackTask | None = None
    reference: Bool[Tensor, "B V f"] | None = None  # which latent frames are references; None: the first view
    native: NativeInputs | None = None
    text: Float[Tensor, "B L t"] | None = None

    def num_tokens(self, config: RunConfig) -> int:
        """Tokens of one sample, all its views."""
        patch = config.model.dit.patch_size
        return self.latents[0, :, :, 0].numel() // (patch[1] * patch[2])

    def to(self, device: torch.device) -> "Prepared":
        moved = {name: getattr(self, name).to(device) for name in ("latents", "noise", "sigma", "rays")}
        for name in ("targets", "tracking", "reference", "text"):
            part = getattr(self, name)
            moved[name] = None if part is None else part.to(device)
        if self.native is not None:
            moved["native"] = NativeInputs(*(None if part is None else part.to(device) for part in self.native))
        return replace(self, **moved)


@torch.no_grad()
def prepare(batch: Batch, codec: VideoCodec, config: RunConfig, device: torch.device | None = None) -> Prepared:
    """Encode a batch, unless it was encoded before, and draw its noise, keyed by (seed, global sample number).

    device: where the codec lies; None: the CPU. Raises ValueError for clips that lack what the losses need.
    """
    latents = codec.encode(batch.video.to(device)) if batch.latents is None else batch.latents
    camera, _ = model_cameras(batch.camera, config.model.rays, batch.depth, _distance(batch, config))
    noise, sigma = [], []
    for number in batch.index.tolist():
        generator = torch.Generator().manual_seed(hash_seed(config.train.seed, number))
        sigma.append(draw_sigma(config.model.flow, generator))
        noise.append(torch.randn(latents.shape[1:], generator=generator))
    if batch.tracks is None and (config.loss.correspondence > 0 or config.loss.tracking > 0):
        raise ValueError(
            f"{batch.keys[0]} has no point tracks: put tracks.npz beside its videos (docs/data.md), or set "
            "loss.correspondence: 0, loss.tracking: 0 and model.tracking: null"
        )
    targets = correspondence_targets(batch, config) if config.loss.correspondence > 0 else None
    tracking = None
    if config.loss.tracking > 0:
        seeds = [hash_seed(config.train.seed + 2, number) for number in batch.index.tolist()]
        cameras = head_cameras(batch.camera[:, :, ::TEMPORAL_STRIDE], config.model.tracking)
        tracking = draw_track_task(batch.tracks, config.loss.tracking_points, seeds, cameras)
    rays = ray_maps(camera, config.model.rays)
    if config.model.rays.drop > 0:
        rays = rays * keeps_camera(batch.index, config)[:, None, None, None, None, None]
    reference = None if config.model.views is None else draw_references(batch.index, tuple(latents.shape[1:3]), config)
    native = native_inputs(batch.camera, config.model.dit, config.model.native_camera, batch.image)
    return Prepared(
        latents, torch.stack(noise), torch.stack(sigma), rays, targets, tracking, reference, native, batch.text
    )


def _distance(batch: Batch, config: RunConfig) -> Float[Tensor, "B"] | None:
    """The scene's depth, where the model's scale asks for it and no maps tell it."""
    if batch.depth is None and batch.distance is None and config.model.rays.scale == "median_depth":
        raise ValueError(
            f"{batch.keys[0]} has no depth, which model.rays.scale: median_depth needs: set it to path_extent (or none)"
        )
    return batch.distance


def keeps_camera(index: Int[Tensor, "B"], config: RunConfig) -> Bool[Tensor, "B"]:
    """False for the samples that learn without cameras, drawn by (seed, global sample number)."""
    draws = [_uniform(config.train.seed + 3, number) for number in index.tolist()]
    return torch.tensor(draws) >= config.model.rays.drop


def draw_references(index: Int[Tensor, "B"], shape: tuple[int, int], config: RunConfig) -> Bool[Tensor, "B V f"]:
    """How many of each sample's views are given, drawn by (seed, global sample number). They come first.

    shape: (V, f), F views of one latent frame or one path of F latent frames.
    """
    choices = config.model.views.references
    draws = [_uniform(config.train.seed + 4, number) for number in index.tolist()]
    counts = torch.tensor([choices[int(draw * len(choices))] for draw in draws])
    return (torch.arange(shape[0] * shape[1]) < counts[:, None]).unflatten(1, shape)


def _uniform(seed: int, number: int) -> float:
    """A number in [0, 1) of one sample."""
    return torch.rand((), generator=torch.Generator().manual_seed(hash_seed(seed, number))).item()


def correspondence_targets(batch: Batch, config: RunConfig) -> CorrespondenceTargets:
    """What the config asks attention for; queries are drawn by (seed, global sample number)."""
    loss, token_px = config.loss, config.model.rays.token_px
    if loss.correspondence_targets == "depth":
        return targets_from_depth(batch.depth, batch.camera, token_px)
    samples = []
    for b, number in enumerate(batch.index.tolist()):
        seed, one = hash_seed(config.train.seed + 1, number), slice(b, b + 1)
        if loss.correspondence_targets == "tracks":
            tracks = Tracks(batch.tracks.xy[one], batch.tracks.visible[one], batch.tracks.valid[one])
            size = batch.camera.size
            samples.append(targets_from_tracks(tracks, size, token_px, loss.correspondence_queries, seed))
        else:
            points = points_from_depth(batch.depth[one], batch.camera[one])
            samples.append(
                targets_from_points(
                    points,
                    token_grid(tuple(points.shape[-2:]), token_px),
                    loss.correspondence_matches,
                    num_queries=loss.correspondence_queries,
                    seed=seed,
                )
            )
    return CorrespondenceTargets.concatenate(samples)


def hash_seed(seed: int, number: int) -> int:
    """Well-mixed 63-bit seed of one sample (SplitMix64's finaliser)."""
    x = (seed * 0x9E3779B97F4A7C15 + number * 0xBF58476D1CE4E5B9 + 1) & 0xFFFFFFFFFFFFFFFF
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
    return (x ^ (x >> 31)) >> 1


def losses(dit: Callable[..., DiTOutput], step: Prepared, config: RunConfig) -> dict[str, Float[Tensor, ""]]:
    """Loss parts, `total` among them. Reference latents stay clean; the flow loss is on the targets only.

    `correspondence` is the mean over the tapped layers; several layers are also reported one by one, and so are the
    parts of `tracking`.
    """
    noisy = keep_references(step.latents, add_noise(step.latents, step.noise, step.sigma), step.reference)
    layers = config.loss.correspondence_layers or (config.model.tap_layer,)
    layers = layers if step.targets is not None else ()
    track = step.tracking and step.tracking.request(config.model.tap_layer, config.model.rays.token_px)
    given = {"track": track, "reference": step.reference, "native": step.native}
    output = dit(noisy, 1000 * step.sigma, step.rays, step.text, tap_layers=layers, **given)
    parts = {"flow": _flow_loss(output.prediction.float(), step, config)}
    total = parts["flow"]
    if step.targets is not None:
        by_layer = correspondence_loss_per_layer(
            output.taps,
            step.targets,
            config.loss.correspondence_options,
            output.logit_heads or None,
            reference=step.reference,
        )
        parts["correspondence"] = by_layer.mean()
        if len(layers) > 1:
            parts |= {f"correspondence_{i}": loss.detach() for i, loss in zip(layers, by_layer, strict=True)}
        total = total + config.loss.correspondence * parts["correspondence"]
    if step.tracking is not None:
        tracked = track_loss(output.tracks, step.tracking.truth, _width_px(step, config), config.loss.tracking_options)
        parts |= _named(tracked)
        total = total + config.loss.tracking * parts["tracking"]
    return parts | {"total": total}


def _flow_loss(predicted: Float[Tensor, "B V f c h w"], step: Prepared, config: RunConfig) -> Float[Tensor, ""]:
    wanted = step.latents if config.model.flow.prediction == "x0" else step.noise - step.latents
    if step.reference is None:
        per_sample = (predicted[:, 1:] - wanted[:, 1:]).square().flatten(1).mean(1)
    else:
        error = (predicted - wanted).square().mean((3, 4, 5)) * ~step.reference  # (B, V, f)
        per_sample = error.sum((1, 2)) / (~step.reference).sum((1, 2))
    if config.model.flow.weighting == "wan":
        per_sample = per_sample * training_weight(step.sigma, config.model.flow.shift).to(per_sample.device)
    return per_sample.mean()


def _width_px(step: Prepared, config: RunConfig) -> int:
    return step.latents.shape[-1] * config.model.codec.stride


def _named(loss: TrackLoss) -> dict[str, Float[Tensor, ""]]:
    """The sum, and its parts for the log."""
    parts = {f"tracking_{name}": getattr(loss, name).detach() for name in ("position", "visibility", "confidence")}
    return {"tracking": loss.total} | parts
