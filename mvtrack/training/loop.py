"""The training loop: load, lose, step, average, log, validate, save."""

import contextlib
import logging
import time
from dataclasses import replace
from pathlib import Path

import torch
from tqdm import tqdm

from mvtrack.config.decoder import DecoderRunConfig
from mvtrack.config.training import TrainingConfig
from mvtrack.data.loader import batches
from mvtrack.training import decoder_run, distributed
from mvtrack.training import run as model_run
from mvtrack.training.base_run import BaseRun
from mvtrack.training.checkpoint import prune, remove_leftovers, save_checkpoint
from mvtrack.training.engine import start_distributed
from mvtrack.training.fault_tolerance import StopRequest, explain_hang
from mvtrack.training.optimizer import learning_rate_factor
from mvtrack.training.resume import choose_checkpoint, refuse_changes
from mvtrack.training.run_dir import Heartbeat, discarded_on_failure, locked
from mvtrack.training.telemetry import Meter, gradient_norms

STOPPED = "stopped_by_signal"  # a file that says that the run should go on later (configs/slurm/train.sbatch)


def train(config: TrainingConfig, resume: str | None = None, accept_changes: bool = False) -> Path:
    """Train as the config says, a `RunConfig` or a `DecoderRunConfig`; returns the folder of the model.

    resume: "auto" goes on from the run's newest checkpoint if there is one; a path, from that checkpoint.
    Raises ValueError before any GPU memory is taken when config, run directory and checkpoint do not fit together.
    """
    settings, run_dir = config.train, Path(config.train.run_dir)
    kind = decoder_run if isinstance(config, DecoderRunConfig) else model_run
    distributed.prepare_environment()
    rank, world, together = distributed.rank(), distributed.world_size(), settings.sequence_parallel
    if world % together:
        raise ValueError(f"train.sequence_parallel {together} does not divide {world} ranks")
    with locked(run_dir) if rank == 0 else contextlib.nullcontext([]) as made:
        if rank == 0:
            remove_leftovers(run_dir / "checkpoints")
            (run_dir / STOPPED).unlink(missing_ok=True)
        with discarded_on_failure(made):
            reader = choose_checkpoint(run_dir, resume)
            if reader:
                refuse_changes(config, reader, accept_changes)
            dataset = kind.open_dataset(config, rank // together, world // together)
        own_group = not torch.distributed.is_initialized()
        start_distributed(settings.timeout_s)
        heartbeat = Heartbeat(run_dir, rank)
        try:
            with discarded_on_failure(made):
                run = kind.set_up(config, dataset, reader, heartbeat)
            _loop(run)
        except RuntimeError as error:
            raise (explain_hang(error, heartbeat.report(), settings.timeout_s) or error) from error
        finally:
            if own_group:
                torch.distributed.destroy_process_group()
    return run_dir / "model"


def _loop(run: BaseRun) -> None:
    config, first_step = run.config.train, run.progress.step
    last_step = min(config.steps, config.stop_after or config.steps)
    base_rates = [group["lr"] for group in run.engine.optimizer.param_groups]
    meter, stop = Meter(run), StopRequest()
    bar = tqdm(initial=first_step, total=last_step, disable=run.log is None, desc="train", unit="step")
    asked = time.monotonic()
    for micro_batches in batches(run.dataset, first_step, last_step, run.config.data.workers):
        meter.data_s += time.monotonic() - asked
        factor = learning_rate_factor(run.progress.step, run.config.optim, config.steps)
        for group, rate in zip(run.engine.optimizer.param_groups, base_rates, strict=True):
            group["lr"] = rate * factor
        done, stopping = run.progress.step + 1, stop.on_any_rank()
        final = done == last_step or stopping
        report = done % config.log_every == 0 or final
        norms = _step(run, micro_batches, meter, with_norms=report)
        run.progress = replace(run.progress, step=done, skipped=run.guard.skipped)
        run.heartbeat.beat(done)
        bar.update()
        if report:
            _report(run, meter, bar, norms | {"lr_factor": factor})
        improved = _validate(run) if done % config.validate_every == 0 or done == last_step else False
        if done % config.save_every == 0 or final or improved:
            _save(run)
        if stopping:
            (run.folder / STOPPED).touch()
            logging.getLogger(__name__).warning("asked to stop: saved at step %d, go on with --resume auto", done)
            break
        asked = time.monotonic()
    stop.release()
    bar.close()
    if run.log:
        run.log.close()


def _step(run: BaseRun, micro_batches: list, meter: Meter, with_norms: bool) -> dict[str, float]:
    """Forward, backward and update on one global batch; returns gradient norms when asked."""
    for i, batch in enumerate(micro_batches):
        parts, tokens = run.losses(batch)
        run.engine.backward(run.guard.check_loss(parts, run.progress.step, batch.keys))
        meter.add(parts, samples=len(batch.index), tokens=tokens, weight=1 / len(micro_batches))
        if i + 1 < len(micro_batches):
            run.engine.step()  # counts the micro-batch; updates only at the boundary
    norms = gradient_norms(run.engine) if with_norms else {}
    keys = tuple(key for batch in micro_batches for key in batch.keys)
    if run.guard.step(run.engine, run.progress.step, keys):
        run.ema.update(run.engine, run.progress.step)
    meter.steps += 1
    return norms


def _report(run: BaseRun, meter: Meter, bar: tqdm, extra: dict[str, float]) -> None:
    values = meter.report() | {"skipped_updates": float(run.guard.skipped)} | extra
    if run.log:
        bar.set_postfix({k.removeprefix("loss/"): f"{v:.4f}" for k, v in values.items() if k.startswith("loss/")})
        run.log.scalars(run.progress.step, values)


def _validate(run: BaseRun) -> bool:
    """Score the averaged weights by generating; returns whether they are the best so far."""
    with run.ema.swapped_in(run.engine):
        report = run.validate()
    if run.log:
        run.log.scalars(run.progress.step, report.scores)
        for name, video in report.videos.items():
            run.log.video(run.progress.step, name, video)
        for name, picture in report.pictures.items():
            run.log.picture(run.progress.step, name, picture)
    score, best = report.scores["validation/psnr_db"], run.progress.best_psnr_db
    improved = best is None or score > best
    if improved:
        run.progress = replace(run.progress, best_psnr_db=score, best_step=run.progress.step)
    return improved


def _save(run: BaseRun) -> None:
    """Checkpoint, then the averaged model where `reshoot --model` finds it, then delete what is no longer kept."""
    config, progress = run.config.train, run.progress
    path = save_checkpoint(run.checkpoints, run.engine, run.ema, run.codec, run.config, progress)
    if distributed.rank() == 0:
        run.export(path)
        prune(run.checkpoints, config.keep_last, config.keep_every, progress.best_step)
        run.prune()
    distributed.barrier()
