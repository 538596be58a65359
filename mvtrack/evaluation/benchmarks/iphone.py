"""The iPhone benchmark (dycheck, Gao et al. 2022): one moving camera, and still ones that show the true target view.

Layout of a sequence: rgb/<k>x/<camera>_<frame>.png (RGBA), camera/<camera>_<frame>.json, splits/{train,val}.json,
depth/1x/<frame>.npy of the training camera, covisible/2x/val/<frame>.png, extra.json. The splits say at which time
each frame was taken; bad frames of the still cameras are missing, so reference and target are joined on time.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mvtrack.config.sizes import FitMode
from mvtrack.data.public.files import read_depth, read_index_image
from mvtrack.data.public.iphone import Frame, camera_file, extra, picture_file, read_camera, split_frames
from mvtrack.evaluation.benchmarks.pictures import BenchmarkOnDisk, fit_masks
from mvtrack.evaluation.interface import Inputs
from mvtrack.evaluation.report.columns import CAMERA
from mvtrack.evaluation.runner.records import hash_of_files
from mvtrack.geometry.camera import Camera
from mvtrack.video.resize import Fit

SEQUENCES = ("apple", "block", "paper-windmill", "space-out", "spin", "teddy", "wheel")  # those with still cameras
# What a still camera may stray from its first frame, by rounding or by being measured anew each time: under a pixel in
# pictures 1000 pixels wide. Released files do not at all: the 419 of paper-windmill's two still cameras are two poses.
_STILL_TURN = 1e-3  # of the entries of a rotation: 0.06 degrees
_STILL_STEP = 1e-3  # of the largest distance to the reference's cameras, which is about that to the scene


@dataclass(frozen=True)
class IPhone(BenchmarkOnDisk):
    """root: holds a folder a sequence. size, fit: of every picture. num_frames, start, stride: which times are used.

    A case is a sequence and one of its still cameras. Amounts are in the sequence's own unit.
    """

    root: Path
    sequences: tuple[str, ...] = SEQUENCES
    size: tuple[int, int] = (480, 832)
    num_frames: int = 81
    start: int = 0
    stride: int = 1
    fit: FitMode = "crop"
    name = "iphone"
    title = "iPhone"
    camera_origin = "reference"  # the targets stand still beside the reference
    paper_columns = {
        "Visual quality": ("psnr", "ssim", "lpips"),
        "Geometric consistency": ("met3r",),
        "Camera accuracy": CAMERA,
    }

    def __post_init__(self) -> None:
        if self.num_frames < 1 or self.start < 0 or self.stride < 1:
            raise ValueError(
                f"num_frames and stride must be at least 1 and start at least 0, got {self.num_frames}, {self.stride} "
                f"and {self.start}"
            )

    @property
    def settings(self) -> dict:
        return {
            "version": 1, "size": list(self.size), "num_frames": self.num_frames, "start": self.start,
            "stride": self.stride, "fit": self.fit,
        }  # fmt: skip

    @property
    def footnotes(self) -> tuple[str, ...]:
        return (
            f"{len(self.case_keys())} pairs of a sequence ({', '.join(self.sequences)}) and a still camera; the paper "
            "does not say which it used, nor how portrait frames meet its landscape model.",
            f"{self.num_frames} times of each, from {self.start} in steps of {self.stride}; a frame is scored where "
            "the still camera has a good picture of that time.",
            f"Pictures, cameras, masks and depth {self.fitted}.",
        )

    @cached_property
    def _cases(self) -> dict[str, tuple[str, int | None]]:
        """Sequence and still camera; a sequence that cannot be read is one case without a camera, which fails."""
        cases, troubles = {}, []
        for sequence in self.sequences:
            try:
                cameras = _still_cameras(self.root / sequence)
            except ValueError as error:
                troubles.append(error)
                cases[sequence] = (sequence, None)
            else:
                cases |= {f"{sequence}--camera{camera}": (sequence, camera) for camera in cameras}
        if troubles and len(troubles) == len(self.sequences):
            raise troubles[0]
        return cases

    def case_keys(self) -> list[str]:
        return list(self._cases)

    def digest(self, key: str) -> str:
        folder, reference, targets = self._frames(key)
        frames = [*reference, *targets.values()]
        files = [picture_file(folder, f) for f in frames] + [camera_file(folder, f) for f in frames]
        there = [p for p in (*self._depth_files(folder, reference), *_masks(folder, targets)) if p.is_file()]
        names = [p.name for p in (*files, *there)]
        return hash_of_files([*files, *there], [key, self.settings, names, [f.time for f in frames]])

    def load(self, key: str) -> Inputs:
        folder, reference, targets = self._frames(key)
        video, fit = self.frames([picture_file(folder, f) for f in reference])
        at = {frame.time: i for i, frame in enumerate(reference)}
        target, _ = self.frames([picture_file(folder, f) for f in targets.values()])
        problems: dict[str, str] = {}
        depth = _or_problem(problems, "depth", lambda: self._depth(folder, reference, fit))
        seen = _or_problem(problems, "covisible", lambda: self._covisible(folder, targets))
        known = None if depth is None else depth[0][depth[0] > 0]
        inputs = Inputs(
            key,
            video,
            self._cameras(folder, reference, targets, fit),
            fps=extra(folder).get("fps", 30.0),
            source_camera_known=True,
            subject_distance=float(known.median()) if known is not None and len(known) else None,
            target=target,
            target_frames=tuple(at[time] for time in targets),
            covisible=seen,
            problems=problems,
        )
        return replace(inputs, depth=depth)

    # Which frames

    def _frames(self, key: str) -> tuple[Path, list[Frame], dict[int, Frame]]:
        """Folder, reference frames, and target frames by time where the still camera has one."""
        sequence, camera = self._cases[key]
        folder = self.root / sequence
        if camera is None:
            _still_cameras(folder)
            raise ValueError(f"{folder} could not be read when the cases were listed")
        train = {f.time: f for f in split_frames(folder, "train")}
        times = sorted(train)[self.start :: self.stride][: self.num_frames]
        if len(times) < self.num_frames:
            raise ValueError(
                f"{folder} has {len(train)} training frames: {self.num_frames} from {self.start} in steps of "
                f"{self.stride} do not fit; pass --num-frames {len(times)} or smaller steps"
            )
        still = {f.time: f for f in split_frames(folder, "val") if f.camera == camera}
        targets = {t: still[t] for t in times if t in still}
        if not targets:
            raise ValueError(f"{folder}: camera {camera} has no frame at the {len(times)} times of the reference")
        return folder, [train[t] for t in times], targets

    # Contents

    def _cameras(self, folder: Path, reference: list[Frame], targets: dict[int, Frame], fit: Fit) -> Camera:
        """(2, T): the moving camera, and the still one at every time."""
        moving = [read_camera(folder, f) for f in reference]
        still = [read_camera(folder, f) for f in targets.values()]
        away = max(float((camera.c2w - still[0].c2w)[:3, 3].norm()) for camera in moving)
        for frame, camera in zip(targets.values(), still, strict=True):
            strayed = camera.c2w - still[0].c2w
            turn, step = float(strayed[:3, :3].abs().max()), float(strayed[:3, 3].norm())
            if turn > _STILL_TURN or step > _STILL_STEP * away:
                raise ValueError(
                    f"{folder}: camera {frame.camera} is not still: {frame.name} stands {step:.3g} beside the first "
                    f"frame's place and its rotation differs by {turn:.3g}; at most {_STILL_STEP * away:.3g} and "
                    f"{_STILL_TURN:g} are taken as rounding"
                )
        views = Camera.stack([Camera.stack(moving), Camera.stack([still[0]] * len(moving))])
        return fit.camera(views.resized(fit.source)).to(dtype=torch.float32)

    def _depth_files(self, folder: Path, reference: list[Frame]) -> list[Path]:
        return [folder / "depth/1x" / f"{f.name}.npy" for f in reference]

    def _depth(self, folder: Path, reference: list[Frame], fit: Fit) -> Float[Tensor, "T H W"] | None:
        files = self._depth_files(folder, reference)
        if not (folder / "depth").is_dir():
            return None
        depth = torch.stack([read_depth(path) for path in files])
        if tuple(depth.shape[1:]) != fit.source:
            raise ValueError(f"{files[0]} is {tuple(depth.shape[1:])}, the pictures are {fit.source}")
        return fit.nearest(depth)

    def _covisible(self, folder: Path, targets: dict[int, Frame]) -> Bool[Tensor, "F H W"] | None:
        if not (folder / "covisible").is_dir():
            return None
        masks = np.stack([read_index_image(path) for path in _masks(folder, targets)])
        return fit_masks(masks > 127, self.size, self.fit)


def _or_problem(problems: dict[str, str], need: str, read):
    """What `read` gives; None, with the reason kept under the need's name, where a file is bad."""
    try:
        return read()
    except ValueError as error:
        problems[need] = str(error)
        return None


def _masks(folder: Path, targets: dict[int, Frame]) -> list[Path]:
    return [folder / "covisible/2x/val" / f"{f.name}.png" for f in targets.values()]


def _still_cameras(folder: Path) -> list[int]:
    cameras = sorted({f.camera for f in split_frames(folder, "val")})
    if not cameras:
        raise ValueError(f"{folder} has no still cameras: splits/val.json is empty; leave this sequence out")
    return cameras
