"""`python benchmarks/camera_order.py`: does camera accuracy put videos that miss their path by more and more in order?

Of each rendered scene there are four videos of a path: the truth, two that drift off it, by 2 and by 6 degrees and by a
tenth and three tenths of its length at the end, and a copy of the reference. Their cameras come from pycolmap, which
sees pictures only. Every mean must get worse in this order: with poses relative to the video's own first frame, and
relative to the reference's, both seen together.
"""

import argparse
import sys

import numpy as np
import torch
from bench import report
from torch import Tensor

from mvtrack.data.synthetic.camera_rig import amount_of, base_pose
from mvtrack.data.synthetic.detailed_scenes import FOV_DEG, STATIC, detailed_scene
from mvtrack.data.synthetic.renderer import render
from mvtrack.evaluation.estimators import ColmapPoses
from mvtrack.evaluation.interface import Inputs, Sample
from mvtrack.evaluation.measures.camera import CAMERA_ORIGINS, CameraMeasure
from mvtrack.geometry.camera import Camera, intrinsics_from_fov
from mvtrack.geometry.keyframe_path import rotation_matrix
from mvtrack.geometry.trajectory import CameraPath
from mvtrack.inference.camera_estimation.estimated_cameras import CameraEstimationError
from mvtrack.video.writer import from_bytes

SIZE, FRAMES = (180, 240), 5
PRESETS = ("arc_left", "translate_up", "zoom_in", "arc_right")
DRIFTS = ((0.0, 0.0), (2.0, 0.1), (6.0, 0.3))  # degrees, and shares of the path's length, at the last frame
MEANS = ("mRotErr", "mTransErr", "mCamMC")


def case_of(seed: int) -> tuple[Inputs, list[Tensor]]:
    """Inputs, and the videos from the best to the worst, each (T, 3, H, W)."""
    rng, preset = np.random.default_rng([79, seed]), PRESETS[seed % len(PRESETS)]
    scene, K = detailed_scene(rng, FRAMES, STATIC), intrinsics_from_fov(FOV_DEG, SIZE)
    first, pivot_m = base_pose(rng, float(K[0, 0]) / SIZE[1])
    path = CameraPath(preset, amount_of(preset, 15.0, pivot_m), pivot_m=pivot_m).poses(FRAMES)
    length = float((path[1:, :3, 3] - path[:-1, :3, 3]).norm(dim=-1).sum())
    reference = CameraPath("pan_right", 8.0).poses(FRAMES)
    away = torch.tensor([0.0, 0.5, -0.5]).double() * length  # down and back: no path here goes there
    reference[:, :3, 3] = torch.linspace(0, 1, FRAMES).double()[:, None] * away
    wanted = [first @ drifted(path, degrees, share * length) for degrees, share in DRIFTS]
    c2w = torch.stack([first @ reference, *wanted]).float()
    camera = Camera(c2w, K.expand(*c2w.shape[:2], 3, 3), SIZE, True)
    videos = from_bytes(render(scene, camera).video)
    inputs = Inputs("case", videos[0], camera[:2], source_camera_known=True, subject_distance=pivot_m)
    return inputs, [*videos[1:], videos[0]]


def drifted(path: Tensor, degrees: float, metres: float) -> Tensor:
    """A path (T, 4, 4) off which the camera turns to its right and sinks, evenly over time."""
    off = torch.eye(4).double().repeat(FRAMES, 1, 1)
    time = torch.linspace(0, 1, FRAMES).double()
    off[:, :3, :3] = torch.stack([rotation_matrix(torch.tensor([0, np.radians(degrees) * t, 0])) for t in time])
    off[:, 1, 3] = metres * time
    return path @ off


def errors_of(inputs: Inputs, video: Tensor, origin: str) -> dict[str, float]:
    """All means; NaN where the pictures do not tell."""
    need, frames = (
        ("generated.poses", video) if origin == "own" else ("joint.poses", torch.cat([inputs.reference, video]))
    )
    try:
        poses = ColmapPoses().estimate(inputs, frames, need.split(".")[0])
    except CameraEstimationError as error:
        sys.stdout.write(f"refused: {error}\n")
        return dict.fromkeys(MEANS, float("nan"))
    scores = CameraMeasure(origin=origin).score(Sample(inputs, video, estimates={need: poses}))
    return {name: scores[name] if isinstance(scores[name], float) else float("nan") for name in MEANS}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=8)
    options = parser.parse_args()
    torch.set_num_threads(1)
    names = [f"{name}, {origin} first frame" for origin in CAMERA_ORIGINS for name in MEANS]
    ordered, worst_truth = dict.fromkeys(names, 0), dict.fromkeys(names, 0.0)
    for seed in range(options.scenes):
        inputs, videos = case_of(seed)
        for origin in CAMERA_ORIGINS:
            rows = [errors_of(inputs, video, origin) for video in videos]
            for key in MEANS:
                name, line = f"{key}, {origin} first frame", [row[key] for row in rows]
                sys.stdout.write(f"{seed} {name}: {', '.join(f'{value:.4f}' for value in line)}\n")
                sys.stdout.flush()
                ordered[name] += all(a < b for a, b in zip(line, line[1:], strict=False))
                worst_truth[name] = max(worst_truth[name], line[0])
    figures = {f"ordered: {name}": count for name, count in ordered.items()}
    targets = dict.fromkeys(figures, (">=", options.scenes))
    return report(figures | {f"truth, worst: {name}": value for name, value in worst_truth.items()}, targets)


if __name__ == "__main__":
    sys.exit(main())
