"""`python benchmarks/preview_arc.py VIDEO [VIDEO ...]`: is an arc's preview nearer to the render than the source is?

The first frames of each video are re-shot along an arc with the shipped model, and previewed by estimated depth. PSNR
against the render, over the second half of the arc: of the preview and of the source as it stands, over whole pictures
(where the preview has dimmed colours for what the source does not show) and over what the preview shows.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import torch
from bench import report

from mvtrack.geometry.path_language import parse_path
from mvtrack.inference.full_resolution.region import resized
from mvtrack.inference.pipeline import Shot, reshoot_file, shipped_model
from mvtrack.inference.preview import DARK, Warper, depth_of, gaps_filled, shot_cameras
from mvtrack.metrics.image import psnr
from mvtrack.models.reshoot_model import read_config
from mvtrack.video.reader import open_video
from mvtrack.video.resize import plan_fit
from mvtrack.video.writer import from_bytes, write_video

SIZE = (480, 854)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("videos", type=Path, nargs="+")
    parser.add_argument("--camera", default="arc_left 10deg")
    parser.add_argument("--frames", type=int, default=17)
    options = parser.parse_args()
    figures, targets = {}, {}
    for video in options.videos:
        with tempfile.TemporaryDirectory() as folder:
            clip = Path(folder, "clip.mp4")
            write_video(clip, from_bytes(open_video(video).read(0, options.frames, SIZE)), 30.0, crf=12)
            numbers = compared(clip, options.camera, Path(folder, "out"))
        figures |= {f"{video.stem}: {name}": value for name, value in numbers.items()}
        for where in ("whole", "where it shows something"):
            figures[f"{video.stem}: gain, {where}, dB"] = (
                numbers[f"preview, {where}, dB"] - numbers[f"source, {where}, dB"]
            )
            targets[f"{video.stem}: gain, {where}, dB"] = (">=", 0.0)
    return report(figures, targets)


def compared(clip: Path, camera: str, out: Path) -> dict[str, float]:
    """PSNR against the render, of the preview and of the source."""
    render = open_video(reshoot_file(clip, camera, out=out).video)
    shot, footage = Shot(parse_path(camera)), open_video(clip)
    fit = plan_fit(footage.size, read_config(shipped_model()))
    cameras = shot_cameras(shot, footage, fit)
    warper = Warper(footage, fit, depth_of(None, footage, cameras, shot.path.pivot_m), shot.path.pivot_m)
    source, preview = (torch.cat(parts) for parts in zip(*warper.pairs(cameras), strict=True))
    made = warper.fit.undo(warper.fit.apply(resized(render.read(0, len(render)), warper.fit.scaled)))
    half = slice(len(source) // 2, None)
    shown = ~(preview == DARK).all(1)[half]
    return {
        f"{name}, {where}, dB": psnr(video[half], made[half], mask)
        for name, video in (("preview", gaps_filled(preview)), ("source", source))
        for where, mask in (("whole", None), ("where it shows something", shown))
    }


if __name__ == "__main__":
    sys.exit(main())
