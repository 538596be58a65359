"""How a training runs: the optimizer, its schedule, precision, memory, checkpoints."""

from dataclasses import field
from typing import Annotated, Literal

from mvtrack.config.checked import Count, NonNegative, NonNegativeInt, Positive, Range, Share, config
from mvtrack.config.placement import AttentionKernel

Momentum = Annotated[float, Range(0, 1, high_open=True)]


@config
class LoRAConfig:
    """Low-rank adapters in place of whole weights: alpha / rank * B A is added to each linear layer of `targets`,
    fnmatch patterns of modules' names. alpha: None: as the rank, so that B A counts once."""

    rank: Count = 16
    alpha: Positive | None = None
    targets: tuple[str, ...] = ("blocks.*_attn.[qkvo]", "blocks.*.ffn.[02]")

    @property
    def scale(self) -> float:
        return 1.0 if self.alpha is None else self.alpha / self.rank


@config
class OptimConfig:
    name: Literal["adamw", "muon"] = "adamw"
    lr: NonNegative = 1e-4
    betas: tuple[Momentum, Momentum] = (0.9, 0.999)
    weight_decay: NonNegative = 0.01
    muon_lr: NonNegative = 0.02
    muon_momentum: Momentum = 0.95
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup_steps: NonNegativeInt = 100
    final_lr_ratio: Share = 0.02
    grad_clip: NonNegative = 1.0
    trainable: tuple[str, ...] = ("*",)  # fnmatch patterns of parameter names; with lora: trained whole beside it
    lora: LoRAConfig | None = None

    def __post_init__(self) -> None:
        if self.lora and "*" in self.trainable:
            raise ValueError(
                "optim.lora freezes the model that it is added to: set optim.trainable: [], or to the parameters that "
                "are trained whole beside it, such as [tracking_head.*]"
            )


@config
class TrainConfig:
    steps: Count = 1000
    batch_size: Count = 1  # all ranks together
    micro_batch_size: Count = 1  # one rank, one forward
    sequence_parallel: Count = 1  # ranks that share every sample's tokens, in attention its heads
    seed: int = 0
    precision: Literal["fp32", "bf16", "autocast_bf16"] = "fp32"
    zero_stage: Literal[0, 1, 2, 3] = 0  # bf16 keeps float32 masters, so its stage 0 runs as stage 1
    offload_optimizer: bool = False  # optimiser state and update on the CPU; stages 1 to 3
    offload_parameters: bool = False  # weights too; stage 3
    gradient_checkpointing: bool = False  # recompute a network's blocks in the backward pass
    checkpoint_blocks: NonNegativeInt | None = None  # only so many, from the first; null: all
    checkpoint_keep: Literal["nothing", "attention"] = "nothing"  # of a recomputed block: the output of self-attention
    attention: AttentionKernel = "auto"
    compile: bool = False  # torch.compile the transformer block
    ema_decay: Share = 0.999
    on_nonfinite: Literal["stop", "skip"] = "stop"  # skip: leave the update out on all ranks, and count it
    max_skipped: NonNegativeInt = 20  # stop after so many
    log_every: Count = 20
    save_every: Count = 500
    keep_last: Count = 2
    keep_every: Count | None = None  # also keep checkpoints at multiples of this step
    validate_every: Count = 500
    validate_clips: Count = 4
    stop_after: Count | None = None  # save and stop at this step, with the schedule of all `steps`
    timeout_s: Count = 1800  # how long ranks wait for each other
    peak_tflops: Positive | None = None  # of one device, for FLOP utilisation; None: known GPUs only
    wandb: bool = False
    init_from: str | None = None  # a model to start from: its folder, file or hub id, or shipped:tiny
    init_lora: tuple[str, ...] = ()  # LoRAs that are added to it first, each FILE[:weight]
    run_dir: str = "runs/train"

    def __post_init__(self) -> None:
        if self.batch_size % self.micro_batch_size:
            raise ValueError(
                f"train.batch_size {self.batch_size} must be a multiple of train.micro_batch_size "
                f"{self.micro_batch_size}"
            )
        if not self.gradient_checkpointing and (
            self.checkpoint_blocks is not None or self.checkpoint_keep != "nothing"
        ):
            raise ValueError("train.checkpoint_blocks and checkpoint_keep need train.gradient_checkpointing: true")
        if self.init_lora and self.init_from is None:
            raise ValueError("train.init_lora is added to the model of train.init_from: name that, or leave it out")
        if self.offload_optimizer and self.zero_stage == 0:
            raise ValueError("train.offload_optimizer needs train.zero_stage 1, 2 or 3")
        if self.offload_parameters and (self.zero_stage != 3 or not self.offload_optimizer):
            raise ValueError("train.offload_parameters needs train.zero_stage: 3 and train.offload_optimizer: true")


@config
class TrainingConfig:
    """What all training runs have."""

    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
