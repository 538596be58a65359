"""Memory of a training step's activations and gradients: forward and backward on tensors without storage."""

from dataclasses import replace
from functools import lru_cache

import torch
from einops import rearrange
from torch import Tensor

from mvtrack.config.model import ModelConfig
from mvtrack.config.run import RunConfig
from mvtrack.config.training import TrainConfig
from mvtrack.correspondence.label_log_prob import Rows, log_prob_in_chunks, rows_per_chunk
from mvtrack.correspondence.logit_head import Projection
from mvtrack.data.clip import num_latent_frames
from mvtrack.inference.memory.memory_tracker import allocate_fake, fake_tensors
from mvtrack.inference.memory.transformer import InputShape, run_network
from mvtrack.models.activation_checkpointing import checkpointing_of
from mvtrack.models.backbone import Tap
from mvtrack.models.dit import WanDiT
from mvtrack.models.networks import Network
from mvtrack.models.sequence_parallel import AloneOf, share_tokens
from mvtrack.training.adapters import empty_training_network
from mvtrack.training.optimizer import freeze
from tracking_head import Cameras, HeadOutput, Tracks, track_loss
from tracking_head.pyramid import axis_table, pyramid_levels

# Of the head's correlation, see tracking_head/correlation.py: on a CPU a part is so small that all take long to trace.
_CHUNK_BYTES = {"cuda": 512 * 2**20, "cpu": 64 * 2**20}


def training_scene(config: RunConfig) -> InputShape:
    """The largest micro-batch of a run."""
    size = max(config.data.sizes, key=lambda size: size[0] * size[1])
    views = config.model.views
    count = 2 if views is None else views.count if views.encoding == "images" else 1
    train = config.train
    return InputShape(size, config.data.num_frames, train.micro_batch_size, count, train.sequence_parallel)


def training_bytes(config: RunConfig, scene: InputShape, device: str = "cuda") -> int:
    """Peak of forward and backward, gradients of the trained parameters (in the weights' precision) included.

    The correspondence loss on the heads themselves is stood in for: it saves q and k, and its logits come and go in
    blocks. With an MLP over the heads it is run, a chunk of every key frame.
    """
    names = ("precision", "gradient_checkpointing", "checkpoint_blocks", "checkpoint_keep", "init_from")
    train = TrainConfig(**{name: getattr(config.train, name) for name in names})  # nothing else plays a part here
    return _training_bytes(replace(config, train=train), scene, device)


@lru_cache(maxsize=64)
def _training_bytes(config: RunConfig, scene: InputShape, device: str) -> int:
    precision, model = config.train.precision, _cheap_to_trace(config.model, device)
    dit = empty_training_network(replace(config, model=model))
    freeze(dit, config.optim.trainable)
    trained = {name for name, parameter in dit.named_parameters() if parameter.requires_grad}
    _fill_tables(model, scene)
    with fake_tensors() as counter:
        allocate_fake(dit, torch.bfloat16 if precision == "bf16" else torch.float32, keep="")
        for name, parameter in dit.named_parameters():
            parameter.requires_grad_(name in trained)
        if isinstance(dit, WanDiT):
            dit.checkpointing = checkpointing_of(config.train)
            share_tokens(dit, AloneOf(scene.ranks))
        else:
            dit.recompute(config.train.gradient_checkpointing)
        counter.ignore(dit.parameters())
        with counter, torch.autocast("cpu", torch.bfloat16, enabled=precision == "autocast_bf16"):
            total = _loss(dit, replace(config, model=model), scene, device)
        with counter:
            total.backward()
    return counter.peak


def _loss(dit: Network, config: RunConfig, scene: InputShape, device: str) -> Tensor:
    model, loss = config.model, config.loss
    layers = (loss.correspondence_layers or (model.tap_layer,)) if loss.correspondence > 0 else ()
    followed = (model.tap_layer,) if loss.tracking > 0 else ()
    taps = tuple(sorted({*layers, *followed}))
    output = run_network(dit, model, scene, taps)
    total = (output.prediction[:, 1:].float() - torch.empty(output.prediction[:, 1:].shape)).square().mean()
    for layer in layers:
        tap = output.taps[taps.index(layer)]
        queries = loss.correspondence_queries or tap.q[0, ..., 0, 0].numel()
        if loss.correspondence_options.heads == "mlp":
            total = total + _mlp_log_prob(tap, queries, dit.logit_heads[str(layer)].projection(), device).mean()
        else:
            total = total + _StandIn.apply(*tap, queries)
    if followed:
        total = total + _tracking_loss(dit, config, scene, output.taps[taps.index(model.tap_layer)])
    return total


def _tracking_loss(dit: WanDiT, config: RunConfig, scene: InputShape, tap: Tap) -> Tensor:
    model, loss, frames = config.model, config.loss, num_latent_frames(scene.num_frames)
    shape, at = (scene.batch, scene.views, loss.tracking_points), (scene.batch, scene.views, frames)
    valid = torch.ones(shape, dtype=torch.bool)
    cameras = None if model.tracking.camera == "none" else Cameras(torch.empty(*at, 4, 4), torch.empty(*at, 3, 3))
    tracks = dit.tracking_head(*tap, torch.empty(*shape, 3), valid, model.token_px(), cameras)
    shape = (*at, loss.tracking_points)
    truth = Tracks(torch.empty(*shape, 2), torch.ones(shape, dtype=torch.bool), valid)
    return track_loss(HeadOutput(*tracks), truth, scene.size[1], loss.tracking_options).total


def _mlp_log_prob(tap: Tap, queries: int, head: Projection, device: str) -> Tensor:
    """Of every row that may have a label if they fit at once, else of one chunk for each key frame."""
    asked = rearrange(tap.q, "b v f h w n d -> (b v f h w) n d")[: queries * len(tap.q)].clone()
    keys = rearrange(tap.k, "b v f h w n d -> b (v f) (h w) n d")
    chunk = rows_per_chunk(*keys.shape[2:4], True, device)
    views = tap.q.shape[1]
    count = min(chunk, queries * (views - 1) // views)  # of the other views' queries
    counts = (count,) * (keys.shape[0] * keys.shape[1])
    place = torch.empty(sum(counts), dtype=torch.int64)
    rows = Rows(place, place, torch.empty(len(place)), counts, torch.empty(()))
    return log_prob_in_chunks(asked, keys, place, rows, tap.q.shape[-1] ** -0.5, chunk, head)


class _StandIn(torch.autograd.Function):
    """Takes the memory of the correspondence loss, see correspondence/label_log_prob.py."""

    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, queries: int) -> Tensor:
        ctx.save_for_backward(q, k)
        ctx.scratch = 6 * queries * q.shape[3] * q.shape[4] * q.shape[5]  # a frame's logits, and half as much again
        torch.empty(min(ctx.scratch, 2**28), dtype=torch.uint8)
        return torch.empty((), dtype=torch.float32)

    @staticmethod
    def backward(ctx, _grad: Tensor):
        scratch = torch.empty(min(ctx.scratch, 2**28), dtype=torch.uint8)
        gradients = tuple(torch.empty_like(x) for x in ctx.saved_tensors)
        del scratch
        return *gradients, None


def _cheap_to_trace(config: ModelConfig, device: str) -> ModelConfig:
    """Points in parts as large as on a device, and one iteration of a head that recomputes: the same peak sooner."""
    if config.tracking is None:
        return config
    head, correlation = config.tracking, config.tracking.correlation
    if correlation.chunk_points is None:
        samples = (correlation.radius + 3) ** 2  # stored tokens under a neighbourhood, at most about so many
        width = config.dit.dim + config.dit.num_heads * correlation.offsets
        points = max(1, _CHUNK_BYTES[device] // (4 * num_latent_frames(config.num_frames) * samples * width))
        correlation = replace(correlation, chunk_points=points)
    iterations = 1 if head.recompute else head.iterations
    return replace(config, tracking=replace(head, correlation=correlation, iterations=iterations))


def _fill_tables(config: ModelConfig, scene: InputShape) -> None:
    """Small tables that the head keeps are real numbers: have them ready."""
    if config.tracking is not None:
        grid = tuple(side // config.token_px() for side in scene.size)
        for level in pyramid_levels(grid, config.token_px(), config.tracking.correlation):
            for axis in (level.x, level.y):
                axis_table(axis, config.tracking.correlation.radius, torch.device("cpu"))
