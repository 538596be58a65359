"""Classifier-free guidance: by the caption against a negative one, or by the camera against no rays (CAMEO's)."""

from collections.abc import Callable

import torch
from jaxtyping import Real
from torch import Tensor

from mvtrack.config.model import ModelConfig
from mvtrack.models.conditioning import Conditioning

Velocity = Callable[[Tensor, Real[Tensor, "B"], Conditioning], Tensor]


def check_guidance(config: ModelConfig, guidance: float, camera_guidance: float) -> None:
    """Raise ValueError for guidance by the camera of a model that never learned to do without, and for both kinds."""
    if guidance != 1 and camera_guidance != 1:
        raise ValueError("guidance and camera_guidance cannot be combined: set one of them to 1")
    if camera_guidance != 1 and config.ray_drop == 0:
        raise ValueError(
            "camera_guidance needs a model that was trained with cameras left out (model.rays.drop): set it to 1"
        )


def guided(
    velocity: Velocity, conditioning: Conditioning, guidance: float = 1.0, camera_guidance: float = 1.0,
    batched: bool = False,
) -> Callable[[Tensor, Real[Tensor, "B"]], Tensor]:  # fmt: skip
    """The velocity at x and a noise level, extrapolated away from the unconditional one: u + scale (v - u).

    guidance, camera_guidance: scales by text and by camera, at most one of them other than 1 (none). batched: both
    predictions in one pass. Raises ValueError for guidance by text without the features of two captions.
    """
    if guidance != 1:
        if conditioning.text is None or conditioning.negative_text is None:
            raise ValueError("guidance needs the features of two captions: make the prompts with it, or set it to 1")
        unconditional, scale = conditioning._replace(text=conditioning.negative_text), guidance
    elif camera_guidance != 1:
        every = torch.ones(len(conditioning.rays), dtype=torch.bool, device=conditioning.rays.device)
        unconditional, scale = conditioning.without_cameras(every), camera_guidance
    else:
        return lambda x, sigma: velocity(x, sigma, conditioning)
    both = conditioning.joined(unconditional)

    def extrapolated(x: Tensor, sigma: Real[Tensor, "B"]) -> Tensor:
        if batched:
            v, u = velocity(torch.cat([x, x]), torch.cat([sigma, sigma]), both).chunk(2)
        else:
            v, u = (velocity(x, sigma, one) for one in (conditioning, unconditional))
        return u + scale * (v - u)

    return extrapolated
