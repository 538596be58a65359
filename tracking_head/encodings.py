"""What tokens say besides correlation: when, how the point moves, and along which ray it is seen."""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from tracking_head.shapes import Float

_DEGREES = 10  # octaves of sines and cosines, as MV-TAP


def time_embedding(frames: int, dim: int, length: int | None = None) -> Float[Tensor, "frames dim"]:
    """Sines, then cosines of t * 10000^(-i / (dim / 2)), float32; with a length, that many frames stretched to fit."""
    position = torch.arange(length or frames, dtype=torch.float64)
    frequency = 10000 ** -(torch.arange(dim // 2, dtype=torch.float64) / (dim / 2))
    angle = position[:, None] * frequency
    embedding = torch.cat([angle.sin(), angle.cos()], -1).float()
    if len(embedding) == frames:
        return embedding
    return F.interpolate(embedding.mT[None], size=frames, mode="linear", align_corners=False)[0].mT


def displacement_features(
    xy_px: Float[Tensor, "*B T N 2"], extent_px: tuple[float, float]
) -> Float[Tensor, "*B T N 84"]:
    """Motion to the next and from the last frame as fractions of the image (W, H), with sines and cosines (MV-TAP).

    The last frame's forward and the first frame's backward motion are zero.
    """
    step = (xy_px[..., :-1, :, :] - xy_px[..., 1:, :, :]) / xy_px.new_tensor(extent_px)
    none = torch.zeros_like(xy_px[..., :1, :, :])
    motion = torch.cat([torch.cat([step, none], -3), torch.cat([none, -step], -3)], -1)  # (*B, T, N, 4)
    octave = 2.0 ** torch.arange(_DEGREES, dtype=xy_px.dtype, device=xy_px.device)
    angle = (motion[..., None, :] * octave[:, None]).flatten(-2)
    return torch.cat([motion, angle.sin(), angle.cos()], -1)


def common_frame(
    c2w: Float[Tensor, "B V T 4 4"], mode: str
) -> tuple[Float[Tensor, "B V T 3 3"], Float[Tensor, "B V T 3"]]:
    """Camera rotations and centres in coordinates that move with the cameras, centres divided by their reach.

    `mean`: the rotation nearest to the cameras' mean rotation, about their mean centre: the order of views does not
    matter. `reference`: view 0's first frame. Either way a rigid motion or a scaling of the world changes nothing.
    `mvtap`: see `_mvtap_frame`. Raises ValueError where cameras look in directions that have no mean.
    """
    rotation, centre = c2w[..., :3, :3], c2w[..., :3, 3]
    if mode == "mvtap":
        return _mvtap_frame(rotation, centre)
    if mode == "reference":
        axes, origin = rotation[:, :1, :1], centre[:, :1, :1]
    else:
        u, s, vh = torch.linalg.svd(rotation.double().mean((1, 2)))
        if (s[:, 1] + s[:, 2] * torch.linalg.det(u @ vh).sign()).min() < 1e-3:
            raise ValueError("the cameras' rotations have no mean; set head.camera: reference")
        u = torch.cat([u[..., :2], u[..., 2:] * torch.linalg.det(u @ vh)[:, None, None]], -1)
        axes, origin = (u @ vh).to(c2w.dtype)[:, None, None], centre.mean((1, 2), keepdim=True)
    local = ((centre - origin)[..., None, :] @ axes)[..., 0, :]
    reach = local.norm(dim=-1).amax((1, 2))[:, None, None, None]
    return axes.mT @ rotation, torch.where(reach > 1e-6, local / reach.clamp_min(1e-6), local)


def _mvtap_frame(
    rotation: Float[Tensor, "B V T 3 3"], centre: Float[Tensor, "B V T 3"]
) -> tuple[Float[Tensor, "B V T 3 3"], Float[Tensor, "B V T 3"]]:
    """What MV-TAP's released weights were trained with: each pose times, from the right, the world-to-camera pose of
    view 0 at its moment; centres about the mean of all that are no outliers, the first one at a distance of 2.

    As the factor stands on the right, where the world's axes lie matters, and so does which view is the first; the
    order of the others does not.
    """
    axes = rotation[:, :1].mT
    turned = rotation @ axes
    centre = centre - (turned @ centre[:, :1, :, :, None])[..., 0]
    flat = rearrange(centre, "b v t c -> b (v t) c")
    away = (flat - flat.median(1, keepdim=True).values).norm(dim=-1)
    kept = away <= (10 * away.quantile(0.97, 1, keepdim=True)).clamp(max=1e6)
    mean = (flat * kept[..., None]).sum(1) / kept.sum(1, keepdim=True)
    centre = centre - mean[:, None, None]
    reach = centre[:, 0, 0].norm(dim=-1)[:, None, None, None]
    return turned, centre * torch.where(reach <= 1e-5, 2.0, 2.0 / reach)


def estimate_rays(
    xy_px: Float[Tensor, "B V T N 2"],
    rotation: Float[Tensor, "B V T 3 3"],
    centre: Float[Tensor, "B V T 3"],
    K: Float[Tensor, "B V T 3 3"],
) -> Float[Tensor, "B V T N 6"]:
    """Plücker coordinates [d, centre x d] of the rays through pixels, d of unit length."""
    homogeneous = torch.cat([xy_px, torch.ones_like(xy_px[..., :1])], -1)
    direction = homogeneous @ torch.linalg.inv(K).mT @ rotation.mT
    direction = F.normalize(direction, dim=-1)
    moment = torch.linalg.cross(rearrange(centre, "b v t c -> b v t 1 c").expand_as(direction), direction)
    return torch.cat([direction, moment], -1)
