"""`python benchmarks/step_cache.py`: what the step cache saves of the tiny model's 50 steps, and what it costs.

The shipped model, fitted as `mvtrack calibrate` does on scenes of its own, then rendered cases of the pinned set at 50
steps without and with the cache, each at the same noise: forward passes, PSNR against the truth, whole and where both
views see, and warp consistency (PSNR against the reference carried over by exact depth). The best threshold is the one
that saves most within the bounds; all are printed, with the PSNR against the same noise sampled in all steps, since
fewer steps alone can win in PSNR by being soft: only what stays within 40 dB of it counts.
`--small`: one case, few steps, without targets.
"""

import argparse
import sys
from dataclasses import replace

import torch
from bench import report

from mvtrack.data.clip import Clip
from mvtrack.data.synthetic.test_scenes import render_case
from mvtrack.evaluation.ablation.scores import warp_consistency
from mvtrack.evaluation.manifest import load_manifest
from mvtrack.geometry.warp import covisible
from mvtrack.inference.calibration import calibrated, observed_scene
from mvtrack.inference.pipeline import shipped_model
from mvtrack.inference.sampler import SamplerOptions, generate
from mvtrack.metrics.image import psnr
from mvtrack.models.conditioning import Window
from mvtrack.models.reshoot_model import ReshootModel, load_model
from mvtrack.models.step_cache import StepCache

THRESHOLDS = (0.05, 0.1, 0.2, 0.4)
LOST_DB, LOST_SHARE, NEAR_DB = 0.2, 0.02, 40.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="a few steps of one case, no targets")
    parser.add_argument("--cases", type=int, default=8)
    parser.add_argument("--steps", type=int, default=50)
    options = parser.parse_args()
    cases, steps = (1, 4) if options.small else (options.cases, options.steps)
    torch.set_num_threads(1)
    model = load_model(shipped_model())
    if options.small:
        model = replace(model, config=replace(model.config, num_frames=5))
    size, frames = model.config.sizes[0], model.config.num_frames
    fit = calibrated([observed_scene(model, n, SamplerOptions(steps)) for n in range(2 if options.small else 4)]).fit
    clips = [render_case(replace(spec, size=size, num_frames=frames)).clip for spec in load_manifest().rendered[:cases]]
    whole, videos = scored(model, clips, SamplerOptions(steps), StepCache(0.0, steps))
    figures, good = {}, [1.0]
    for threshold in THRESHOLDS:
        row, made = scored(model, clips, SamplerOptions(steps), StepCache(threshold, steps, fit))
        saved = whole["passes"] / row["passes"]
        lost = {name: whole[name] - row[name] for name in whole if name.endswith("dB")}
        figures[f"{threshold:g}: fewer passes"] = saved
        figures |= {f"{threshold:g}: lost, {name}": value for name, value in lost.items()}
        near = [psnr(a, b) for a, b in zip(made, videos, strict=True)]
        figures[f"{threshold:g}: PSNR to all steps, dB"] = unchanged = sum(near) / len(near)
        within = lost["warp consistency, dB"] <= LOST_SHARE * whole["warp consistency, dB"]
        if within and unchanged >= NEAR_DB and max(lost["PSNR, dB"], lost["co-visible PSNR, dB"]) <= LOST_DB:
            good.append(saved)
    figures |= {f"all steps: {name}": value for name, value in whole.items()}
    figures["fewer passes within 0.2 dB and 2 %"] = max(good)
    return report(figures, {} if options.small else {"fewer passes within 0.2 dB and 2 %": (">=", 1.7)})


def scored(
    model: ReshootModel, clips: list[Clip], sample: SamplerOptions, cache: StepCache
) -> tuple[dict[str, float], list[torch.Tensor]]:
    """Passes of a video and the means of its scores; and the videos."""
    rows, videos = [], []
    for seed, clip in enumerate(clips):
        model.dit.step_cache = own = StepCache(cache.threshold, cache.steps, cache.fit)
        window = Window(clip.camera, clip.scene_depth)
        videos.append(generate(model, clip.video[0], window, replace(sample, seed=seed)))
        model.dit.step_cache = None
        seen = covisible(clip.depth[1], clip.depth[0], clip.camera[1], clip.camera[0])
        rows.append(
            {
                "passes": own.asked - own.reused,
                "PSNR, dB": psnr(videos[-1], clip.video[1]),
                "co-visible PSNR, dB": psnr(videos[-1], clip.video[1], seen),
                "warp consistency, dB": warp_consistency(clip, videos[-1]),
            }
        )
    return {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}, videos


if __name__ == "__main__":
    sys.exit(main())
