"""`python benchmarks/joint_step.py`: what the auxiliary losses add to a training step, in processor time of one thread.

A step goes from a batch in memory to updated weights: with the flow loss alone ("plain"), with the correspondence loss,
with tracking, with both. The tiny model's head is that of the `table3` experiment; the smoke model gets one as small as
itself, and beside it one that is narrow but correlates as finely and as often as the tiny model's. float32, blocks not
compiled. Arms take turns, figures are medians. `--small` measures the smoke model alone, once and without targets.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from bench import report, timed_by_turns

from mvtrack.config.run import RunConfig, load_config
from mvtrack.data.loader import Batch, BatchDataset
from mvtrack.inference.machine import return_freed_memory
from mvtrack.models.init_weights import initial_weights
from mvtrack.models.pca_codec import VideoCodec, build_codec
from mvtrack.training.engine import prepare_network
from mvtrack.training.objective import Objective
from mvtrack.training.optimizer import build_optimizer

CONFIGS = Path(__file__).parents[1] / "configs"
FINE = "correlation: {levels: 4, radius: 3, base_stride_px: 1}, displacement: true"
NARROW = "correlation_hidden: 16, correlation_dim: 8, dim: 16, heads: 2, layers: 1, virtual_tracks: 2"
HEADS = {
    "tiny": f"{{{FINE}, correlation_hidden: 128, correlation_dim: 64, dim: 128, heads: 4, layers: 2, "
    "virtual_tracks: 16}",
    "smoke": f"{{correlation: {{levels: 2, radius: 1, base_stride_px: 2}}, iterations: 2, {NARROW}}}",
    "smoke, fine head": f"{{{FINE}, {NARROW}}}",
}
CORRESPONDENCE = ("loss.correspondence=0.1", "loss.correspondence_targets=tracks")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="the smoke model alone, without targets")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    return_freed_memory()  # as in training
    figures = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in ("smoke",) if options.small else HEADS:
            figures |= seconds_a_step(name, Path(folder), 1 if options.small else options.rounds)
    targets = {"smoke: both / plain": ("<=", 4.0), "tiny: both / plain": ("<=", 2.0)}
    return report(figures, {} if options.small else targets)


def seconds_a_step(name: str, folder: Path, rounds: int) -> dict[str, float]:
    """Processor time of a step in every arm, and what the losses add as shares of the plain one."""
    model = name.split(",")[0]
    tracking = ("loss.tracking=0.1", f"model.tracking={HEADS[name]}")
    arms = {"plain": (), "correspondence": CORRESPONDENCE, "tracking": tracking, "both": (*CORRESPONDENCE, *tracking)}
    common = ("loss.correspondence=0", "train.compile=false", "train.precision=fp32")
    arms = {arm: load_config(CONFIGS / f"{model}.yaml", (*common, *changes)) for arm, changes in arms.items()}
    codec, micro_batches = data(arms["plain"], folder / model)
    steps = {arm: training_step(config, codec, micro_batches) for arm, config in arms.items()}
    seconds = timed_by_turns(steps, rounds, time.process_time)
    figures = {f"{name}: {arm}, s": value for arm, value in seconds.items()}
    figures |= {f"{name}: {arm} / plain": seconds[arm] / seconds["plain"] for arm in arms if arm != "plain"}
    return figures | {f"{name}: tracking adds, s": seconds["tracking"] - seconds["plain"]}


def data(config: RunConfig, folder: Path) -> tuple[VideoCodec, list[Batch]]:
    """A fitted codec and the micro-batches of one step, from a few scenes of the config's bank."""
    bank = config.data.banks[0]
    few = replace(bank, root=str(folder), num_scenes=4)
    dataset = BatchDataset(
        replace(config.data, banks=(few,)), 0, config.train.batch_size, config.train.micro_batch_size
    )
    codec = build_codec(config.model.codec)
    views, frames = list(range(bank.num_views)), slice(0, config.data.num_frames)
    codec.fit([dataset.banks[0].clip(n, views, frames).video for n in range(4)], config.model.codec.whitening)
    return codec, dataset[0]


def training_step(config: RunConfig, codec: VideoCodec, micro_batches: list[Batch]) -> Callable[[], None]:
    """One whole step of a fresh model, as the loop does it on one rank."""
    network = prepare_network(config, initial_weights(config.model, seed=0))
    optimizer, objective = build_optimizer(network, config.optim), Objective(config)

    def step() -> None:
        for batch in micro_batches:
            parts = objective(network, objective.prepare(batch, codec))
            (parts["total"] / len(micro_batches)).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), config.optim.grad_clip)
        optimizer.step()
        optimizer.zero_grad()

    return step


if __name__ == "__main__":
    sys.exit(main())
