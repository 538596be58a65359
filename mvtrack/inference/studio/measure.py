"""Look at an upload in a process of its own: `python -m mvtrack.inference.studio.measure FOLDER FILE LIMITS [cameras]`.

A file that is no video, or is made to fill the machine, ends this process and not the server. Every finding is a line
of JSON. Geometry comes as one file a frame, every fourth one first, so that a coarse motion is there soon.
"""

import json
import resource
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import torch

from mvtrack.config.tree import from_tree
from mvtrack.files.atomic_io import write_aside
from mvtrack.geometry.camera import Camera
from mvtrack.inference.camera_estimation.source_cameras import measure_source
from mvtrack.inference.full_resolution.frame_depth import FrameDepth
from mvtrack.inference.full_resolution.geometry import LearnedGeometry
from mvtrack.inference.full_resolution.plan import shipped_refiner
from mvtrack.inference.pipeline import DEFAULT_FOV_DEG
from mvtrack.inference.studio.limits import StudioLimits
from mvtrack.models.refiner.files import load_refiner
from mvtrack.video.reader import open_video
from mvtrack.video.resize import fit_to, still_camera
from mvtrack.video.video import Video
from mvtrack.video.writer import VideoWriter

MOST_FRAMES = 240  # that the preview shows; of longer videos every so many-th
INVERSE_STEPS = 8192  # of inverse depth, in 1 / the subject's distance: 65535 of them reach to an eighth of it
_GRID = (128, 256)  # pixels of the geometry's shorter and longer side, at most
_PICTURE = (360, 720)  # of its colours
_PLAYED = (480, 960)  # of the source as the page plays it
_JPEG = [cv2.IMWRITE_JPEG_QUALITY, 88]
_STRIDE = 4
_MEMORY_BYTES = 16 << 30  # of addresses, most of which PyTorch never touches
_PIECE = 8


def main(arguments: list[str]) -> int:
    """Print findings; a reason on the last line where the video cannot be used."""
    folder, file, limits, *what = arguments
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    torch.set_num_threads(1)
    try:
        if what == ["cameras"]:
            _cameras(Path(file))
        else:
            _measure(Path(folder), Path(file), from_tree(StudioLimits, json.loads(limits), "limits"))
    except (ValueError, OSError) as error:
        _say(error=str(error).replace(str(file), "the video").replace("the video file the video", "the video"))
        return 2
    except (MemoryError, RuntimeError, cv2.error) as error:
        _say(error=f"it takes more memory than one video may ({type(error).__name__})")
        return 2
    return 0


def _say(**found) -> None:
    sys.stdout.write(json.dumps(found) + "\n")
    sys.stdout.flush()


def _measure(folder: Path, file: Path, limits: StudioLimits) -> None:
    footage = open_video(file)
    frames, (height, width) = len(footage), footage.size
    if frames > limits.max_frames:
        raise ValueError(
            f"the video has {frames} frames ({frames / footage.fps:.0f} s), up to {limits.max_frames} are taken: cut it"
        )
    if height * width > limits.max_pixels:
        raise ValueError(f"the video is {width}x{height}, up to {limits.max_pixels / 1e6:.1f} megapixels are taken")
    shown = shown_frames(frames)
    grid = within(footage.size, _GRID)
    _say(
        frames=frames, size=list(footage.size), fps=footage.fps, notes=footage.notes, shown=shown, grid=list(grid),
        inverse_steps=INVERSE_STEPS, fov=DEFAULT_FOV_DEG,
    )  # fmt: skip
    (folder / "frames").mkdir(exist_ok=True)
    depth = _depth_reader(footage, grid)
    pictures = open_video(file)  # a decoder of its own: depth's goes on reading small frames
    for number in coarse_first(shown):
        path = folder / "frames" / f"{number}.bin"
        if not path.exists():
            write_aside(path, lambda aside, n=number: aside.write_bytes(_packed(depth(n), pictures, n)))
        _say(measured=number)
    if not (folder / "source.mp4").exists():
        _write_source(folder / "source.mp4", open_video(file))
    _say(source=True)


def _depth_reader(footage: Video, grid: tuple[int, int]):
    """z-depth over the subject's distance of a frame, of the whole picture, as the render's source of depth for single
    frames gives it."""
    fit = fit_to(footage.size, grid, "stretch")
    still = fit.camera(still_camera(DEFAULT_FOV_DEG, footage.size, len(footage)))
    learned = LearnedGeometry(load_refiner(shipped_refiner()).depth, motion_known=False, result=False)
    reader = FrameDepth(learned, footage, Camera.stack([still, still]).to(dtype=torch.float32), 1.0)
    return lambda number: reader.read(number, fit)


def _packed(depth: torch.Tensor, footage: Video, number: int) -> bytes:
    """Inverse depth of a grid as 16-bit steps, row by row, then the picture as JPEG."""
    steps = (INVERSE_STEPS / depth).clamp(0, 65535).round().to(torch.int32).numpy().astype("<u2")
    picture = footage.read(number, number + 1, within(footage.size, _PICTURE))[0].permute(1, 2, 0).numpy()
    _, jpeg = cv2.imencode(".jpg", np.ascontiguousarray(picture[..., ::-1]), _JPEG)
    return steps.tobytes() + jpeg.tobytes()


def _write_source(path: Path, footage: Video) -> None:
    """The source as browsers play it, frame by frame beside a result."""
    height, width = within(footage.size, _PLAYED)
    with VideoWriter(path, footage.fps, crf=20) as writer:
        for start in range(0, len(footage), _PIECE):
            for frame in footage.read(start, min(start + _PIECE, len(footage)), (height, width)):
                writer.append(frame.permute(1, 2, 0).numpy())


def _cameras(file: Path) -> None:
    measured = measure_source(file, None, DEFAULT_FOV_DEG, 1.0)
    _say(cameras=measured.camera is not None, notes=list(measured.notes))


def shown_frames(frames: int) -> list[int]:
    """Numbers of the frames that the preview shows."""
    return list(range(0, frames, -(-frames // MOST_FRAMES)))


def coarse_first(shown: list[int]) -> Iterator[int]:
    """Every fourth, then the others."""
    yield from shown[::_STRIDE]
    yield from (number for i, number in enumerate(shown) if i % _STRIDE)


def within(size: tuple[int, int], most: tuple[int, int]) -> tuple[int, int]:
    """A size (H, W) of the same aspect whose sides are even and at most `most` (shorter, longer); none is enlarged."""
    scale = min(1.0, most[0] / min(size), most[1] / max(size))
    return max(2, round(size[0] * scale / 2) * 2), max(2, round(size[1] * scale / 2) * 2)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
