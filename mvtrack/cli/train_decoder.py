"""`mvtrack train-decoder --model FOLDER --out FOLDER`: an aligning decoder for a model (docs/decoder.md)."""

import sys
from dataclasses import fields
from pathlib import Path

from mvtrack.config.checked import Count, NonNegative, Positive, config
from mvtrack.config.command_line import Command, option, run

_BANK_SEED = 90_000  # scenes of its own


@config(kw_only=True)
class TrainDecoderCommand(Command):
    """Train a decoder that aligns views to the pixel, on rendered scenes."""

    model: str | None = option(None, "whose codec and latents; default: the tiny model that ships")
    out: Path = option(..., "folder for decoder.safetensors and decoder.json")
    bank: Path | None = option(None, "folder for the rendered scenes; default: beside --out")
    scenes: Count | None = option(None, "rendered ones, each taken many times")
    steps: Count | None = option(None, "of training")
    frames: Count | None = option(None, "of a clip in one step")
    lr: Positive | None = option(None, "the paper fine-tunes a released decoder with 1e-5")
    depth_noise: NonNegative | None = option(None, "times the paper's amplitudes; 0: exact depth")
    seed: int | None = option(None, "of weights, scenes and noise")
    alone: bool = option(False, "no view sees another: what to compare with")


def main(arguments: list[str] | None = None) -> int:
    """Parse, render, train; prints where the decoder is."""
    return run(TrainDecoderCommand, _train, arguments, "mvtrack train-decoder")


def _train(options: TrainDecoderCommand) -> None:
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
