"""CoTracker3 on videos from given points, as a program of its own environment: `python cotracker_worker.py FOLDER`.

FOLDER holds job.json (weights, device), a folder of frames of each view (0/frames/00000.png ...) and queries.npz, whose
arrays NAME_VIEW (n, 3) are frame, x, y with integers at pixels' centres. result.npz appears beside them: NAME_VIEW_xy
(T, n, 2) and NAME_VIEW_visible (T, n), forward and backward from the queries. Imports nothing of the project.
"""

import json
import os
import sys
from pathlib import Path

import cv2
import numpy as np
import torch
from cotracker.predictor import CoTrackerPredictor


def main(folder: Path) -> None:
    job = json.loads((folder / "job.json").read_text())
    device = job["device"] or ("cuda" if torch.cuda.is_available() else "cpu")
    model = CoTrackerPredictor(checkpoint=job["weights"], offline=True, window_len=60).to(device)
    with np.load(folder / "queries.npz") as file:
        queries = dict(file)
    results = {}
    for view in sorted({name.rsplit("_", 1)[1] for name in queries}):
        paths = sorted((folder / view / "frames").glob("*.png"))
        frames = np.stack([cv2.imread(str(path))[..., ::-1] for path in paths])
        video = torch.from_numpy(frames).permute(0, 3, 1, 2)[None].float().to(device)
        for name in (name for name in queries if name.endswith(f"_{view}")):
            points = torch.from_numpy(queries[name])
            if len(points) == 0:
                results[f"{name}_xy"] = np.zeros((len(frames), 0, 2), np.float32)
                results[f"{name}_visible"] = np.zeros((len(frames), 0), bool)
                continue
            xy, visible = model(video, queries=points[None].to(device), backward_tracking=True)
            results[f"{name}_xy"] = xy[0].float().cpu().numpy()
            results[f"{name}_visible"] = visible[0].cpu().numpy().astype(bool)
    aside = folder / ".result.npz"
    np.savez(aside, **results)
    os.replace(aside, folder / "result.npz")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
