"""`python benchmarks/poses.py`: how well pycolmap recovers the cameras of rendered videos, against the true ones.

Static scenes along arcs, translations and dollies decide; pans, still cameras and moving objects (with and without the
mask of what moves) are reported beside them.
"""

import argparse
import math
import sys

import torch
from bench import report

from mvtrack.data.detailed_scenes import detailed_case
from mvtrack.data.renderer import FIRST_OBJECT
from mvtrack.data.scene import SceneStyle
from mvtrack.metrics.camera_accuracy import camera_accuracy
from mvtrack.structure.colmap import recover_with_colmap
from mvtrack.structure.recovered import NotRecoveredError

_STATIC = [
    ("arc_left", 15.0), ("arc_right", 25.0), ("translate_up", 15.0), ("translate_down", 20.0), ("zoom_in", 15.0),
    ("zoom_out", 20.0),
]  # fmt: skip
_MOVING = [("arc_left", 15.0), ("translate_up", 15.0), ("pan_right", 15.0)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="360x480", help="height x width of the rendered pictures")
    parser.add_argument("--frames", type=int, default=17)
    parser.add_argument("--cases", type=int, help="only the first so many static cases")
    options = parser.parse_args()
    torch.set_num_threads(1)
    size = tuple(int(side) for side in options.size.split("x"))
    figures, worst_turn, worst_move = {}, 0.0, 0.0
    for seed, (preset, angle) in enumerate(_STATIC[: options.cases]):
        row = measure(seed, preset, angle, options.frames, size)
        figures[f"static {preset}"] = row
        sys.stderr.write(f"{preset}: {row}\n")
        worst_turn = max(worst_turn, row.get("rotation_deg", math.inf))
        worst_move = max(worst_move, row.get("translation", math.inf))
    if options.cases is None:
        figures["static pan_right"] = measure(10, "pan_right", 15.0, options.frames, size)
        figures["static camera"] = measure(11, "pan_right", 0.0, options.frames, size)
        for seed, (preset, angle) in enumerate(_MOVING, 20):
            for masked in (False, True):
                name = f"moving objects {preset}{', masked' if masked else ''}"
                figures[name] = measure(seed, preset, angle, options.frames, size, moving=True, masked=masked)
    for name, row in figures.items():
        sys.stderr.write(f"{name}: {row}\n")
    worst = {"worst mean rotation error, degrees": worst_turn, "worst mean translation error / path length": worst_move}
    flat = {f"{name}, {key}": v for name, row in figures.items() for key, v in row.items() if not isinstance(v, str)}
    return report(worst | flat, dict(zip(worst, [("<=", 0.1), ("<=", 0.01)], strict=True)))


def measure(
    seed: int, preset: str, angle: float, frames: int, size: tuple[int, int], moving: bool = False, masked: bool = False
) -> dict:
    """Mean errors of one case: rotation in degrees, centres after a similarity as a share of the path's length."""
    style = SceneStyle(min_objects=5, max_objects=8, static=not moving)
    _, camera, rendered = detailed_case(seed, preset, angle, frames, size, style)
    ignore = (rendered.ids[0] >= FIRST_OBJECT).numpy() if masked else None
    try:
        found = recover_with_colmap(rendered.video[0].permute(0, 2, 3, 1).numpy(), camera.K[0, 0], ignore=ignore)
    except NotRecoveredError as error:
        return {"failed": str(error), "coverage": 0.0}
    true = camera.c2w[0].double()
    accuracy = camera_accuracy(found.camera.c2w, true, "umeyama", found.found)
    centres = true[:, :3, 3]
    length = (centres[1:] - centres[:-1]).norm(dim=-1).sum()
    row = {"method": found.method, "coverage": found.coverage, "rotation_deg": accuracy.means()["mRotErr"]}
    if not accuracy.rotation_only:
        row["translation"] = accuracy.means()["mTransErr"] * float(torch.cdist(centres, centres).max() / length)
    return row


if __name__ == "__main__":
    sys.exit(main())
