"""A bank of rendered scenes on disk. A scene is a pure function of the bank's recipe and its number.

So the bank is only a cache: a scene that is missing is rendered when it is asked for, and a run reads the same pixels
whether they were rendered before or behind it.
"""

import json
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from multiprocessing import Process, get_context
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from tqdm import tqdm

from mvtrack.data.clip import Clip
from mvtrack.data.synthetic.camera_rig import RigStyle, sample_cameras
from mvtrack.data.synthetic.natural_scenes import natural_scene
from mvtrack.data.synthetic.point_tracks import sample_tracks
from mvtrack.data.synthetic.renderer import render
from mvtrack.data.synthetic.scene import SceneStyle, sample_scene
from mvtrack.files.atomic_io import write_aside
from mvtrack.geometry.camera import Camera
from tracking_head import Tracks

FORMAT = 1  # raise when the same recipe would render other pixels


@dataclass(frozen=True)
class BankRecipe:
    """What the scenes of a bank look like. Two banks with equal recipes are equal."""

    size: tuple[int, int] = (64, 64)  # (H, W)
    num_frames: int = 25
    num_views: int = 3
    num_points: int = 128
    seed: int = 0
    scenes: Literal["smooth", "natural"] = "smooth"
    scene: SceneStyle = field(default_factory=SceneStyle)
    rig: RigStyle = field(default_factory=RigStyle)


class Bank:
    """Scenes of one recipe under `root`, one safetensors file each."""

    def __init__(self, root: Path | str, recipe: BankRecipe) -> None:
        self.root, self.recipe = Path(root), recipe
        self.root.mkdir(parents=True, exist_ok=True)
        card = json.loads(json.dumps({"format": FORMAT, **asdict(recipe)}))
        path = self.root / "recipe.json"
        if path.exists():
            found = json.loads(path.read_text())
            if found != card:
                different = sorted(k for k in card.keys() | found.keys() if card.get(k) != found.get(k))
                raise ValueError(
                    f"{path} holds scenes of another recipe (different: {', '.join(different)}); "
                    f"choose another folder or delete this one"
                )
        else:
            write_aside(path, lambda aside: aside.write_text(json.dumps(card, indent=1)))

    def path(self, number: int) -> Path:
        return self.root / f"scene_{number:08d}.safetensors"

    def ensure(self, number: int) -> Path:
        """The file of a scene, rendered now if it is not there."""
        path = self.path(number)
        if not path.exists():
            tensors = render_scene_tensors(self.recipe, number)
            write_aside(path, lambda aside: save_file(tensors, aside))
        return path

    def build(self, numbers: range, workers: int | None = None) -> None:
        """Render a range of scenes with several processes; scenes already there are kept."""
        missing = [n for n in numbers if not self.path(n).exists()]
        if not missing:
            return
        workers = workers or os.cpu_count() or 1
        with ProcessPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            done = pool.map(_ensure, [self.root] * len(missing), [self.recipe] * len(missing), missing, chunksize=4)
            for _ in tqdm(done, total=len(missing), desc=f"rendering {self.root}", unit="scene"):
                pass

    def render_ahead(self, numbers: range) -> Process:
        """Render a range of scenes in a background process of lowest priority; it ends with its parent."""
        process = get_context("forkserver").Process(
            target=_render_quietly, args=(self.root, self.recipe, numbers), daemon=True
        )
        process.start()
        return process

    def prune(self, below: int) -> None:
        """Delete scenes with smaller numbers; whoever still asks for one gets it rendered again."""
        for path in self.root.glob("scene_*.safetensors"):
            if int(path.stem.removeprefix("scene_")) < below:
                path.unlink(missing_ok=True)

    def clip(self, number: int, views: list[int], frames: slice) -> Clip:
        """Chosen views and frames of a scene, read without loading the rest."""
        with safe_open(self.ensure(number), "pt") as file:
            part = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118  (not a dict)
            video = torch.stack([part["video"][v, frames] for v in views])
            camera = Camera(
                torch.stack([part["c2w"][v, frames] for v in views]),
                torch.stack([part["K"][v, frames] for v in views]),
                self.recipe.size,
                scale_known=True,
            )
            tracks = Tracks(
                torch.stack([part["track_xy"][v, frames] for v in views]),
                torch.stack([part["track_visible"][v, frames] for v in views]),
                torch.stack([part["track_valid"][v] for v in views]),
            )
            depth = torch.stack([part["depth"][v, frames] for v in views]).float()
        return Clip(video.float() / 127.5 - 1, camera, key=f"{self.root.name}/{number}", tracks=tracks, depth=depth)


def render_scene_tensors(recipe: BankRecipe, number: int) -> dict[str, torch.Tensor]:
    """Everything stored of one scene: video, depth (half precision), cameras and tracks."""
    rng = np.random.default_rng([FORMAT, recipe.seed, number])
    draw_scene = {"smooth": sample_scene, "natural": natural_scene}[recipe.scenes]
    scene = draw_scene(rng, recipe.num_frames, recipe.scene)
    camera = sample_cameras(rng, recipe.num_views, recipe.num_frames, recipe.size, recipe.rig)
    rendered = render(scene, camera)
    tracks, _, _ = sample_tracks(scene, camera, rendered, recipe.num_points, rng)
    tensors = {
        "video": rendered.video,
        "depth": rendered.depth.half(),
        "c2w": camera.c2w,
        "K": camera.K,
        "track_xy": tracks.xy,
        "track_visible": tracks.visible,
        "track_valid": tracks.valid,
    }
    return {name: tensor.contiguous() for name, tensor in tensors.items()}


def _render_quietly(root: Path, recipe: BankRecipe, numbers: range) -> None:
    os.nice(19)
    torch.set_num_threads(1)
    bank = Bank(root, recipe)
    for number in numbers:
        bank.ensure(number)


def _ensure(root: Path, recipe: BankRecipe, number: int) -> None:
    Bank(root, recipe).ensure(number)
