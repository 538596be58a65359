"""The second, aligned decoding: what was decoded once tells how far things are, and with that the views see each
other."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mvtrack.models.conditioning import Window
from mvtrack.models.decoder.depth import carried_depth, stereo_depth
from mvtrack.models.decoder.scene import DecoderScene
from mvtrack.models.reshoot_model import ReshootModel

_TARGET = 1


@dataclass(frozen=True)
class AlignedDecoding:
    """aligner: see `mvtrack.models.decoder.files`. depth: the reference's z-depth at a video frame, for the model's
    picture and in the cameras' unit; None: it is estimated from both views."""

    aligner: nn.Module
    depth: Callable[[int], Float[Tensor, "H W"]] | None = None

    @torch.no_grad()
    def decode(
        self,
        model: ReshootModel,
        latents: Float[Tensor, "2 f c h w"],
        videos: Float[Tensor, "2 T 3 H W"],
        window: Window,
    ) -> Float[Tensor, "T 3 H W"]:
        """The target decoded with the reference in sight. latents: of the reference, then the target. videos: the
        reference, and the target as the codec decodes it. Raises ValueError without the window's scene_depth."""
        if window.scene_depth is None:
            raise ValueError("aligned decoding needs the distance of the subject: give scene_depth")
        camera = window.camera
        if self.depth is None:
            depth = stereo_depth(videos, camera, window.scene_depth)
        else:
            frames = range(len(videos[0])) if window.frames is None else window.frames
            depth = carried_depth(torch.stack([self.depth(t) for t in frames]), camera)
        scene = DecoderScene.of(camera, depth, {0: videos[0]}).to(model.device)
        aligner = self.aligner.to(model.device)
        return model.decode_by(lambda codec, x: aligner.decode(codec, x, scene, (_TARGET,)), latents)[_TARGET]
