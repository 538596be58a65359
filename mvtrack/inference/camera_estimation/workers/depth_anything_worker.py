"""Depth Anything 3 on the frames of a video, as a program of its own environment: `python ... FOLDER`.

FOLDER holds job.json and frames/NAME.png; result.npz appears beside them: world-to-camera extrinsics (OpenCV axes) and
intrinsics for pictures of the size that the network saw, and the median depth of the first frame in the same unit.
Imports nothing of the project.
"""

import json
import os
import sys
from pathlib import Path

import numpy as np
import torch
from depth_anything_3.api import DepthAnything3


def main(folder: Path) -> None:
    job = json.loads((folder / "job.json").read_text())
    torch.manual_seed(0)
    device = job["device"] or ("cuda" if torch.cuda.is_available() else "cpu")
    model = DepthAnything3.from_pretrained(job["model"]).to(device).eval()
    found = model.inference(
        [str(path) for path in sorted((folder / "frames").glob("*.png"))],
        use_ray_pose=job["ray_pose"],
        ref_view_strategy=job["reference_view"],
        process_res=job["process_res"],
    )
    if found.extrinsics is None or found.intrinsics is None:
        sys.exit(f"the model {job['model']} gives no cameras: take one of the any-view series, such as DA3-BASE")
    first = np.asarray(found.depth[0], np.float64)
    usable = first[np.isfinite(first) & (first > 0)]
    aside = folder / ".result.npz"
    np.savez(
        aside,
        w2c=np.asarray(found.extrinsics, np.float64)[:, :3],
        K=np.asarray(found.intrinsics, np.float64),
        size=np.array(found.depth.shape[1:]),
        median_depth=np.median(usable) if len(usable) else np.nan,
        is_metric=bool(found.is_metric),
    )
    os.replace(aside, folder / "result.npz")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
