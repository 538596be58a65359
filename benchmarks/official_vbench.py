"""The official VBench, in an environment of its own, against this project's own numbers of the same scores.

`python benchmarks/official_vbench.py --vbench-python PYTHON VIDEO ...`: flickering of each video as it is (the two
decode it with the OpenCV that each has), and of its frames kept without loss, as the evaluation keeps what it
generates. With `--dino CLONE` (of facebookresearch/dino) also the three scores that rest on networks, of the first
frames, with networks of the right make and random weights: equal numbers mean equal code, not good numbers. How to
install VBench: docs/evaluation.md.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from bench import report

from mvtrack.data.clip import resize_frames
from mvtrack.evaluation.interface import Inputs, Sample
from mvtrack.evaluation.measures.vbench import DIMENSIONS, DINO_REPOSITORY, NATIVE, VBenchNative, VBenchPackage
from mvtrack.geometry.camera import Camera
from mvtrack.video.reader import open_video
from mvtrack.video.resize import still_camera
from mvtrack.video.writer import from_bytes, write_video

FLICKERING = "temporal_flickering"
SHORT, SMALL = 5, (270, 480)
# Run in VBench's environment: weights that its own network classes draw, under the names that it looks for.
RANDOM_WEIGHTS = """
import sys, torch
library = torch.library.Library("torchvision", "DEF")
for name in ("nms", "qnms"):
    library.define(name + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
from clip.model import CLIP
from pathlib import Path
folder = Path(sys.argv[1])
torch.manual_seed(0)
for file, width, layers, patch, out in (("ViT-B-32.pt", 768, 12, 32, 512), ("ViT-L-14.pt", 1024, 24, 14, 768)):
    model = CLIP(out, 224, layers, width, patch, 8, 10, 64, 1, 1).half().float().eval()  # half, as they were published
    example = torch.zeros(1, 3, 224, 224), torch.zeros(1, 8, dtype=torch.long)
    torch.jit.save(torch.jit.trace(model, example, check_trace=False), folder / "clip_model" / file)
dino = torch.hub.load(sys.argv[2], "dino_vitb16", source="local", pretrained=False)
torch.save(dino.state_dict(), folder / "dino_model/dino_vitbase16_pretrain.pth")
head = torch.nn.Linear(768, 1)
torch.save(head.state_dict(), folder / "aesthetic_model/emb_reader/sa_0_4_vit_l_14_linear.pth")
"""


def sample_of(path: Path, video: torch.Tensor) -> Sample:
    camera = still_camera(50.0, tuple(video.shape[-2:]), len(video))
    return Sample(Inputs(path.stem, video, Camera.stack([camera, camera])), video, path)


def flickering(python: Path, videos: list[Path], folder: Path) -> dict[str, float]:
    given, kept = [], []
    for path in videos:
        footage = open_video(path)
        video = from_bytes(footage.read(0, len(footage)))
        given.append(sample_of(path, video))
        kept.append(sample_of(write_video(folder / f"{path.stem}.mp4", video, 24.0, lossless=True), video))
    began = time.perf_counter()
    theirs = VBenchPackage(FLICKERING, python).score_batch(given + kept)
    seconds = time.perf_counter() - began
    found = compared(FLICKERING, given + kept, theirs, VBenchNative(FLICKERING))
    return {
        "flickering, videos as they are": max(found[: len(given)]),
        "flickering, kept without loss": max(found[len(given) :]),
        "seconds of VBench's flickering": seconds,
    }


def compared(dimension: str, samples: list[Sample], theirs: list, native: VBenchNative) -> list[float]:
    """Print both numbers of each video; returns how far they are apart."""
    differences = []
    for sample, official in zip(samples, theirs, strict=True):
        a, b = official[dimension], native.score(sample)[dimension]
        sys.stdout.write(f"{dimension}, {sample.file.name}: VBench {a:.9f}, mvtrack {b:.9f}\n")
        differences.append(abs(a - b))
    return differences


def with_random_weights(python: Path, dino: Path, video: Path, folder: Path) -> dict[str, float]:
    cache = folder / "cache"
    for part in ("clip_model", "dino_model", "aesthetic_model/emb_reader"):
        (cache / part).mkdir(parents=True)
    (cache / DINO_REPOSITORY).symlink_to(dino.resolve())
    subprocess.run([str(python), "-c", RANDOM_WEIGHTS, str(cache), str(dino)], check=True, capture_output=True)
    os.environ["VBENCH_CACHE_DIR"] = str(cache)
    weights = folder / "weights"
    weights.mkdir()
    for file in cache.rglob("*.pt*"):
        (weights / file.name).symlink_to(file)
    frames = resize_frames(from_bytes(open_video(video).read(0, SHORT)), SMALL)
    path = write_video(folder / "short.mp4", frames, 24.0, lossless=True)
    sample = sample_of(path, from_bytes(open_video(path).read(0, SHORT)))
    figures = {}
    for dimension in (d for d in NATIVE if DIMENSIONS[d].weights):
        theirs = VBenchPackage(dimension, python).score_batch([sample])
        figures[dimension] = compared(dimension, [sample], theirs, VBenchNative(dimension, weights))[0]
    return figures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vbench-python", type=Path, required=True)
    parser.add_argument("--dino", type=Path, help="clone of facebookresearch/dino: compare with random weights too")
    parser.add_argument("videos", type=Path, nargs="+")
    options = parser.parse_args()
    lacking = VBenchPackage(FLICKERING, options.vbench_python).missing()
    if lacking:
        sys.exit(f"missing {lacking}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        figures = flickering(options.vbench_python, options.videos, folder)
        targets = {"flickering, videos as they are": ("<=", 1e-3), "flickering, kept without loss": ("<=", 1e-6)}
        if options.dino:
            found = with_random_weights(options.vbench_python, options.dino, options.videos[0], folder)
            figures |= found
            targets |= dict.fromkeys(found, ("<=", 1e-4))
    return report(figures, targets)


if __name__ == "__main__":
    sys.exit(main())
