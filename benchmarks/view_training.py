"""`python benchmarks/view_training.py`: a training step of small networks over still views, and what the loss adds.

configs/cameo_cat3d_tiny.yaml and cameo_hunyuan_tiny.yaml: CPU seconds of one thread, so that a busy machine says the
same, of the network's forward and backward, and of the correspondence loss: its targets, forward and backward. 1,000
steps of the U-Net are to take 20 minutes on two cores at most, and the loss 5 % of its step.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from bench import report

from mvtrack.config.run import load_config
from mvtrack.data.loader import BatchDataset
from mvtrack.models.backbone import Tap
from mvtrack.models.reshoot_model import build_model
from mvtrack.training.losses.correspondence import CorrespondenceLoss
from mvtrack.training.objective import Objective

CONFIGS = Path(__file__).parents[1] / "configs"


def cpu_seconds(work: Callable[[], object], rounds: int) -> float:
    """The least of some rounds."""
    times = []
    for _ in range(rounds):
        began = time.process_time()
        work()
        times.append(time.process_time() - began)
    return min(times)


def measure(name: str, bank: str, rounds: int) -> tuple[float, float]:
    """Of the network, and of the loss."""
    run = load_config(CONFIGS / f"{name}.yaml", (bank,))
    model, objective, loss = build_model(run.model), Objective(run), CorrespondenceLoss(run)
    [batch] = BatchDataset(run.data, 0, run.train.batch_size, run.train.batch_size, views=run.model.views)[0]
    model.codec.fit(list(batch.video), 0.5)
    step = objective.prepare(batch, model.codec)
    timestep = objective.process.timestep(step.sigma)
    output = model.dit(step.latents, timestep, step.conditioning, objective.tap_layers)
    taps = {loss.tap_layers[0]: Tap(*(x.detach().requires_grad_() for x in output.taps[0]))}

    def network() -> None:
        model.dit(step.latents, timestep, step.conditioning).prediction.square().mean().backward()

    def supervised() -> None:
        loss.targets(batch, batch.index.tolist())
        loss(model.dit, step, output, taps)[loss.name].backward()

    return cpu_seconds(network, rounds), cpu_seconds(supervised, 3 * rounds)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    figures = {}
    with tempfile.TemporaryDirectory() as folder:
        bank = f"data.banks=[{{root: {folder}/bank, size: [128, 128], num_scenes: 4, prerender: 4, num_frames: 1, "
        bank += "num_views: 8, static: true}]"
        for name in ("cameo_cat3d_tiny", "cameo_hunyuan_tiny"):
            network, loss = measure(name, bank, options.rounds)
            figures |= {f"{name}, CPU seconds a step": network + loss, f"{name}, the loss's share": loss / network}
    targets = {"cameo_cat3d_tiny, CPU seconds a step": ("<=", 2.4), "cameo_cat3d_tiny, the loss's share": ("<=", 0.05)}
    return report(figures, targets)


if __name__ == "__main__":
    sys.exit(main())
