"""Attention's and the feed-forward's weights in 8 bits, by torchao: half the memory of bfloat16, for a small error.

What cameras enter by (a tenth of ReCamMaster's blocks), modulation, embeddings and the head keep their precision.
"""

import logging

import torch
from torch import Tensor, nn

from mvtrack.config.placement import Quantization

_MAPS = {"q", "k", "v", "o", "k_img", "v_img"}


def is_quantized(name: str, module: nn.Module) -> bool:
    """Whether a layer of a block, by its name there, gets fewer bits."""
    parent, _, own = name.rpartition(".")
    if not isinstance(module, nn.Linear):
        return False
    return parent == "ffn" or (parent in ("self_attn", "cross_attn") and own in _MAPS)


def quantize(blocks: nn.ModuleList, kind: Quantization, device: torch.device) -> None:
    """Quantise the blocks' large layers in place; each is moved to the device for it.

    int8, fp8: weights alone, a scale for each row of the output; products are in the activations' precision. _dynamic:
    activations too, a scale for each token, and 8-bit products. Raises ValueError without torchao, and for 8-bit floats
    that the device does not multiply.
    """
    # both name kernels that are of no use here, and how torchao registers itself
    for name in ("torchao", "torch.utils._pytree"):
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        from torchao import quantization as ao
    except ImportError as error:
        raise ValueError("--quantize needs the package torchao: pip install -e '.[bits]'") from error
    if kind == "fp8_dynamic" and (device.type != "cuda" or torch.cuda.get_device_capability(device) < (8, 9)):
        raise ValueError(
            f"--quantize fp8_dynamic needs a GPU that multiplies 8-bit floats (compute capability 8.9), {device} does "
            "not: use fp8, or int8_dynamic"
        )
    how = {
        "int8": ao.Int8WeightOnlyConfig,
        "fp8": ao.Float8WeightOnlyConfig,
        "int8_dynamic": ao.Int8DynamicActivationInt8WeightConfig,
        "fp8_dynamic": lambda: ao.Float8DynamicActivationFloat8WeightConfig(granularity=ao.PerRow()),
    }[kind]
    for block in blocks:
        ao.quantize_(block, how(), lambda module, name: is_quantized(name, module), device=device)


def bytes_of(parameter: Tensor) -> int:
    """What a parameter takes, scales included; `nbytes` counts what it stands for."""
    if not hasattr(parameter, "__tensor_flatten__"):
        return parameter.nbytes
    return sum(getattr(parameter, name).nbytes for name in parameter.__tensor_flatten__()[0])
