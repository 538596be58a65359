"""`python eval/decoder.py --decoder FOLDER`: what an aligning decoder makes of a model's results."""

import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from mvtrack.config.checked import NonNegativeInt, config
from mvtrack.config.command_line import Command, option, overrides, run
from mvtrack.data.synthetic.test_scenes import render_case
from mvtrack.data.visualize.panels import side_by_side
from mvtrack.evaluation.decoder import WAYS, decode_case, numbers_of
from mvtrack.evaluation.manifest import load_manifest
from mvtrack.evaluation.settings import load_settings
from mvtrack.evaluation.tables import figures_table, mean_interval, write_results
from mvtrack.inference.pipeline import shipped_model
from mvtrack.inference.sampler import SamplerOptions
from mvtrack.inference.view_matching import matcher_title, missing_matcher
from mvtrack.models.decoder.files import load_aligner
from mvtrack.models.reshoot_model import load_model

SHOWN = {"codec alone": "codec", "aligned, depth estimated": "estimated", "aligned, source's depth": "carried"}


@config(kw_only=True)
class DecoderCommand(Command):
    """What an aligning decoder makes of a model's results on rendered cases of the pinned set, beside the truth: by the
    codec alone; aligned with depth estimated from both views, with the reference's true depth carried over, with the
    true depth of the target; with that, but another case's pictures in the reference's place (what the other view is
    worth); and the true target's latents, for how good the decoder can get. Writes decoder.json and decoder.md."""

    decoder: Path = option(..., "folder with decoder.safetensors", metavar="FOLDER")
    model: Path = option(shipped_model(), "default: the tiny model that ships", metavar="FOLDER")
    cases: int | None = option(None, "only the first so many of the pinned cases", metavar="N")
    pictures: NonNegativeInt = option(0, "also draw the last frames of N cases: decoder.png", metavar="N")
    out: Path = option(Path("outputs/decoder"), "folder for the results", metavar="FOLDER")
    settings: Path | None = option(None, "YAML with a section matching, the matcher (docs/decoder.md)", metavar="FILE")
    changes: tuple[str, ...] = overrides("change single settings, such as matching.matcher=loftr")


def main() -> int:
    return run(DecoderCommand, _run, None, "decoder")


def _run(options: DecoderCommand) -> None:
    matching = load_settings(options.settings, options.changes).matching
    if lacking := missing_matcher(matching):
        raise ValueError(f"views cannot be matched: missing {lacking}")
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
    rows, pictures = [], []
    for i, clip in enumerate(tqdm(clips, desc="decoding", unit="clip")):
        videos = decode_case(model, aligner, clip, clips[i - 1].video[0], replace(sample, seed=i))
        rows.append(numbers_of(clip, videos, matching))
        if i < options.pictures:
            shown = {name: videos[way] for name, way in SHOWN.items()}
            shown = {"reference": clip.video[0], **shown, "truth": clip.video[1]}
            pictures.append(next(side_by_side({name: video[-1:] for name, video in shown.items()})))
    summary = {way: {k: mean_interval([r[way][k] for r in rows]) for k in rows[0][way]} for way in rows[0]}
    made_by = {"model": str(options.model), "decoder": str(options.decoder), "matcher": matcher_title(matching)}
    table = figures_table({WAYS[way]: scores for way, scores in summary.items()})
    table += f"\n\nMatches by {matcher_title(matching)}."
    write_results(options.out, "decoder", made_by | {"cases": len(rows), "summary": summary, "rows": rows}, table)
    if pictures:
        cv2.imwrite(str(options.out / "decoder.png"), np.concatenate(pictures)[..., ::-1])
    sys.stdout.write(table + "\n")


if __name__ == "__main__":
    sys.exit(main())
