"""Do the metrics that claim geometry put known qualities in the right order, and does the dynamic score see what moves?

Eight rendered scenes with a turning, rising or approaching camera, five moments each. Of every scene there are the true
target video, warps of the reference with depth that is 3, 8 and 15 % wrong, and a copy of the reference: in this order
every score must get worse. Then one object alone stands a third of a metre beside its place. `depth_files` reads from
files the depth that `true_depth` is given, so it must give the same numbers. `estimated_depth` (a plane sweep) claims
no order; how often it has it is printed beside.

Not here: networks (MASt3R, VGGT, Depth Anything 3, DINO's features), whose weights are not part of the project. Camera
accuracy has `camera_order.py`: depth that is wrong everywhere is another unit, which its measures are made to forgive.

Textures are those of training scenes. `--detailed` takes finer ones, which pictures this small cannot show without
aliasing: there the dynamic score does not always hold (docs/results.md), and nothing is asked.
"""

import argparse
import math
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from bench import report
from torch import Tensor

from mvtrack.data.synthetic.camera_rig import RigStyle, amount_of, base_pose, reference_motion
from mvtrack.data.synthetic.detailed_scenes import detailed_scene
from mvtrack.data.synthetic.renderer import FIRST_OBJECT, Render, render
from mvtrack.data.synthetic.scene import Scene, SceneStyle, sample_scene
from mvtrack.evaluation.estimators import PlaneSweepDepth
from mvtrack.evaluation.interface import Inputs, Sample, Skipped
from mvtrack.evaluation.measures.consistency import WarpConsistency
from mvtrack.evaluation.measures.pair_features import PairFeatures
from mvtrack.evaluation.measures.pair_sources import REFERENCE, DepthFiles, EstimatedDepth, TrueDepth
from mvtrack.geometry.camera import Camera, intrinsics_from_fov
from mvtrack.geometry.trajectory import CameraPath
from mvtrack.geometry.warp import covisible, reproject, sample_bilinear
from mvtrack.video.writer import from_bytes

SIZE, FRAMES = (72, 96), 5
PRESETS = ("arc_left", "translate_up", "zoom_in", "arc_right")
DEPTH_ERRORS = (0.03, 0.08, 0.15)  # beyond that, surfaces far from the pivot are farther off than in the copy
DISPLACED_M = 0.33
TRUE = WarpConsistency(TrueDepth(), PairFeatures("colours"))
REFERENCE_DEPTH = "warp_consistency without the target's depth"
FROM_FILES = "warp_consistency from depth files"
ESTIMATED = WarpConsistency(EstimatedDepth(), PairFeatures("colours"))


@dataclass(frozen=True)
class Case:
    """A rendered scene with two cameras (2, T) and what they see."""

    scene: Scene
    camera: Camera
    truth: Render

    @property
    def inputs(self) -> Inputs:
        video, depth = from_bytes(self.truth.video), self.truth.depth
        return Inputs(
            "case", video[0], self.camera, source_camera_known=True, target=video[1],
            target_frames=tuple(range(FRAMES)), depth=depth[0], target_depth=depth[1],
            covisible=covisible(depth[1], depth[0], self.camera[1], self.camera[0]), dynamic=self.moving,
        )  # fmt: skip

    @property
    def chosen(self) -> int:
        """The object that shows most of itself."""
        ids = self.truth.ids[0]
        return max(range(len(self.scene.kind)), key=lambda o: int((ids == FIRST_OBJECT + o).sum()))

    @property
    def moving(self) -> Tensor:
        return self.truth.ids[0] == FIRST_OBJECT + self.chosen

    def displaced(self) -> Tensor:
        """The target video when the chosen object stands elsewhere."""
        position = self.scene.position.clone()
        position[:, self.chosen, 0] += DISPLACED_M
        return from_bytes(render(replace(self.scene, position=position), self.camera).video)[1]

    def warped(self, depth_error: float) -> Tensor:
        """The reference carried to the target by depth that is wrong by a share, its border repeated."""
        xy, _ = reproject(self.truth.depth[1] * (1 + depth_error), self.camera[1], self.camera[0])
        return sample_bilinear(from_bytes(self.truth.video)[0], xy)


def cases(count: int, detailed: bool = False) -> Iterator[Case]:
    for seed in range(count):
        rng, preset = np.random.default_rng([77, seed]), PRESETS[seed % len(PRESETS)]
        scene = (detailed_scene if detailed else sample_scene)(rng, FRAMES, SceneStyle(min_objects=3, max_objects=6))
        K = intrinsics_from_fov(50.0, SIZE)
        first, pivot_m = base_pose(rng, float(K[0, 0]) / SIZE[1])
        moving = reference_motion(rng, pivot_m, FRAMES, RigStyle(moving_reference=1.0))
        source = Camera(first @ moving, K.double().expand(FRAMES, 3, 3), SIZE, True)
        path = CameraPath(preset, amount_of(preset, 15.0, pivot_m), pivot_m=pivot_m)
        away = path.poses_at(torch.linspace(0.2, 1, FRAMES).double())  # at 0 the copy would be the truth
        target = replace(source, c2w=source.c2w[:1] @ away)
        camera = Camera.stack([source, target]).to(dtype=torch.float32)
        yield Case(scene, camera, render(scene, camera))


def scores_of(case: Case, video: Tensor) -> dict[str, float]:
    """All scores of one video, less is better; NaN where there is no estimate."""
    inputs = case.inputs
    values = TRUE.score(Sample(inputs, video))
    found = {key: values[key] for key in (TRUE.name, f"{TRUE.name}.dynamic")}
    found[FROM_FILES] = score_from_files(inputs, video)
    found[REFERENCE_DEPTH] = TRUE.score(Sample(replace(inputs, target_depth=None), video))[TRUE.name]
    depth = {
        f"{subject}.depth": PlaneSweepDepth().estimate(inputs, seen, subject)
        for subject, seen in (("reference", inputs.reference), ("generated", video))
    }
    if any(isinstance(d, Skipped) for d in depth.values()):
        return found | {ESTIMATED.name: math.nan}
    return found | {ESTIMATED.name: ESTIMATED.score(Sample(inputs, video, estimates=depth))[ESTIMATED.name]}


def score_from_files(inputs: Inputs, video: Tensor) -> float:
    """The same depth, written down and read again."""
    with tempfile.TemporaryDirectory() as name:
        for part, depth in ((REFERENCE, inputs.depth), ("row", inputs.target_depth)):
            (Path(name) / part).mkdir()
            np.savez(Path(name) / part / f"{inputs.key}.npz", depth=depth.numpy())
        metric = WarpConsistency(DepthFiles(Path(name)), PairFeatures("colours"))
        return metric.score(Sample(inputs, video, method="row"))[metric.name]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=8)
    parser.add_argument("--detailed", action="store_true", help="finer textures, without targets")
    options = parser.parse_args()
    ordered: dict[str, int] = {}
    reactions, shares, truth_over_copy, from_files = [], [], [], []
    for case in cases(options.scenes, options.detailed):
        inputs = case.inputs
        videos = [inputs.target, *(case.warped(error) for error in DEPTH_ERRORS), inputs.reference]
        rows = [scores_of(case, video) for video in videos]
        for name in rows[0]:
            line = [row[name] for row in rows]
            sys.stdout.write(f"{name}: {', '.join(f'{value:.4f}' for value in line)}\n")
            ordered[name] = ordered.get(name, 0) + (line == sorted(line) and not any(map(math.isnan, line)))
        from_files += [abs(row[FROM_FILES] - row[TRUE.name]) for row in rows]
        truth_over_copy.append(rows[0][TRUE.name] / rows[-1][TRUE.name])
        before, after = (TRUE.score(Sample(inputs, video)) for video in (inputs.target, case.displaced()))
        dynamic, whole = (after[key] - before[key] for key in (f"{TRUE.name}.dynamic", TRUE.name))
        reactions.append(dynamic / whole if whole > 0 else math.nan)
        shares.append(float(case.moving.double().mean()))
        sys.stdout.write(f"an object of {shares[-1]:.1%} displaced: dynamic {dynamic:+.4f}, whole {whole:+.4f}\n")
    figures = {f"ordered: {name}": count for name, count in ordered.items()}
    figures |= {
        "least reaction of the dynamic score over the whole one's": min(reactions),
        "smallest share of the displaced object": min(shares),
        "largest share of the displaced object": max(shares),
        "truth over copy, worst": max(truth_over_copy),
        "depth files from true depth, largest difference": max(from_files),
    }
    claiming = (TRUE.name, f"{TRUE.name}.dynamic", REFERENCE_DEPTH, FROM_FILES)
    targets = {f"ordered: {name}": (">=", options.scenes) for name in claiming}
    targets |= {
        "least reaction of the dynamic score over the whole one's": (">=", 2.0),
        "depth files from true depth, largest difference": ("<=", 0.0),
    }
    return report(figures, {} if options.detailed else targets)


if __name__ == "__main__":
    sys.exit(main())
