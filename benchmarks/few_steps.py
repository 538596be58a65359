"""`python benchmarks/few_steps.py --student runs/distill_tiny/model`: a few-step student against its teacher.

Rendered cases of the pinned set: the teacher at 50, 1, 2, 4 and 8 steps, the student at 1, 2, 4 and 8, each at the same
noise, as the models are meant to be guided. PSNR against the truth, whole and where both views see; gradient energy of
the pictures relative to the truth's, since one step alone wins in PSNR by being soft; PSNR to the teacher's own picture
of 50 steps. The student at its 4 steps is to lie within 0.3 dB and 5 % of gradient energy of the teacher at 50.
`--teacher`: the shipped model unless another is named. `--small`: one case and few steps, without targets; the student
is the teacher where none is named.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import torch
from bench import report

from mvtrack.data.clip import Clip
from mvtrack.data.synthetic.test_scenes import render_case
from mvtrack.evaluation.manifest import load_manifest
from mvtrack.geometry.warp import covisible
from mvtrack.inference.pipeline import shipped_model
from mvtrack.inference.sampler import SamplerOptions, generate
from mvtrack.metrics.image import gradient_energy, psnr
from mvtrack.models.conditioning import Window
from mvtrack.models.reshoot_model import ReshootModel, load_model

WITHIN_DB, WITHIN_SHARE = 0.3, 0.05
LOST, SHARPNESS = "lost by the student at 4 steps, dB", "gradient energy of the student at 4 steps / teacher's, off 1"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--student", type=Path, help="its folder, as a training leaves it")
    parser.add_argument("--teacher", type=Path, default=shipped_model())
    parser.add_argument("--cases", type=int, default=8)
    parser.add_argument("--small", action="store_true", help="few steps of one case, no targets")
    options = parser.parse_args()
    if options.student is None and not options.small:
        parser.error("--student is needed: the folder of a model that configs/distill_tiny.yaml made")
    torch.set_num_threads(1)
    whole, steps, count = (5, (1, 4), 1) if options.small else (50, (1, 2, 4, 8), options.cases)
    teacher = load_model(options.teacher)
    student = load_model(options.student or options.teacher)
    if options.small:
        teacher, student = (replace(m, config=replace(m.config, num_frames=5)) for m in (teacher, student))
    size, frames = teacher.config.sizes[0], teacher.config.num_frames
    clips = [render_case(replace(spec, size=size, num_frames=frames)).clip for spec in load_manifest().rendered[:count]]
    many = videos(teacher, clips, whole)
    figures = scored("teacher", whole, clips, many, many)
    for name, model in (("teacher", teacher), ("student", student)):
        for few in steps:
            figures |= scored(name, few, clips, videos(model, clips, few), many)
    figures[LOST] = figures[f"teacher, {whole}: PSNR, dB"] - figures["student, 4: PSNR, dB"]
    energy = figures["student, 4: gradient energy"] / figures[f"teacher, {whole}: gradient energy"]
    figures[SHARPNESS] = abs(energy - 1)
    return report(figures, {} if options.small else {LOST: ("<=", WITHIN_DB), SHARPNESS: ("<=", WITHIN_SHARE)})


def videos(model: ReshootModel, clips: list[Clip], steps: int) -> list[torch.Tensor]:
    """One per clip, the noise keyed by its number."""
    sample = SamplerOptions.of(model.config, steps)
    return [
        generate(model, clip.video[0], Window(clip.camera, clip.scene_depth), replace(sample, seed=seed))
        for seed, clip in enumerate(clips)
    ]


def scored(
    name: str, steps: int, clips: list[Clip], made: list[torch.Tensor], many: list[torch.Tensor]
) -> dict[str, float]:
    """Means over the clips. many: the teacher's videos of all steps."""
    rows = []
    for clip, video, whole in zip(clips, made, many, strict=True):
        truth, seen = clip.video[1], covisible(clip.depth[1], clip.depth[0], clip.camera[1], clip.camera[0])
        row = {
            "PSNR, dB": psnr(video, truth),
            "co-visible PSNR, dB": psnr(video, truth, seen),
            "gradient energy": gradient_energy(video) / gradient_energy(truth),
        }
        rows.append(row if video is whole else row | {"PSNR to the teacher's whole video, dB": psnr(video, whole)})
    return {f"{name}, {steps}: {score}": sum(row[score] for row in rows) / len(rows) for score in rows[0]}


if __name__ == "__main__":
    sys.exit(main())
