"""DeepSpeed around the transformer: its config from ours, models that are partitioned as they are built, the engine."""

import logging
import os
from collections.abc import Iterator
from datetime import timedelta

import torch
from jaxtyping import Float
from torch import Tensor

from mvtrack.config.run import RunConfig
from mvtrack.config.training import TrainingConfig
from mvtrack.data.clip import num_latent_frames
from mvtrack.inference.machine import return_freed_memory
from mvtrack.models.activation_checkpointing import checkpointing_of, keeps_attention
from mvtrack.models.attention import choose_kernel
from mvtrack.models.init_weights import fill
from mvtrack.models.networks import Network, build_network
from mvtrack.models.sequence_parallel import share_tokens
from mvtrack.training import distributed
from mvtrack.training.adapters import add_adapters, empty_training_network, with_adapters
from mvtrack.training.optimizer import build_optimizer, freeze

BUCKET_ELEMENTS = 10**8  # that ranks exchange at once; DeepSpeed's five times as many would take 2 GiB


def effective_stage(config: TrainingConfig) -> int:
    """DeepSpeed's stage: bf16 at stage 0 runs as stage 1, whose float32 masters and accumulation it needs."""
    return 1 if config.train.precision == "bf16" and config.train.zero_stage == 0 else config.train.zero_stage


def deepspeed_config(config: TrainingConfig, world_size: int) -> dict:
    """What DeepSpeed needs to know; everything else stays in our loop."""
    train = config.train
    zero: dict = {
        "stage": effective_stage(config), "reduce_bucket_size": BUCKET_ELEMENTS,
        "allgather_bucket_size": BUCKET_ELEMENTS,
    }  # fmt: skip
    if train.offload_optimizer:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    if train.offload_parameters:
        zero["offload_param"] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    batch_size = train.batch_size * train.sequence_parallel  # every rank counts, for DeepSpeed
    result = {
        "train_batch_size": batch_size,
        "train_micro_batch_size_per_gpu": train.micro_batch_size,
        "gradient_accumulation_steps": batch_size // (train.micro_batch_size * world_size),
        "gradient_clipping": config.optim.grad_clip,
        "zero_optimization": zero,
        "bf16": {"enabled": train.precision == "bf16"},
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 10**9,
        "wall_clock_breakdown": False,
    }
    if train.precision == "bf16":
        result["data_types"] = {"grad_accum_dtype": "fp32"}
    return result


def start_distributed(timeout_s: int) -> None:
    """Join the process group, unless this process is in one already.

    timeout_s: how long a collective waits for other ranks. Raises ValueError when DeepSpeed is missing or the
    launcher's port is taken.
    """
    distributed.prepare_environment()
    os.environ.setdefault("DS_ACCELERATOR", distributed.device().type)
    try:
        import deepspeed
    except ImportError as error:
        raise ValueError("training needs DeepSpeed: pip install -e '.[train]'") from error
    # A kernel for all-reduces of inference on CPUs, which DeepSpeed would compile here for half a minute, under a lock
    # that a killed process leaves behind and later ones wait for without end.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    backend = "nccl" if distributed.device().type == "cuda" else "gloo"
    if backend == "nccl":
        torch.cuda.set_device(distributed.device())
    else:
        return_freed_memory()
    timeout = timedelta(seconds=timeout_s)
    if os.environ["WORLD_SIZE"] == "1" and not torch.distributed.is_initialized():
        torch.distributed.init_process_group(
            backend, store=torch.distributed.HashStore(), rank=0, world_size=1, timeout=timeout
        )
    try:
        deepspeed.init_distributed(backend, verbose=False, timeout=timeout)
    except (RuntimeError, torch.distributed.DistNetworkError) as error:
        if "EADDRINUSE" in str(error) or "address already in use" in str(error):
            port = os.environ["MASTER_PORT"]
            raise ValueError(f"port {port} is in use: pass another --master_port to the launcher") from error
        raise


def training_kernel(config: RunConfig) -> str:
    """The attention kernel that this run will use on this rank, before anything is built.

    Raises ValueError where the wanted one does not work, or none but PyTorch's fallback that writes all scores.
    """
    if config.model.dit is None:
        return "PyTorch's choice"
    q = _queries(config)
    _, tokens, heads, width = q.shape
    return choose_kernel(config.train.attention, distributed.device(), q.dtype, heads, width, tokens, True)


def warn_if_nothing_is_kept(config: RunConfig, kernel: str) -> None:
    """Say it once where `train.checkpoint_keep: attention` will recompute attention all the same."""
    if config.train.checkpoint_keep != "attention":
        return
    q, device = _queries(config), distributed.device()
    if not keeps_attention(kernel, q if device.type == "cpu" else q.new_empty((1, 64, *q.shape[2:]), device=device)):
        logging.getLogger(__name__).warning(
            "train.checkpoint_keep: attention keeps nothing: the kernel %s, as it works here, is not recognised, and "
            "attention is recomputed in the backward pass; choose another train.attention, or checkpoint_keep: nothing",
            kernel,
        )


def _queries(config: RunConfig) -> Float[Tensor, "B N H d"]:
    """Of the largest micro-batch, without storage."""
    dit, token_px = config.model.dit, config.model.token_px()
    cells = max(height * width for height, width in config.data.sizes) // token_px**2
    tokens = 2 * num_latent_frames(config.data.num_frames) * cells
    dtype = torch.float32 if config.train.precision == "fp32" else torch.bfloat16
    shape = (config.train.micro_batch_size, tokens, dit.num_heads, dit.dim // dit.num_heads)
    return torch.empty(shape, dtype=dtype, device="meta")


def prepare_network(config: RunConfig, weights: Iterator[tuple[str, Tensor]]) -> Network:
    """The network with given weights, as it is trained; at stage 3 no rank ever holds more than one whole parameter."""
    if config.train.zero_stage == 3:
        import deepspeed

        with deepspeed.zero.Init(config_dict_or_path=deepspeed_config(config, distributed.world_size())):
            network = build_network(config.model)
        if config.optim.lora:
            add_adapters(network, config.optim.lora)
    else:
        network = empty_training_network(config).to_empty(device="cpu")
    fill(network, with_adapters(network, weights, config.train.seed))
    freeze(network, config.optim.trainable)
    if config.model.dit is None:
        network.recompute(config.train.gradient_checkpointing)
        return network
    network.checkpointing = checkpointing_of(config.train)
    network.attention = config.train.attention
    share_tokens(network, distributed.sequence_group(config.train.sequence_parallel))
    if config.train.compile:
        network.compile_blocks()
    return network


def build_engine(network: torch.nn.Module, config: TrainingConfig):
    """Wrap the model and its optimiser."""
    import deepspeed

    engine, *_ = deepspeed.initialize(
        model=network,
        optimizer=build_optimizer(network, config.optim, on_cpu=config.train.offload_optimizer),
        model_parameters=[p for p in network.parameters() if p.requires_grad],
        config=deepspeed_config(config, distributed.world_size()),
    )
    return engine
