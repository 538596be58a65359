"""Depth of single pictures by a released network, through transformers (`--depth auto` or a model's id)."""

from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from mvtrack.inference.full_resolution.geometry import GeometrySource, MonocularGeometry
from mvtrack.models.diffsynth_parts import declare_torchvision_operators
from mvtrack.models.weights.sources import local_folder

AUTO = "auto"
_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's colours
DEFAULT_MODEL = "depth-anything/Depth-Anything-V2-Small-hf"  # Apache-2.0; Base and Large are not for commercial use


def monocular_geometry(source: str, anchor: GeometrySource) -> GeometrySource:
    """A network by its hub id or folder; `auto` is Depth Anything V2 Small. anchor: what scale and shift come from.

    Raises ValueError with the command that brings the weights where they are not on this machine.
    """
    name = DEFAULT_MODEL if source == AUTO else source
    return MonocularGeometry(load_estimator(name), anchor, f"depth by {name}")


def load_estimator(name: str) -> Callable[[UInt8[Tensor, "3 H W"]], Float[Tensor, "h w"]]:
    """A function from an 8-bit picture to inverse depth up to scale and shift. Nothing is downloaded.

    Pictures are prepared as Depth Anything's are: the shorter side 518 pixels (or what the model was trained at), whole
    patches, ImageNet's mean and deviation.
    """
    declare_torchvision_operators()
    try:
        from transformers import AutoModelForDepthEstimation
    except ImportError as error:
        raise ValueError("--depth by a network needs transformers: pip install -e '.[wan]'") from error
    folder = local_folder(name)
    try:
        if folder is None:
            raise OSError(name)
        model = AutoModelForDepthEstimation.from_pretrained(folder, local_files_only=True).eval()
    except (ImportError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"transformers cannot load depth networks here ({reason}): do torch and torchvision match?"
        ) from error
    except (OSError, ValueError) as error:
        where = "is not a folder of such a model" if Path(name).exists() else "is not on this machine"
        raise ValueError(
            f"depth network {name} {where}: `hf download {name}` brings it; or give --depth FILE, or leave --depth out"
        ) from error
    metric = getattr(model.config, "depth_estimation_type", "relative") == "metric"
    backbone = getattr(model.config, "backbone_config", None)
    patch, side = getattr(backbone, "patch_size", 14), getattr(backbone, "image_size", 518)
    mean, deviation = (torch.tensor(values)[:, None, None] for values in (_MEAN, _DEVIATION))

    @torch.no_grad()
    def estimate(picture: UInt8[Tensor, "3 H W"]) -> Float[Tensor, "h w"]:
        scale = side / min(picture.shape[-2:])
        size = [max(1, round(n * scale / patch)) * patch for n in picture.shape[-2:]]
        pixels = F.interpolate(picture[None] / 255, size, mode="bicubic", antialias=True)[0]
        predicted = model(((pixels - mean) / deviation)[None]).predicted_depth[0].float()
        return 1 / predicted.clamp_min(1e-3) if metric else predicted

    return estimate
