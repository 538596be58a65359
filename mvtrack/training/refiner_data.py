"""Examples for the refiner: rendered scenes at twice the model's size, and what the model makes of them.

An example is a pure function of the recipe and its number, so the folder is only a cache.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from safetensors import safe_open
from torch import Tensor

from mvtrack.config.model import ModelConfig
from mvtrack.data.clip import resize_frames
from mvtrack.data.synthetic.camera_rig import RigStyle, sample_cameras
from mvtrack.data.synthetic.detailed_scenes import detailed_scene
from mvtrack.data.synthetic.renderer import render
from mvtrack.data.synthetic.scene import Scene, SceneStyle, sample_scene
from mvtrack.files.tensor_file import write_tensors
from mvtrack.geometry.camera import Camera
from mvtrack.inference.sampler import SamplerOptions, generate
from mvtrack.models.conditioning import Window
from mvtrack.models.reshoot_model import ReshootModel
from mvtrack.video.writer import from_bytes

_STREAM = 6151  # keeps these seeds apart from every bank's and test set's
_TRUTHS = 6  # frames of the target that are rendered; every frame of the source is
_RIG = RigStyle(min_angle_deg=4.0, max_angle_deg=30.0, rotation_only=0.1)


@dataclass(frozen=True)
class RefinerExample:
    """One clip. source: at full size. generated: the target at the model's size, where the model was run.
    camera: (2, T) at full size.

    truth, truth_depth: the target at full size at the frames `at`. source_depth, truth_depth: z-depth in the cameras'
    unit. distance: of the subject, the median depth of the source's first frame.
    """

    source: Float[Tensor, "T 3 H W"]
    source_depth: Float[Tensor, "T H W"]
    generated: Float[Tensor, "T 3 h w"] | None
    camera: Camera
    at: Int[Tensor, "N"]
    truth: Float[Tensor, "N 3 H W"]
    truth_depth: Float[Tensor, "N H W"]
    distance: float


@dataclass(frozen=True)
class RefinerScenes:
    """Where examples are kept and how they are drawn. scale: of the full size over the model's."""

    root: Path
    seed: int = 0
    scale: int = 2
    detailed: float = 0.35  # share of scenes with fine textures
    wide: float = 0.25  # share in the model's second size

    def path(self, number: int) -> Path:
        return self.root / f"example_{self.seed}_{number:06d}.safetensors"

    def ensure(self, number: int, model: ReshootModel) -> Path:
        """The file of an example, made now if it is not there."""
        path = self.path(number)
        if not path.exists():
            write_tensors(path, make_example(self, number, model))
        return path


def draw_scene(
    scenes: RefinerScenes, number: int, config: ModelConfig, stream: int
) -> tuple[Scene, Camera, np.random.Generator]:
    """A scene, its cameras (2, T) at full size, and the generator to go on drawing from."""
    for attempt in range(100):
        rng = np.random.default_rng([stream, scenes.seed, number, attempt])
        small = config.sizes[min(int(rng.uniform() < scenes.wide), len(config.sizes) - 1)]
        size = (small[0] * scenes.scale, small[1] * scenes.scale)
        draw = detailed_scene if rng.uniform() < scenes.detailed else sample_scene
        scene = draw(rng, config.num_frames, SceneStyle(static=bool(rng.uniform() < 0.2)))
        camera = sample_cameras(rng, 2, config.num_frames, size, _RIG)
        if (camera.c2w[..., 1, 3] < -0.1).all():  # above the ground
            break
    return scene, camera, rng


def make_example(scenes: RefinerScenes, number: int, model: ReshootModel) -> dict[str, Tensor]:
    """Render a clip and let the model re-shoot it; the tensors as they are stored."""
    scene, camera, rng = draw_scene(scenes, number, model.config, _STREAM)
    small = tuple(n // scenes.scale for n in camera.size)
    source = render(scene, camera[:1])
    at = torch.from_numpy(np.sort(rng.choice(model.config.num_frames, _TRUTHS, replace=False)))
    truth = render(moments_of(scene, at), camera[1:, at])
    sample = SamplerOptions(int(rng.choice([1, 1, 2, 2, 4, 8])), seed=number)
    reference = resize_frames(from_bytes(source.video[0]), small)
    window = Window(camera.resized(small), float(source.depth[0, 0].median()))
    generated = generate(model, reference, window, sample)
    return {
        "source": source.video[0],
        "source_depth": source.depth[0].half(),
        "generated": generated.half(),
        "c2w": camera.c2w,
        "K": camera.K,
        "at": at,
        "truth": truth.video[0],
        "truth_depth": truth.depth[0].half(),
    }


def read_example(path: Path) -> RefinerExample:
    """An example from its file."""
    with safe_open(path, "pt") as file:
        part = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dict)
    source, depth = from_bytes(part["source"]), part["source_depth"].float()
    distance = part["distance"] if "distance" in part else depth[0].median()
    return RefinerExample(
        source,
        depth,
        part["generated"].float() if "generated" in part else None,
        Camera(part["c2w"], part["K"], tuple(source.shape[-2:]), scale_known=True),
        part.get("at", torch.zeros(0, dtype=torch.long)),
        from_bytes(part["truth"]) if "truth" in part else source[:0],
        part["truth_depth"].float() if "truth_depth" in part else depth[:0],
        float(distance),
    )


def moments_of(scene: Scene, at: Int[Tensor, "N"]) -> Scene:
    """A scene's state at some of its frames."""
    return replace(scene, rotation=scene.rotation[at], position=scene.position[at])
