"""`python eval/decoder.py --decoder FOLDER [--model FOLDER]`: what an aligning decoder makes of a model's results.

Re-shoots rendered cases of the pinned set, decodes each result in several ways and compares it with the truth: by the
codec alone; aligned with depth estimated from both views, with the reference's true depth carried over, with the true
depth of the target; with that, but another case's pictures in the reference's place (what the other view is worth); and
the true target's latents, for how good the decoder can get. Writes decoder.json and decoder.md.
"""

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from mvtrack.config.errors import run_command
from mvtrack.data.synthetic.test_scenes import render_case
from mvtrack.data.visualize.panels import side_by_side
from mvtrack.evaluation.decoder import WAYS, decode_case, numbers_of
from mvtrack.evaluation.manifest import load_manifest
from mvtrack.evaluation.tables import figures_table, mean_interval
from mvtrack.inference.pipeline import shipped_model
from mvtrack.inference.sampler import SamplerOptions
from mvtrack.models.decoder.files import load_aligner
from mvtrack.models.reshoot_model import load_model

SHOWN = {"codec alone": "codec", "aligned, depth estimated": "estimated", "aligned, source's depth": "carried"}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--decoder", required=True, help="folder with decoder.safetensors")
    parser.add_argument("--model", default=str(shipped_model()), help="default: the tiny model that ships")
    parser.add_argument("--cases", type=int, help="only the first so many of the pinned cases")
    parser.add_argument(
        "--pictures", type=int, default=0, metavar="N", help="also draw the last frames of N cases: decoder.png"
    )
    parser.add_argument("--out", type=Path, default=Path("outputs/decoder"))
    parser.add_argument("--debug", action="store_true", help="show a traceback when something fails")
    options = parser.parse_args()
    return run_command(lambda: _run(options), "decoder", options.debug)


def _run(options: argparse.Namespace) -> None:
    model = load_model(options.model)
    aligner = load_aligner(options.decoder, model.config.codec)
    specs, sample = load_manifest().rendered[: options.cases], SamplerOptions.of(model.config)
    if len(specs) < 2:
        raise ValueError(f"--cases must be at least 2 (a case is also put beside another one's), got {options.cases}")
    rendered = [render_case(spec).clip for spec in tqdm(specs, desc="rendering", unit="clip")]
    clips = [clip for clip in rendered if (clip.depth > 0).all()]
    if len(clips) < len(rendered):
        left_out = len(rendered) - len(clips)
        sys.stderr.write(
            f"decoder: {left_out} of {len(rendered)} cases are left out: a camera stands below the ground\n"
        )
    options.out.mkdir(parents=True, exist_ok=True)
    rows, pictures = [], []
    for i, clip in enumerate(tqdm(clips, desc="decoding", unit="clip")):
        videos = decode_case(model, aligner, clip, clips[i - 1].video[0], replace(sample, seed=i))
        rows.append(numbers_of(clip, videos))
        if i < options.pictures:
            shown = {name: videos[way] for name, way in SHOWN.items()}
            shown = {"reference": clip.video[0], **shown, "truth": clip.video[1]}
            pictures.append(next(side_by_side({name: video[-1:] for name, video in shown.items()})))
    summary = {way: {k: mean_interval([r[way][k] for r in rows]) for k in rows[0][way]} for way in rows[0]}
    record = {"model": options.model, "decoder": options.decoder, "cases": len(rows), "summary": summary, "rows": rows}
    (options.out / "decoder.json").write_text(json.dumps(record, indent=1))
    if pictures:
        cv2.imwrite(str(options.out / "decoder.png"), np.concatenate(pictures)[..., ::-1])
    table = _table(summary)
    (options.out / "decoder.md").write_text(table + "\n")
    sys.stdout.write(table + "\n")


def _table(summary: dict) -> str:
    return figures_table({WAYS[way]: scores for way, scores in summary.items()})


if __name__ == "__main__":
    sys.exit(main())
