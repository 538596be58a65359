"""Matches of picture pairs by LoFTR or AspanFormer in an environment of their own: `python matcher_worker.py FOLDER`.

Imports nothing of the project. FOLDER holds job.json ({"kind", "weights", "repo", "threshold", "side", "pairs":
[[first, second], ...]}, pictures relative to FOLDER). Writes result.npz: count, how many matches each pair has, and of
all of them first, second (N, 2), places (x, y) in raster pixels of the pictures as they are (the centre of the first
pixel is at 0.5, 0.5), and confidence (N,).
"""

import copy
import json
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

MULTIPLE = {"loftr": 8, "aspanformer": 32}  # of the sides that the network takes


def main(folder: Path) -> None:
    """Load the network once, then go through the pairs."""
    job = json.loads((folder / "job.json").read_text())
    device = "cuda" if torch.cuda.is_available() else "cpu"
    match = {"loftr": loftr, "aspanformer": aspanformer}[job["kind"]](job, device)
    rows = []
    for pair in job["pairs"]:
        (one, scale), (other, other_scale) = (
            picture(folder / path, job["side"], MULTIPLE[job["kind"]]) for path in pair
        )
        with torch.no_grad():
            first, second, confidence = (x.float().cpu().numpy() for x in match(one.to(device), other.to(device)))
        rows.append((first * scale, second * other_scale, confidence))
    first, second, confidence = zip(*rows, strict=True)
    np.savez(
        folder / "result.npz",
        count=np.array([len(x) for x in first]),
        first=np.concatenate(first),
        second=np.concatenate(second),
        confidence=np.concatenate(confidence),
    )


def loftr(job: dict, device: str):
    """kornia's. What it returns is in raster pixels already, by its own description of the released weights."""
    from kornia.feature import LoFTR
    from kornia.feature.loftr.loftr import default_cfg

    config = copy.deepcopy(default_cfg)
    config["match_coarse"]["thr"] = job["threshold"]
    config["coarse"]["temp_bug_fix"] = Path(job["weights"]).stem == "loftr_indoor_ds_new"  # trained after the fix
    network = LoFTR(pretrained=None, config=config)
    network.load_state_dict(state_of(job["weights"]))
    network = network.to(device).eval()

    def match(one: torch.Tensor, other: torch.Tensor):
        found = network({"image0": one, "image1": other})
        return found["keypoints0"], found["keypoints1"], found["confidence"]

    return match


def aspanformer(job: dict, device: str):
    """Its authors', with the settings of the test that its weights are for, indoor or outdoor by the file's name."""
    sys.path.insert(0, job["repo"])
    from src.ASpanFormer.aspanformer import ASpanFormer
    from src.config.default import get_cfg_defaults

    place = "indoor" if "indoor" in Path(job["weights"]).name else "outdoor"
    config = get_cfg_defaults()
    config.merge_from_file(str(Path(job["repo"]) / f"configs/aspan/{place}/aspan_test.py"))
    config.ASPAN.MATCH_COARSE.THR = job["threshold"]
    network = ASpanFormer(config=in_small_letters(config.ASPAN))
    state = {name: x for name, x in state_of(job["weights"]).items() if "sample_offset" not in name}  # made anew
    lacking = [
        name for name in network.load_state_dict(state, strict=False).missing_keys if "sample_offset" not in name
    ]
    if lacking:
        raise ValueError(f"{job['weights']} lacks {', '.join(lacking[:3])} of AspanFormer ({place})")
    network = network.to(device).eval()
    if device == "cpu":
        torch.Tensor.cuda = lambda self, *_, **__: self  # its code puts small tables on a GPU

    def match(one: torch.Tensor, other: torch.Tensor):
        found = {"image0": one, "image1": other}
        network(found, online_resize=True)
        return found["mkpts0_f"], found["mkpts1_f"], found["mconf"]

    return match


def state_of(path: str) -> dict:
    """Weights of a file, without the trainer's prefix."""
    state = torch.load(path, map_location="cpu", weights_only=True)
    return {name.removeprefix("matcher."): x for name, x in state.get("state_dict", state).items()}


def in_small_letters(config):
    """Settings with the keys that the network looks for."""
    return {k.lower(): in_small_letters(x) for k, x in config.items()} if isinstance(config, dict) else config


def picture(path: Path, side: int, multiple: int):
    """Grey (1, 1, h, w) in [0, 1], scaled (never cropped) to about `side`, and what x and y are multiplied with for
    the picture's own pixels."""
    with Image.open(path) as image:
        factor = side / max(image.size)
        size = [max(1, round(length * factor / multiple)) * multiple for length in image.size]
        grey = np.asarray(image.convert("L").resize(size, Image.Resampling.BICUBIC), np.float32) / 255
        scale = np.divide(image.size, size)
    return torch.from_numpy(grey)[None, None], scale


if __name__ == "__main__":
    main(Path(sys.argv[1]))
