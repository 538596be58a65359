"""The training loop: load, lose, step, average, log, validate, save."""

import contextlib
import json
import logging
import math
import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from mvtrack.backbone.model import ReshootModel, build_model, load_model, save_model
from mvtrack.config import RunConfig
from mvtrack.data.bank import Bank
from mvtrack.data.loader import BatchDataset, batches
from mvtrack.training import distributed
from mvtrack.training.ema import EMA
from mvtrack.training.engine import build_engine
from mvtrack.training.objective import losses, prepare
from mvtrack.training.optimizer import build_optimizer, freeze, learning_rate_factor
from mvtrack.training.run_log import RunLog
from mvtrack.training.validation import Validator

CODEC_FIT_SCENES = 64  # the codec is fitted on the first scenes of the first bank


@dataclass
class Clock:
    """Seconds since the last log spent waiting for data, and in all."""

    data: float = 0.0
    since: float = 0.0

    def __post_init__(self) -> None:
        self.since = time.monotonic()

    def lap(self) -> tuple[float, float]:
        now = time.monotonic()
        result = self.data, now - self.since
        self.data, self.since = 0.0, now
        return result


def train(config: RunConfig, resume: bool = False) -> Path:
    """Train a model as the config says; returns the folder of the final model.

    resume: go on from the run directory's last checkpoint, if there is one.
    """
    distributed.prepare_environment()
    run_dir = Path(config.train.run_dir)
    dataset = BatchDataset(
        config.data,
        config.train.seed,
        config.train.batch_size,
        config.train.micro_batch_size,
        distributed.rank(),
        distributed.world_size(),
    )
    if distributed.rank() == 0:
        _fill_banks(dataset, config)
    model = initial_model(config, dataset.banks[0])
    freeze(model.dit, config.optim.trainable)
    model.dit.gradient_checkpointing = config.train.gradient_checkpointing
    if config.train.compile:
        for block in model.dit.blocks:
            block.compile()
    engine = build_engine(model.dit, build_optimizer(model.dit, config.optim), config)
    base_rates = [group["lr"] for group in engine.optimizer.param_groups]
    ema = EMA(model.dit, config.train.ema_decay)
    first_step = _resume(engine, ema, run_dir) if resume else 0
    log = RunLog(run_dir, config) if distributed.rank() == 0 else None
    validator = Validator(config)

    last_step = min(config.train.steps, config.train.stop_after or config.train.steps)
    progress = tqdm(
        batches(dataset, first_step, last_step, config.data.workers),
        initial=first_step,
        total=last_step,
        disable=log is None,
        desc="train",
        unit="step",
    )
    clock, sums, asked = Clock(), {}, time.monotonic()
    for step, micro_batches in enumerate(progress, first_step):
        clock.data += time.monotonic() - asked
        factor = learning_rate_factor(step, config.optim, config.train.steps)
        for group, rate in zip(engine.optimizer.param_groups, base_rates, strict=True):
            group["lr"] = rate * factor
        for batch in micro_batches:
            prepared = prepare(batch, model.codec, config).to(engine.device)
            with _precision(config, engine.device):
                parts = losses(engine, prepared, config)
            _stop_unless_finite(parts, step, batch.keys)
            engine.backward(parts["total"])
            engine.step()
            for name, value in parts.items():
                sums[name] = sums.get(name, 0.0) + value.item() / len(micro_batches)
        ema.update(model.dit, step)

        done = step + 1
        if done % config.train.log_every == 0 or done == last_step:
            _log(log, progress, clock, sums, done, factor)
            sums = {}
        if done % config.train.save_every == 0 or done == last_step:
            _save(engine, ema, model, run_dir, done)
            if log:
                _prune_banks(dataset, config, done)
        if done % config.train.validate_every == 0 or done == last_step:
            _validate(validator, model, ema, log, done)
        asked = time.monotonic()
    if log:
        log.close()
    return run_dir / "model"


def initial_model(config: RunConfig, bank: Bank) -> ReshootModel:
    """A fresh model with its codec fitted on the bank, or the one that `train.init_from` names."""
    if config.train.init_from is None:
        model = build_model(config.model, config.train.seed)
        views = list(range(bank.recipe.num_views))
        videos = [bank.clip(n, views, slice(0, config.data.num_frames)).video for n in range(CODEC_FIT_SCENES)]
        model.codec.fit(videos, config.model.codec.whitening)
        return model
    start = load_model(config.train.init_from)
    if start.config.dit != config.model.dit or start.config.codec != config.model.codec:
        raise ValueError(
            f"train.init_from {config.train.init_from} holds another architecture than model.dit and model.codec say"
        )
    return replace(start, config=config.model)


def _fill_banks(dataset: BatchDataset, config: RunConfig) -> None:
    """Render what training starts with, and start rendering the rest behind it."""
    for bank, settings in zip(dataset.banks, config.data.banks, strict=True):
        bank.build(range(min(settings.num_scenes, settings.prerender)))
        last = settings.num_scenes + math.ceil(settings.new_scenes_per_step * config.train.steps)
        if any(not bank.path(n).exists() for n in range(last)):
            bank.render_ahead(range(last))


def _prune_banks(dataset: BatchDataset, config: RunConfig, step: int) -> None:
    """Delete scenes that the moving window has left behind."""
    for bank, settings in zip(dataset.banks, config.data.banks, strict=True):
        if settings.new_scenes_per_step > 0:
            bank.prune(int(step * settings.new_scenes_per_step))


def _precision(config: RunConfig, device: torch.device):
    if config.train.precision == "autocast_bf16":
        return torch.autocast(device.type, torch.bfloat16)
    return contextlib.nullcontext()


def _stop_unless_finite(parts: dict[str, Tensor], step: int, keys: tuple[str, ...]) -> None:
    """Raise on every rank, before the update, when any rank's loss is not finite."""
    bad = [name for name, value in parts.items() if not torch.isfinite(value)]
    if distributed.any_rank(bool(bad)):
        mine = f"{', '.join(bad)} on clips {', '.join(keys)}" if bad else "on another rank"
        raise ValueError(f"the loss is not finite at step {step}: {mine}; the weights were not touched")


def _log(log: RunLog | None, progress: tqdm, clock: Clock, sums: dict, step: int, factor: float) -> None:
    data_s, all_s = clock.lap()
    sums = distributed.mean_over_ranks(sums)
    if log is None:
        return
    count = step - getattr(progress, "logged", progress.initial)
    progress.logged = step
    values = {f"loss/{name}": value / count for name, value in sums.items()}
    progress.set_postfix({name: f"{values[f'loss/{name}']:.4f}" for name in sums})
    log.scalars(
        step, values | {"lr_factor": factor, "time/step_s": all_s / count, "time/data_wait_share": data_s / all_s}
    )


def _validate(validator: Validator, model: ReshootModel, ema: EMA, log: RunLog | None, step: int) -> None:
    weights = ema.weights(model.dit)
    if log is None:
        return
    live = {name: tensor.clone() for name, tensor in model.dit.state_dict().items()}
    model.dit.load_state_dict(weights)
    model.dit.eval()
    report = validator.run(model)
    model.dit.train()
    model.dit.load_state_dict(live)
    log.scalars(step, report.scores)
    log.image(step, "validation/reference_generated_truth", report.sheet)


def _save(engine, ema: EMA, model: ReshootModel, run_dir: Path, step: int) -> None:
    """The whole training state under checkpoints/, and the averaged model where `reshoot --model` finds it."""
    engine.save_checkpoint(
        str(run_dir / "checkpoints"), tag=f"step_{step:07d}", client_state={"ema": ema.state_dict(), "step": step}
    )
    if distributed.rank() == 0:
        save_model(model, run_dir / "model", ema.weights(model.dit))
        (run_dir / "model" / "training.json").write_text(json.dumps({"step": step}))
        for old in sorted((run_dir / "checkpoints").glob("step_*"))[:-2]:
            shutil.rmtree(old)


def _resume(engine, ema: EMA, run_dir: Path) -> int:
    folder = run_dir / "checkpoints"
    if not (folder / "latest").exists():
        logging.getLogger(__name__).info("no checkpoint in %s: starting from step 0", folder)
        return 0
    _, state = engine.load_checkpoint(str(folder))
    ema.load_state_dict(state["ema"])
    return state["step"]
