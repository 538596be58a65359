"""Memory and time of a training step on one rank: weights, optimiser, gradients, activations."""

from dataclasses import dataclass

from mvtrack.config.run import RunConfig
from mvtrack.data.clip import num_latent_frames
from mvtrack.inference.memory.inference import UTILISATION
from mvtrack.inference.memory.transformer import TEXT_TOKENS, training_bytes, training_scene
from mvtrack.models.activation_checkpointing import checkpointing_of
from mvtrack.models.flops import training_flops
from mvtrack.models.init_weights import empty_dit
from mvtrack.training.engine import BUCKET_ELEMENTS, effective_stage
from mvtrack.training.optimizer import freeze


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
    train, stage = config.train, effective_stage(config)
    micro = train.micro_batch_size
    steps = max(1, train.batch_size // (micro * world_size))
    scene = training_scene(config)
    total, trained, largest = _counts(config)
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
    flops = training_flops(
        config.model.dit, scene.tokens(config.model), TEXT_TOKENS if config.model.dit.text_dim else 0,
        checkpointing_of(train), (2, num_latent_frames(config.model.num_frames)),
    )  # fmt: skip
    return TrainingEstimate(parts, training_bytes(config, scene, device), update, host, flops * micro * steps)


def _kept_gradients(config: RunConfig, trained: int, share: int, steps: int) -> int:
    """Gradients that wait for further micro-batches while the next one is computed."""
    stage = effective_stage(config)
    if steps == 1:
        return 0
    return 4 * (trained if stage < 2 else share)


def _counts(config: RunConfig) -> tuple[int, int, int]:
    """Parameters, those that are trained, and those of the largest block."""
    dit = empty_dit(config.model)
    freeze(dit, config.optim.trainable)
    largest = max(sum(p.numel() for p in block.parameters()) for block in dit.blocks)
    sizes = [(p.numel(), p.requires_grad) for p in dit.parameters()]
    return sum(n for n, _ in sizes), sum(n for n, is_trained in sizes if is_trained), largest
