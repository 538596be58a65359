"""What needs no learning: copies of the reference, warps by depth with their holes filled, and the truth itself."""

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mvtrack.evaluation.interface import Estimate, Inputs, Method
from mvtrack.geometry.camera import Camera
from mvtrack.geometry.splat import splat
from mvtrack.metrics.image import gaussian_blur
from mvtrack.video.writer import from_bytes, to_bytes

Kind = Literal["copy", "blur", "depth_warp_estimated", "depth_warp", "ground_truth"]
BLUR_OF_HEIGHT = 1 / 32  # sigma over the picture's height: about the best one for 10-25 degree paths
_INPAINT_RADIUS_PX = 3
_TITLES: dict[Kind, str] = {
    "copy": "copy of the reference",
    "blur": "blurred copy",
    "depth_warp_estimated": "warp by estimated depth",
    "depth_warp": "warp by true depth",
    "ground_truth": "ground truth",
}
_NEEDS: dict[Kind, tuple[str, ...]] = {
    "copy": (),
    "blur": (),
    "depth_warp_estimated": ("camera", "source_camera", "reference.depth"),
    "depth_warp": ("camera", "source_camera", "depth"),
    "ground_truth": ("target",),
}
_BOUNDS = ("depth_warp", "ground_truth")
BASELINES: tuple[Kind, ...] = tuple(_TITLES)


@dataclass(frozen=True)
class Baseline(Method):
    """One of `BASELINES`. Those that know true depth or the true video are bounds, not competitors."""

    kind: Kind
    backbone: str | None = None
    origin = {"kind": "baseline"}

    @property
    def name(self) -> str:
        return self.kind

    @property
    def title(self) -> str:
        return _TITLES[self.kind]

    @property
    def bound(self) -> bool:
        return self.kind in _BOUNDS

    @property
    def group(self) -> str:
        return "Bounds" if self.bound else "Baselines"

    @property
    def needs(self) -> tuple[str, ...]:
        return _NEEDS[self.kind]

    @property
    def settings(self) -> dict:
        return {"version": 1, "sigma_of_height": BLUR_OF_HEIGHT} if self.kind == "blur" else {"version": 1}

    @property
    def footnotes(self) -> tuple[str, ...]:
        if self.kind == "blur":
            return (f"Blurred copy: Gaussian, sigma 1/{1 / BLUR_OF_HEIGHT:.0f} of the picture's height.",)
        if self.kind == "ground_truth":
            return ("Ground truth: frames whose truth the benchmark lacks repeat the nearest that it has.",)
        if self.kind.startswith("depth_warp"):
            return (f"{self.title.capitalize()}: forward warp of each frame, holes painted in (Telea).",)
        return ()

    def generate(self, inputs: Inputs, estimates: dict[str, Estimate]) -> Float[Tensor, "T 3 H W"]:
        if self.kind == "copy":
            return inputs.reference
        if self.kind == "blur":
            return gaussian_blur(inputs.reference, inputs.reference.shape[-2] * BLUR_OF_HEIGHT)
        if self.kind == "ground_truth":
            known = torch.tensor(inputs.target_frames)
            nearest = (torch.arange(len(inputs.reference))[:, None] - known).abs().argmin(1)
            return inputs.target[nearest]
        depth = inputs.depth if self.kind == "depth_warp" else torch.from_numpy(estimates["reference.depth"]["depth"])
        return warp_and_fill(inputs.reference, depth, inputs.camera)


def warp_and_fill(
    video: Float[Tensor, "T 3 H W"], depth: Float[Tensor, "T H W"], camera: Camera
) -> Float[Tensor, "T 3 H W"]:
    """Every frame carried to the target camera by its depth; where nothing lands, painted in from around.

    camera: (2, T), source and target. Frames where nothing lands at all are grey.
    """
    frames = []
    for t in range(len(video)):
        image, hit = splat(video[t], depth[t], camera[0, t], camera[1, t])
        frames.append(_fill(image, hit))
    return torch.stack(frames)


def _fill(image: Float[Tensor, "3 H W"], hit: Bool[Tensor, "H W"]) -> Float[Tensor, "3 H W"]:
    if not hit.any():
        return torch.zeros_like(image)
    holes = (~hit).numpy().astype(np.uint8)
    filled = cv2.inpaint(to_bytes(image[None])[0], holes, _INPAINT_RADIUS_PX, cv2.INPAINT_TELEA)
    painted = from_bytes(torch.from_numpy(filled).permute(2, 0, 1))  # (3, H, W)
    return torch.where(hit, image, painted)
