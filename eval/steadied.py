"""`python eval/steadied.py VIDEO [VIDEO ...]`: hand-held video re-shot with `--camera static --source-cameras auto`.

The result is compared with the source's own pixels, where it sees, in each video twice, at 854x480:

- as it is: every frame of the result against the source's frame carried over by the cameras of cameras.json, which is
  the source's own pixels exactly where the measured camera only turns. It says what re-shooting loses, whatever the
  cameras.
- shaken: a window of the video that turns as a hand does, by a known amount, against the same window at rest. It says
  what is lost in all, errors of the measured cameras included; with `--cameras true` without those.
"""

import json
import math
import sys
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from mvtrack.config.checked import Count, Positive, config
from mvtrack.config.command_line import Command, option, positional, run
from mvtrack.data.synthetic.pan_tilt_zoom import PanTiltZoom, pan_tilt_zoom_clip
from mvtrack.evaluation.tables import markdown_table, met_targets, targets_table
from mvtrack.geometry.camera import Camera
from mvtrack.geometry.inverse_depth import correspondence, inside, sample
from mvtrack.geometry.path_language import parse_path
from mvtrack.geometry.presets import PIVOT_M
from mvtrack.inference.camera_estimation.source_cameras import measure_source
from mvtrack.inference.pipeline import DEFAULT_FOV_DEG, Shot, reshoot_file
from mvtrack.metrics.image import psnr
from mvtrack.video.reader import open_video
from mvtrack.video.writer import from_bytes, write_video

SIZE = (480, 854)
_WIDE_FOV_DEG, _ZOOM = 50.0, 1.15
_MARGIN_PX = 4.0  # from the source's border, where the result begins to fade
_LEAST_DB = 35.0


@config(kw_only=True)
class SteadiedCommand(Command):
    """Hand-held video held still: PSNR against the source's own pixels, where the source sees."""

    videos: tuple[Path, ...] = positional("video files of at least 1280x720", metavar="VIDEO")
    out: Path = option(Path("outputs/steadied"), "folder for the videos", metavar="FOLDER")
    shake_deg: Positive = option(1.0, "largest turn of the shaken window")
    cameras: Literal["auto", "true"] = option("auto", "measured, or the true ones of the shaken window")
    frames: Count | None = option(None, "only the first so many")


def main() -> int:
    return run(SteadiedCommand, _run, None, "steadied")


def _run(options: SteadiedCommand) -> None:
    rows, reached = [], {}
    for video in options.videos:
        footage, figures = open_video(video), {}
        count = min(len(footage), options.frames or len(footage))
        wide = from_bytes(footage.read(0, count))
        still = PanTiltZoom.ramp((0.0, 0.0, _ZOOM), (0.0, 0.0, _ZOOM), count)
        clip = pan_tilt_zoom_clip(wide, hand_held(count, options.shake_deg), still, _WIDE_FOV_DEG, SIZE)
        shaken = _written(options.out / f"{video.stem}_shaken.mp4", clip.video[0])
        if options.cameras == "auto":
            plain = _written(options.out / f"{video.stem}.mp4", from_bytes(footage.read(0, count, SIZE)))
            figures["as it is"] = against_own_pixels(plain, _held_still(plain))
        known = clip.camera[0] if options.cameras == "true" else None
        figures["shaken"] = against_truth(clip.video[1], clip.camera, _held_still(shaken, known))
        for name, (db, before_db, share) in figures.items():
            rows.append([f"{video.stem}, {name}", f"{db:.2f}", f"{before_db:.2f}", f"{share:.3f}"])
            reached[f"{video.stem}, {name}, dB"] = (db, ">=", _LEAST_DB)
    targets = met_targets(reached)
    table = markdown_table(["video", "held still, dB where seen", "left as it was, dB", "seen"], rows)
    sys.stdout.write(f"{table}\n\n{targets_table(targets)}\n")
    last = {"figures": {n: r["value"] for n, r in targets.items()}, "met": all(r["met"] for r in targets.values())}
    sys.stdout.write(json.dumps(last) + "\n")


def hand_held(frames: int, largest_deg: float) -> PanTiltZoom:
    """Pan and tilt that start at rest, each a sum of slow waves, as large as said."""
    t = torch.arange(frames, dtype=torch.float64) / 30

    def waves(*rates_hz: float) -> Float[Tensor, "T"]:
        turn = sum(torch.sin(2 * math.pi * f * t) / (1 + f) for f in rates_hz)
        return largest_deg * turn / turn.abs().max()

    return PanTiltZoom(waves(0.4, 1.1, 2.9), waves(0.6, 1.4, 3.7), torch.full((frames,), _ZOOM, dtype=torch.float64))


def against_own_pixels(source: Path, folder: Path) -> tuple[float, float, float]:
    """PSNR of the result, and of the source itself, against the source's pixels carried to the result's cameras; and
    the share of pixels that the source sees."""
    record = json.loads((folder / "cameras.json").read_text())
    views = [Camera(torch.tensor(v["c2w"]), torch.tensor(v["K"]), SIZE) for v in record["views"]]
    frames = _read(source)
    carried, seen = zip(*(_carried(f, views[1][t], views[0][t]) for t, f in enumerate(frames)), strict=True)
    return _scores(_read(folder / "video.mp4"), frames, torch.stack(carried), torch.stack(seen))


def against_truth(truth: Float[Tensor, "T 3 H W"], camera: Camera, folder: Path) -> tuple[float, float, float]:
    """The same against a window at rest: camera (2, T) of the shaken one and of that."""
    views = [(camera[1, t], camera[0, t]) for t in range(len(truth))]
    seen = torch.stack([_carried(truth[t], *pair)[1] for t, pair in enumerate(views)])
    shaken = _read(folder.with_suffix(".mp4"))
    return _scores(_read(folder / "video.mp4"), shaken, truth, seen)


def _carried(frame: Float[Tensor, "3 H W"], target: Camera, source: Camera):
    """A frame seen from a camera at the same place, and where it shows that."""
    xy = correspondence(torch.zeros(1, *SIZE), target, source)[0]
    return sample(frame[None], xy, mode="bicubic")[0], inside(xy[0], SIZE, _MARGIN_PX)


def _scores(made: Tensor, before: Tensor, truth: Tensor, seen: Tensor) -> tuple[float, float, float]:
    return psnr(made, truth, seen), psnr(before, truth, seen), float(seen.float().mean())


def _held_still(video: Path, known: Camera | None = None) -> Path:
    """The folder of the result. known: the video's cameras; None: they are measured."""
    source, notes = known, ()
    if known is None:
        measured = measure_source(video, None, DEFAULT_FOV_DEG, PIVOT_M)
        source, notes = measured.camera, measured.notes
    shot = Shot(parse_path("static"), source=source)
    folder = reshoot_file(video, shot.path, out=video.with_suffix(""), shot=shot, overwrite=True).folder
    for note in notes:
        sys.stderr.write(f"steadied: {note}\n")
    return folder


def _written(path: Path, frames: Float[Tensor, "T 3 H W"]) -> Path:
    return write_video(path, frames, 30.0, crf=8)


def _read(path: Path) -> Float[Tensor, "T 3 H W"]:
    footage = open_video(path)
    return from_bytes(footage.read(0, len(footage)))


if __name__ == "__main__":
    sys.exit(main())
