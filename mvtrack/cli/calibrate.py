"""`mvtrack calibrate MODEL FOLDER`: fit the step cache to a model."""

import sys
from pathlib import Path

from mvtrack.config.checked import Count, config
from mvtrack.config.command_line import Command, option, positional, run, section
from mvtrack.config.placement import Placement
from mvtrack.inference.model_options import PLACEMENT


@config(kw_only=True)
class CalibrateCommand(Command):
    """Sample rendered scenes, see how much the network's output changes where its input changes so much, and write the
    model again with what was found; `--cache THRESHOLD` then means the same change of the output in every model."""

    model: str = positional("folder with model.safetensors, or hub id")
    out: Path = positional("folder for the same model with its step cache fitted")
    scenes: Count = option(4, "rendered scenes; each is foretold by the others")
    steps: Count = option(50, "sampling steps; fit it to as many as are used")
    placement: Placement = section(Placement, PLACEMENT, without=("gpus", "share"))


def main(arguments: list[str] | None = None) -> int:
    """Parse and calibrate."""
    return run(CalibrateCommand, _calibrate, arguments, "mvtrack calibrate")


def _calibrate(options: CalibrateCommand) -> None:
    from tqdm import tqdm

    from mvtrack.inference.calibration import calibrated, observed_scene, write_calibrated
    from mvtrack.inference.device import place
    from mvtrack.inference.sampler import SamplerOptions
    from mvtrack.models.reshoot_model import load_model

    if options.scenes < 2:
        raise ValueError("--scenes must be at least 2: each scene is foretold by the others")
    model = place(load_model(options.model), options.placement)
    sample = SamplerOptions.of(model.config, options.steps)
    scenes = [observed_scene(model, n, sample) for n in tqdm(range(options.scenes), unit="scene", desc="sampling")]
    found = calibrated(scenes)
    path = write_calibrated(options.model, found.fit, options.out)
    lines = [f"{path}: output changes by {found.changed:.3f} a step, foretold to {found.error:.3f} on unseen scenes"]
    lines += [f"  --cache {threshold:g}: {share:.0%} of forward passes" for threshold, share in found.shares.items()]
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    sys.exit(main())
