"""VGGT's point maps of scenes, as a program of its own environment: `python ... FOLDER`.

FOLDER holds job.json and NUMBER/frames/NAME.png of every scene; NUMBER/points.npy (V, 3, H, W) appears beside them, all
views in the first one's frame, in VGGT's unit, NaN where its confidence is the lowest. Pictures are resized to 518 x
518, whatever their aspect, as CAMEO does. Imports nothing of the project.
"""

import json
import os
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from vggt.models.vggt import VGGT

SIDE = 518


def main(folder: Path) -> None:
    job = json.loads((folder / "job.json").read_text())
    device = job["device"] or ("cuda" if torch.cuda.is_available() else "cpu")
    network = VGGT.from_pretrained(job["model"]).to(device).eval()
    for scene in sorted(path for path in folder.iterdir() if path.is_dir()):
        pictures = np.stack([picture(path) for path in sorted((scene / "frames").glob("*.png"))])
        with torch.no_grad():
            found = network(torch.from_numpy(pictures).permute(0, 3, 1, 2).to(device))
        points, confidence = (found[name][0].float().cpu().numpy() for name in ("world_points", "world_points_conf"))
        points[confidence <= 1 + 1e-6] = np.nan  # its confidence is 1 + an exponential
        aside = scene / ".points.npy"
        np.save(aside, points.transpose(0, 3, 1, 2))
        os.replace(aside, scene / "points.npy")


def picture(path: Path) -> np.ndarray:
    """RGB (518, 518, 3) in [0, 1]."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR), np.float32) / 255


if __name__ == "__main__":
    main(Path(sys.argv[1]))
