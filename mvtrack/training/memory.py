"""Memory and time of a training step on one rank, and of encoding clips; work that will not fit is refused."""

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

import torch

from mvtrack.config.data import LatentsConfig
from mvtrack.config.decoder import DecoderRunConfig
from mvtrack.config.placement import Placement
from mvtrack.config.run import RunConfig
from mvtrack.config.training import TrainConfig, TrainingConfig
from mvtrack.data.clip import num_latent_frames
from mvtrack.inference.memory.check_memory import Memory, Verdict, clearly_fits, free_memory, judge
from mvtrack.inference.memory.codec import codec_cost
from mvtrack.inference.memory.encoders import CAPTIONS, PICTURES, encoder_phases, encoders_of
from mvtrack.inference.memory.inference import GIB, UTILISATION
from mvtrack.inference.memory.transformer import TEXT_TOKENS
from mvtrack.models.activation_checkpointing import checkpointing_of
from mvtrack.models.flops import training_flops, view_training_flops
from mvtrack.training import distributed
from mvtrack.training.activation_memory import training_bytes, training_scene
from mvtrack.training.adapters import empty_training_network
from mvtrack.training.distillation_teacher import teacher_bytes, teacher_flops
from mvtrack.training.engine import BUCKET_ELEMENTS, effective_stage
from mvtrack.training.optimizer import freeze

VIEW = "encoding a view"  # a phase of preparation


@dataclass(frozen=True)
class TrainingEstimate:
    """parts: bytes on the device that are there in every step. work: of activations and fresh gradients at their peak.
    update: of the optimiser's update, when activations are gone. host: bytes in the CPU's memory, by offloading.
    """

    parts: dict[str, int]
    work: int
    update: int
    host: int
    flops: float  # of one rank and step

    @property
    def peak(self) -> int:
        return sum(self.parts.values()) + max(self.work, self.update)

    def seconds(self, peak_flops: float) -> float:
        """Of a step, on devices that do so many FLOP/s each at best."""
        return self.flops / (UTILISATION * peak_flops)


def estimate_training(config: RunConfig, world_size: int = 1, device: str = "cuda") -> TrainingEstimate:
    """What a step of a run takes on each of so many ranks; they have one sample at least. device: "cuda" or "cpu"."""
    train, scene = config.train, training_scene(config)
    samples = max(train.micro_batch_size / train.sequence_parallel, train.batch_size / world_size)
    parts, host, update = state_bytes(config, _counts(config), world_size)
    tokens, checkpointing = scene.tokens(config.model), checkpointing_of(train)
    if config.model.dit is None:
        flops = view_training_flops(config.model, tokens, checkpointing)
    else:
        text, grid = TEXT_TOKENS if config.model.text_dim else 0, (2, num_latent_frames(config.model.num_frames))
        flops = training_flops(config.model.dit, tokens, text, checkpointing, grid)
        if config.loss.distillation > 0:
            parts["teacher"] = teacher_bytes(config)
            flops += teacher_flops(config, tokens, text, grid)
    return TrainingEstimate(parts, training_bytes(config, scene, device), update, host, flops * samples)


def state_bytes(
    config: TrainingConfig, counts: tuple[int, int, int], world_size: int
) -> tuple[dict[str, int], int, int]:
    """Bytes on the device in every step, in the CPU's memory, and of the update. counts: see `_counts`."""
    train, stage = config.train, effective_stage(config)
    steps = max(1, train.batch_size * train.sequence_parallel // (train.micro_batch_size * world_size))
    total, trained, largest = counts
    width = 2 if train.precision == "bf16" else 4
    share = -(-trained // world_size) if stage > 0 else trained
    parts = {
        "weights": width * (total if stage < 3 else -(-total // world_size) + 2 * largest),
        "float32 masters": 4 * share if train.precision == "bf16" or stage > 0 else 0,
        "optimiser state": 8 * share,
        "average": 4 * -(-trained // world_size),
        "gradients kept": _kept_gradients(config, trained, share, steps),
        "communication": 4 * min(BUCKET_ELEMENTS, trained) if stage > 0 and world_size > 1 else 0,
    }
    host = 0
    if train.offload_optimizer:
        for name in ("float32 masters", "optimiser state", "gradients kept"):
            host += parts.pop(name)
    if train.offload_parameters:
        host += parts["weights"] - width * 2 * largest
        parts["weights"] = width * 2 * largest
    update = 0 if train.offload_optimizer else 4 * share * (2 if stage > 0 else 1)  # flat gradients, and square roots
    return parts, host, update


def _kept_gradients(config: TrainingConfig, trained: int, share: int, steps: int) -> int:
    """Gradients that wait for further micro-batches while the next one is computed."""
    stage = effective_stage(config)
    if steps == 1:
        return 0
    return 4 * (trained if stage < 2 else share)


def _counts(config: RunConfig) -> tuple[int, int, int]:
    """Parameters, those that are trained, and those of the largest block (of a network that can be partitioned)."""
    network = empty_training_network(config)
    freeze(network, config.optim.trainable)
    blocks = network.blocks if config.model.dit else ()
    largest = max((sum(p.numel() for p in block.parameters()) for block in blocks), default=0)
    sizes = [(p.numel(), p.requires_grad) for p in network.parameters()]
    return sum(n for n, _ in sizes), sum(n for n, is_trained in sizes if is_trained), largest


def judge_training(config: TrainingConfig, world_size: int, memory: Memory) -> Verdict:
    """Whether a run's step fits on every device. memory: of one rank."""

    def estimate(train: TrainConfig) -> TrainingEstimate:
        if isinstance(config, DecoderRunConfig):
            from mvtrack.training.decoder_memory import estimate_decoder_training

            return estimate_decoder_training(replace(config, train=train), world_size, memory.shared)
        return estimate_training(replace(config, train=train), world_size, "cpu" if memory.shared else "cuda")

    ways = ((overrides(config.train, way), way) for way in _settings(config, world_size))
    return judge(estimate, config.train, ways, memory)


def refuse_training(config: TrainingConfig, world_size: int, ranks_here: int) -> None:
    """Raise ValueError where a step takes more memory than this rank's device has free, or leaves more on the CPU than
    its share there; CPU ranks share one memory."""
    device = distributed.device()
    memory = free_memory(device, ranks_here)
    if memory is None or _clearly_trains(config, memory):
        return
    verdict = judge_training(config, world_size, memory)
    if not verdict.fits:
        raise ValueError(
            f"a rank's training step {verdict.problem(str(device))}: {verdict.advice}; or start all the same with "
            "--ignore-memory"
        )


def _clearly_trains(config: TrainingConfig, memory: Memory) -> bool:
    if isinstance(config, DecoderRunConfig):
        from mvtrack.training.decoder_run import codec_config_of

        return codec_config_of(config).kind == "pca"  # of tiny models and experiments
    model = config.model
    head = 0 if model.tracking is None else GIB
    return clearly_fits(model, training_scene(config), memory, 400 * model.num_layers, 40, head)


def _settings(config: TrainingConfig, world_size: int) -> Iterator[TrainConfig]:
    train = config.train
    if isinstance(config, DecoderRunConfig):
        changes, stages = [{"gradient_checkpointing": True}, {"micro_batch_size": 1}], (2,)
    else:
        keep = "attention" if config.model.dit else "nothing"
        changes = [
            {"gradient_checkpointing": True, "checkpoint_keep": keep}, {"micro_batch_size": 1},
            {"checkpoint_blocks": None}, {"checkpoint_keep": "nothing"},
        ]  # fmt: skip
        stages = (2, 3) if config.model.dit else (2,)
    if config.optim.name == "adamw":  # muon needs whole matrices
        changes += [{"zero_stage": stage} for stage in stages] if world_size > 1 else []
        changes += [{"sequence_parallel": count} for count in (2, 4, 8) if _may_share(config, count, world_size)]
        changes += [{"zero_stage": 1, "offload_optimizer": True}]
        changes += [{"zero_stage": 3, "offload_parameters": True}] if 3 in stages else []
    for change in changes:
        if change.get("gradient_checkpointing") and train.gradient_checkpointing:
            continue
        if "zero_stage" in change:
            change = change | {"zero_stage": max(train.zero_stage, change["zero_stage"])}
        changed = replace(train, **change)
        if changed != train:
            train = changed
            yield train


def _may_share(config: TrainingConfig, count: int, world_size: int) -> bool:
    """Whether so many ranks can share a sample's tokens."""
    try:
        replace(config, train=replace(config.train, sequence_parallel=count))
    except ValueError:
        return False
    return world_size % count == 0 and count > config.train.sequence_parallel


def overrides(before: TrainConfig, after: TrainConfig) -> str:
    """Settings of a run that make one config of another, as a command takes them."""
    changed = [f.name for f in fields(TrainConfig) if getattr(before, f.name) != getattr(after, f.name)]
    shown = {"True": "true", "False": "false", "None": "null"}
    values = {name: str(getattr(after, name)) for name in changed}
    return " ".join(f"train.{name}={shown.get(value, value)}" for name, value in values.items())


def preparing_phases(config: RunConfig, entry: LatentsConfig, device: torch.device) -> dict[str, int]:
    """Bytes on the device: captions first, by an encoder that is gone then; views one by one, with CLIP beside."""
    model = config.model
    encoders = encoder_phases(model, Placement(device.type), encoders_of(model))
    codec = codec_cost(model.codec, entry.size, config.data.num_frames)
    phases = {"the captions' encoder": encoders[CAPTIONS]} if CAPTIONS in encoders else {}
    return phases | {VIEW: codec.weights + codec.encode + encoders.get(PICTURES, 0)}


def preparing_flops(config: RunConfig, entry: LatentsConfig) -> float:
    """Of encoding a view in the directions of time that training takes; CLIP's one picture is left out."""
    data = config.data
    directions = 2 if data.reverse and data.num_frames > 1 else 1
    return directions * codec_cost(config.model.codec, entry.size, data.num_frames).encode_flops


def refuse_preparing(config: RunConfig, entry: LatentsConfig, device: torch.device) -> None:
    """Raise ValueError where encoding a clip takes more memory than the device has free."""
    memory = free_memory(device)
    if memory is None:
        return
    for what, need in preparing_phases(config, entry, device).items():
        if need > memory.device:
            tiles = config.model.codec.kind == "wan_vae" and config.model.codec.tile is None and "view" in what
            advice = "set model.codec.tile=[30,52]" if tiles else "use a larger device"
            advice += ", or --device cpu" if device.type == "cuda" else ""
            raise ValueError(
                f"{what} takes about {need / GIB:.1f} GiB and {device} has {memory.device / GIB:.1f} GiB free: "
                f"{advice}; or start all the same with --ignore-memory"
            )
