"""`python eval/correspondence.py --model FOLDER --out FOLDER`: which layers match points, at which noise level.

Renders clips with exact tracks, noises them to every level of a sampling run and probes each layer's attention. Writes
attention.json, attention.md, heat_maps.png and curves.png, and names the layer to tap.
"""

import argparse
import json
import sys
import time
from dataclasses import asdict
from importlib import metadata
from pathlib import Path

from tqdm import tqdm

from mvtrack.backbone.model import load_model
from mvtrack.command import run_command
from mvtrack.data.test_scenes import case_specs, render_case
from mvtrack.evaluation.attention import AnalysisConfig, analyse
from mvtrack.evaluation.attention_report import as_record, summary, write_curves, write_heat_maps
from mvtrack.reshooting import sha256, shipped_model


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=str(shipped_model()), help="default: the shipped tiny model")
    parser.add_argument("--out", default="outputs/correspondence", help="folder for the tables and pictures")
    parser.add_argument("--clips", type=int, default=16, help="rendered clips of the model's own size and length")
    parser.add_argument("--steps", type=int, default=10, help="noise levels")
    parser.add_argument("--queries", type=int, default=256, help="track points drawn per clip")
    parser.add_argument("--threshold-px", type=float, help="how near is right; default: one token")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--debug", action="store_true", help="show a traceback when something fails")
    options = parser.parse_args()
    return run_command(lambda: _run(options), "correspondence", options.debug)


def _run(options: argparse.Namespace) -> None:
    if options.clips < 1:
        raise ValueError(f"--clips must be at least 1, got {options.clips}")
    began, model = time.monotonic(), load_model(options.model)
    config = AnalysisConfig(options.steps, options.queries, options.threshold_px, options.seed)
    size, num_frames = model.config.sizes[0], model.config.num_frames
    specs = case_specs(options.clips, 0, size, num_frames)
    clips = [render_case(spec, num_points=options.queries).clip for spec in tqdm(specs, desc="rendering", unit="clip")]
    with tqdm(total=options.clips * options.steps, desc="probing", unit="forward") as bar:
        analysis = analyse(model, clips, config, bar.update)
    record = {
        "mvtrack": metadata.version("mvtrack"),
        "model": {"folder": options.model, "sha256": sha256(Path(options.model) / "model.safetensors")},
        "config": asdict(config),
        "clips": len(clips),
        **as_record(analysis),
        "tapped_now": model.config.tap_layer,
        "seconds": round(time.monotonic() - began, 1),
    }
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    (out / "attention.json").write_text(json.dumps(record, indent=1))
    (out / "attention.md").write_text(summary(analysis) + "\n")
    write_heat_maps(out / "heat_maps.png", analysis)
    write_curves(out / "curves.png", analysis)
    sys.stdout.write(summary(analysis) + f"\nThe model is tapped at layer {model.config.tap_layer}. Wrote {out}.\n")


if __name__ == "__main__":
    sys.exit(main())
