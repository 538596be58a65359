"""DeepSpeed around the transformer: its config from ours, and the engine."""

import os

from torch import nn
from torch.optim import Optimizer

from mvtrack.config import RunConfig
from mvtrack.training import distributed


def deepspeed_config(config: RunConfig, world_size: int) -> dict:
    """What DeepSpeed needs to know; everything else stays in our loop."""
    train = config.train
    return {
        "train_batch_size": train.batch_size,
        "train_micro_batch_size_per_gpu": train.micro_batch_size,
        "gradient_accumulation_steps": train.batch_size // (train.micro_batch_size * world_size),
        "gradient_clipping": config.optim.grad_clip,
        "zero_optimization": {"stage": train.zero_stage},
        "bf16": {"enabled": train.precision == "bf16"},
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 10**9,
        "wall_clock_breakdown": False,
    }


def build_engine(model: nn.Module, optimizer: Optimizer, config: RunConfig):
    """Initialise torch.distributed and wrap the model. Call `distributed.prepare_environment()` first."""
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if distributed.device().type == "cuda" else "cpu")
    try:
        import deepspeed
    except ImportError as error:
        raise ValueError("training needs DeepSpeed: pip install 'mvtrack[train]'") from error
    deepspeed.init_distributed(dist_backend="nccl" if distributed.device().type == "cuda" else "gloo", verbose=False)
    parameters = [p for p in model.parameters() if p.requires_grad]
    engine, *_ = deepspeed.initialize(
        model=model,
        optimizer=optimizer,
        model_parameters=parameters,
        config=deepspeed_config(config, distributed.world_size()),
    )
    return engine
