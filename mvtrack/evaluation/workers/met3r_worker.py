"""MEt3R of picture pairs by its authors' code in its own environment: `python met3r_worker.py FOLDER`.

Imports nothing of the project. FOLDER holds job.json ({"pairs": [[first, second, mask or null], ...]}, paths relative
to FOLDER, masks white where the first picture moves). Writes result.npz: whole, dynamic (NaN where no such pixel is
compared) and share, the part of the picture that is compared and moves, one number a pair.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from met3r import MEt3R
from PIL import Image


def main(folder: Path) -> None:
    """One forward a pair, the pictures at their own size."""
    job = json.loads((folder / "job.json").read_text())
    device = "cuda" if torch.cuda.is_available() else "cpu"
    metric = MEt3R(
        img_size=None,
        use_norm=True,
        backbone="mast3r",
        feature_backbone="dino16",
        feature_backbone_weights="mhamilton723/FeatUp",
        upsampler="featup",
        distance="cosine",
        freeze=True,
    ).to(device)
    rows = []
    for first, second, mask in job["pairs"]:
        images = torch.stack([picture(folder / first), picture(folder / second)])[None].to(device)
        with torch.no_grad():
            score, overlap, distance, *_ = metric(
                images=images, return_overlap_mask=True, return_score_map=True, return_projections=False
            )
        overlap, distance = overlap[0].float().cpu().numpy(), distance[0].float().cpu().numpy()
        moving = overlap * (0 if mask is None else np.asarray(Image.open(folder / mask).convert("L"), np.float32) > 127)
        dynamic = float((distance * moving).sum() / moving.sum()) if moving.any() else np.nan
        rows.append((float(score.mean()) if overlap.any() else np.nan, dynamic, float(moving.mean())))
    names = ("whole", "dynamic", "share")
    np.savez(folder / "result.npz", **dict(zip(names, np.array(rows, np.float64).reshape(-1, 3).T, strict=True)))


def picture(path: Path) -> torch.Tensor:
    """RGB (3, h, w) in [-1, 1]."""
    with Image.open(path) as image:
        return torch.from_numpy(np.asarray(image.convert("RGB"), np.float32) / 127.5 - 1).permute(2, 0, 1)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
