"""`python benchmarks/renderer.py`: speed of the ray caster against the same one without culling, one thread."""

import sys

import numpy as np
import torch
from bench import report, timed_by_turns

from mvtrack.data.synthetic import renderer
from mvtrack.data.synthetic.camera_rig import RigStyle, sample_cameras
from mvtrack.data.synthetic.scene import SceneStyle, sample_scene

VIEWS, FRAMES, SCENES = 2, 17, 4


def main() -> int:
    torch.set_num_threads(1)
    figures = {}
    for size in ((64, 64), (240, 416)):
        scenes = []
        for seed in range(SCENES):
            rng = np.random.default_rng(seed)
            scene = sample_scene(rng, FRAMES, SceneStyle())
            scenes.append((scene, sample_cameras(rng, VIEWS, FRAMES, size, RigStyle())))
        seconds = timed_by_turns(
            {
                "culled": lambda s=scenes: [renderer.render(*item) for item in s],
                "unculled": lambda s=scenes: without_culling(s),
            },
            rounds=3 if size[0] == 64 else 1,
        )
        name = f"{size[0]}x{size[1]}"
        figures[f"{name} ms a frame"] = 1000 * seconds["culled"] / (SCENES * VIEWS * FRAMES)
        figures[f"{name} unculled / culled"] = seconds["unculled"] / seconds["culled"]
    targets = {"64x64 unculled / culled": (">=", 1.3), "240x416 unculled / culled": (">=", 1.3)}
    return report(figures, targets)


def without_culling(scenes: list) -> None:
    """Intersect every ray with every object: bounding spheres so large that all rays pass them."""
    kept = dict(renderer._BOUND)
    renderer._BOUND.update(dict.fromkeys(kept, 1e9))
    try:
        for scene, camera in scenes:
            renderer.render(scene, camera)
    finally:
        renderer._BOUND.update(kept)


if __name__ == "__main__":
    sys.exit(main())
