"""Which checkpoint a run goes on from, and what may have changed since."""

from pathlib import Path

from mvtrack.config.run import RunConfig
from mvtrack.config.training import TrainingConfig
from mvtrack.config.tree import from_tree, to_tree
from mvtrack.training.checkpoint import CheckpointReader, checkpoints

# What may differ between the attempts of one run: it does not change what is computed, only where and how.
_FREE = {
    "train.zero_stage", "train.micro_batch_size", "train.sequence_parallel", "train.offload_optimizer",
    "train.offload_parameters", "train.gradient_checkpointing", "train.checkpoint_blocks", "train.checkpoint_keep",
    "train.attention", "train.compile", "train.on_nonfinite", "train.max_skipped", "train.log_every",
    "train.save_every", "train.keep_last", "train.keep_every", "train.validate_every", "train.validate_clips",
    "train.stop_after", "train.timeout_s", "train.peak_tflops", "train.wandb", "train.run_dir", "train.init_from",
    "train.init_lora",
    "data.workers", "model.sampling.steps", "model.sampling.guidance", "model.sampling.precision",
    "model.diffusion.steps", "model.diffusion.guidance", "model.diffusion.spacing",
}  # fmt: skip
_FREE_OF_A_BANK = {"root", "prerender"}
_TEACHER = ("train.init_from", "train.init_lora")  # where distillation names no other


def choose_checkpoint(run_dir: Path, resume: str | None) -> CheckpointReader | None:
    """The checkpoint to go on from, or None to start anew. Checked before anything is built.

    resume: "auto", a checkpoint's folder, or None. Without it, a folder that holds a run is refused.
    """
    if resume and resume != "auto":
        return CheckpointReader(Path(resume))
    found = checkpoints(run_dir / "checkpoints")
    if not resume and ((run_dir / "attempts.jsonl").exists() or found):
        raise ValueError(
            f"run directory {run_dir} holds a run already: pass --resume auto to go on with it, or set train.run_dir"
        )
    return CheckpointReader(found[-1]) if resume and found else None


def refuse_changes(config: TrainingConfig, reader: CheckpointReader, accept: bool) -> None:
    """Raise ValueError that lists what differs from the checkpoint's config, unless the user accepts the changes."""
    saved = from_tree(type(config), reader.state.config, where=f"the config in {reader.folder / 'state.json'}")
    before, now = _flat(to_tree(saved)), _flat(to_tree(config))
    changed = sorted(k for k in before.keys() | now.keys() if before.get(k) != now.get(k) and not _is_free(k))
    if isinstance(config, RunConfig) and config.loss.distillation > 0:
        changed += [k for k in _TEACHER if before[k] != now[k] and config.loss.distillation_options.teacher is None]
    if changed and not accept:
        shown = "; ".join(f"{k} was {before.get(k)!r}, is {now.get(k)!r}" for k in changed[:4])
        raise ValueError(
            f"{reader.folder} was made with another config: {shown}. Change it back, start a new train.run_dir with "
            f"train.init_from, or pass --accept-changes"
        )


def _is_free(key: str) -> bool:
    if key.startswith("data.banks."):
        return key.split(".")[3] in _FREE_OF_A_BANK
    return key in _FREE


def _flat(tree, prefix: str = "") -> dict:
    """Nested mappings, and lists of them, as dotted keys."""
    if isinstance(tree, list) and tree and isinstance(tree[0], dict):
        tree = dict(enumerate(tree))
    if not isinstance(tree, dict):
        return {prefix[:-1]: tree}
    return {k: v for key, value in tree.items() for k, v in _flat(value, f"{prefix}{key}.").items()}
