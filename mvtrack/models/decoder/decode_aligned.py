"""The second, aligned decoding: what was decoded once tells how far things are, and with that the views see each
other."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mvtrack.geometry.camera import pixel_grid, project, unproject
from mvtrack.models.conditioning import Window
from mvtrack.models.decoder.depth import carried_depth, object_depth, refuse_wrong_unit, stereo_depth
from mvtrack.models.decoder.scene import REACH, DecoderScene
from mvtrack.models.reshoot_model import ReshootModel

_COMMON_SHARE = 0.01  # of a view, that some other must look at, or there is nothing to align
_CELLS = 16  # a side, in which that is found out


@dataclass(frozen=True)
class AlignedDecoding:
    """Two views of a video, or any number of a still scene or an object.

    aligner: see `mvtrack.models.decoder.files`. depth: z-depth at a video frame, by the number of the view, which is
    known as a picture; for the model's picture and in the cameras' unit. None: it is estimated from all views.
    object_size: of an object about the origin, which the views show; None: they show a scene. on_plain: gets views as
    the codec alone decodes them. notes: gets what is to know of results, each once.
    """

    aligner: nn.Module
    depth: Mapping[int, Callable[[int], Float[Tensor, "H W"]]] | None = None
    object_size: float | None = None
    on_plain: Callable[[Float[Tensor, "M T 3 H W"]], None] | None = None
    notes: list[str] = field(default_factory=list)

    @torch.no_grad()
    def decode(
        self, model: ReshootModel, latents: Float[Tensor, "V f c h w"], videos: Float[Tensor, "V T 3 H W"],
        window: Window, known: int = 1,
    ) -> Float[Tensor, "M T 3 H W"]:  # fmt: skip
        """The views after the first `known` ones, decoded with all others in sight; as the codec decodes them where no
        other view looks. latents: of all views. videos: of the known views, and the others as the codec decodes them.

        Raises ValueError without the window's scene_depth, of a scene, and for depth in another unit than the cameras'.
        """
        if window.scene_depth is None and self.object_size is None:
            raise ValueError("aligned decoding needs the distance of the subject: give scene_depth")
        if self.on_plain:
            self.on_plain(videos[known:])
        if len(videos) < 2:
            self._note("one view alone has none to be aligned with: it is left as the codec decodes it")
            return videos[known:]
        scene = self._scene(videos, window, known)
        made = list(range(known, len(videos)))
        aligned = tuple(view for view in made if looked_at(scene, view))
        if len(aligned) < len(made):
            self._note(
                "no other view looks at what some show (by their depth): these are left as the codec decodes them"
            )
        if not aligned:
            return videos[known:]
        aligner = self.aligner.to(model.device)
        scene = scene.to(model.device)
        result = model.decode_by(lambda codec, x: aligner.decode(codec, x, scene, aligned), latents)
        return torch.stack([(result if view in aligned else videos)[view] for view in made])

    def _scene(self, videos: Float[Tensor, "V T 3 H W"], window: Window, known: int) -> DecoderScene:
        camera = window.camera
        if self.depth:
            frames = range(videos.shape[1]) if window.frames is None else window.frames
            maps = {view: torch.stack([read(t) for t in frames]) for view, read in self.depth.items()}
            refuse_wrong_unit(torch.stack([*maps.values()]), camera, window.scene_depth, "depth")
            depth = carried_depth(maps, camera)
        elif self.object_size is not None:
            depth = object_depth(videos, camera, self.object_size)
        else:
            depth = stereo_depth(videos, camera, window.scene_depth)
        radius = None if self.object_size is None else REACH * self.object_size
        return DecoderScene.of(camera, depth, {view: videos[view] for view in range(known)}, radius)

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)


def looked_at(scene: DecoderScene, view: int) -> bool:
    """Whether some other view looks at what a view shows, at some moment: at a hundredth of it at least."""
    frames = list(range(scene.depth.shape[1]))
    size = tuple(min(side, _CELLS) for side in scene.camera.size)
    small = scene.at(frames, size)
    xy = pixel_grid(size, device=scene.depth.device).flatten(0, 1)
    points = unproject(xy, small.depth[view].flatten(1), small.camera[view])
    seen = torch.zeros_like(small.depth[view].flatten(1), dtype=torch.bool)
    for other in scene.nearest(view):
        seen |= _inside(*project(points, small.camera[other]), size)
    return bool(seen.float().mean(1).max() >= _COMMON_SHARE)


def _inside(xy: Float[Tensor, "N p 2"], z: Float[Tensor, "N p"], size: tuple[int, int]) -> Bool[Tensor, "N p"]:
    return (z > 0) & (xy >= 0).all(-1) & (xy < xy.new_tensor([size[1], size[0]])).all(-1)
