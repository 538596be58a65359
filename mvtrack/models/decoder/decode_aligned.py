"""The second decoding: what was decoded once tells how far things are, and with that the views see each other."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mvtrack.geometry.camera import Camera
from mvtrack.models.decoder.depth import carried_depth, stereo_depth
from mvtrack.models.decoder.scene import DecoderScene
from mvtrack.models.reshoot_model import ReshootModel

_TARGET = 1


@dataclass(frozen=True)
class SecondDecoding:
    """aligner: see `mvtrack.models.decoder.files`. depth: the reference's z-depth at a video frame, for the model's
    picture and in the cameras' unit; None: it is estimated from both views."""

    aligner: nn.Module
    depth: Callable[[int], Float[Tensor, "H W"]] | None = None

    @torch.no_grad()
    def decode(
        self,
        model: ReshootModel,
        latents: Float[Tensor, "2 f c h w"],
        reference: Float[Tensor, "T 3 H W"],
        first: Float[Tensor, "T 3 H W"],
        camera: Camera,
        subject_distance: float,
        frames: list[int],
    ) -> Float[Tensor, "T 3 H W"]:
        """The target again. latents: of the reference, then the target. first: the target as the codec decodes it.
        camera: (2, T). frames: the numbers of these frames in the video."""
        if self.depth is None:
            depth = stereo_depth(torch.stack([reference, first]), camera, subject_distance)
        else:
            depth = carried_depth(torch.stack([self.depth(t) for t in frames]), camera)
        scene = DecoderScene.of(camera, depth, {0: reference}).to(model.device)
        aligner = self.aligner.to(model.device)
        return model.decode_by(lambda codec, x: aligner.decode(codec, x, scene, (_TARGET,)), latents)[_TARGET]
