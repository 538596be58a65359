"""`mvtrack train-decoder --model FOLDER --out FOLDER`: an aligning decoder for a model (docs/decoder.md)."""

import argparse
import sys
from dataclasses import fields
from pathlib import Path

from mvtrack.config.errors import run_command

_BANK_SEED = 90_000  # scenes of its own


def main(arguments: list[str] | None = None) -> int:
    """Parse, render, train; prints where the decoder is."""
    parser = argparse.ArgumentParser(
        prog="mvtrack train-decoder", description="Train a decoder that aligns views to the pixel, on rendered scenes."
    )
    parser.add_argument("--model", help="whose codec and latents; default: the tiny model that ships")
    parser.add_argument("--out", type=Path, required=True, help="folder for decoder.safetensors and decoder.json")
    parser.add_argument("--bank", type=Path, help="folder for the rendered scenes; default: beside --out")
    parser.add_argument("--scenes", type=int, help="rendered ones, taken again and again")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--frames", type=int, help="of a clip in one step")
    parser.add_argument("--lr", type=float, help="the paper fine-tunes a released decoder with 1e-5")
    parser.add_argument("--depth-noise", type=float, help="times the paper's amplitudes; 0: exact depth")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--alone", action="store_true", help="no view sees another: what to compare with")
    parser.add_argument("--debug", action="store_true", help="show a traceback when something fails")
    options = parser.parse_args(arguments)
    return run_command(lambda: _train(options), parser.prog, options.debug)


def _train(options: argparse.Namespace) -> None:
    from mvtrack.data.synthetic.bank import Bank, BankRecipe
    from mvtrack.inference.pipeline import shipped_model
    from mvtrack.models.decoder.files import FILE
    from mvtrack.models.reshoot_model import load_model
    from mvtrack.training.aligner import AlignerRun, train_aligner

    if (options.out / FILE).exists():
        raise ValueError(f"{options.out / FILE} exists already: choose another folder")
    model = load_model(options.model or shipped_model())
    if options.alone and model.config.codec.kind != "pca":
        raise ValueError("--alone is for the tiny models' decoder: without attention Wan's is the VAE itself")
    given = {f.name: getattr(options, f.name, None) for f in fields(AlignerRun)}
    given["settings"] = {"points": []} if options.alone else None
    run = AlignerRun(**{name: value for name, value in given.items() if value is not None})
    recipe = BankRecipe(model.config.sizes[0], model.config.num_frames, num_points=1, seed=_BANK_SEED + run.seed)
    bank = Bank(options.bank or options.out.with_name(options.out.name + "_scenes"), recipe)
    bank.build(range(run.scenes))
    options.out.mkdir(parents=True, exist_ok=True)
    train_aligner(model, bank, options.out, run)
    sys.stdout.write(f"{options.out / FILE}\n")


if __name__ == "__main__":
    sys.exit(main())
