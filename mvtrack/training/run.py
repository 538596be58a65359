"""Setting up a run: its data, model, engine and averages, fresh or from a checkpoint."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from mvtrack.config.compatibility import same_codec, same_parameters
from mvtrack.config.encoders import TextConfig
from mvtrack.config.model import ModelConfig
from mvtrack.config.run import RunConfig
from mvtrack.data.clip import num_latent_frames
from mvtrack.data.latent_loader import LatentDataset
from mvtrack.data.loader import Batch, BatchDataset, StepDataset
from mvtrack.models.activation_checkpointing import checkpointing_of
from mvtrack.models.encoders import run_encoders
from mvtrack.models.flops import training_flops, view_training_flops
from mvtrack.models.init_weights import CONDITION_OUT, initial_weights
from mvtrack.models.networks import empty_network
from mvtrack.models.pca_codec import VideoCodec, build_codec
from mvtrack.models.reshoot_model import ReshootModel, load_model
from mvtrack.models.text_encoder import embed_captions
from mvtrack.models.weights.lora import merge_all
from mvtrack.training import distributed
from mvtrack.training.base_run import BaseRun
from mvtrack.training.checkpoint import CheckpointReader, Progress, save_frozen
from mvtrack.training.distillation_teacher import negative_features, open_teacher, teacher_flops, teacher_guidance
from mvtrack.training.ema import EMA
from mvtrack.training.engine import build_engine, prepare_network, training_kernel, warn_if_nothing_is_kept
from mvtrack.training.export import export_checkpoint, export_lora
from mvtrack.training.fault_tolerance import FiniteGuard
from mvtrack.training.latent_validation import LatentValidator
from mvtrack.training.objective import Objective
from mvtrack.training.run_dir import Heartbeat, record_attempt
from mvtrack.training.run_log import RunLog
from mvtrack.training.validation import ValidationReport, Validator
from mvtrack.training.view_validation import ViewValidator

CODEC_FIT_SCENES = 64  # the codec is fitted on the first scenes of the first bank


@dataclass(kw_only=True)
class Run(BaseRun):
    """The training of a model that re-shoots, or makes views of still scenes."""

    config: RunConfig
    objective: Objective
    validator: Validator | ViewValidator | LatentValidator

    @property
    def model(self) -> ReshootModel:
        return ReshootModel(self.config.model, self.engine.module, self.codec, self.engine.device)

    def losses(self, batch: Batch) -> tuple[dict[str, Tensor], int]:
        device = self.engine.device
        prepared = self.objective.prepare(batch, self.codec, device).to(device)
        with self.autocast():
            return self.objective(self.engine, prepared), prepared.num_tokens(self.config.model.backbone.size_unit)

    def flops(self, tokens: int) -> float:
        model, checkpointing = self.config.model, checkpointing_of(self.config.train)
        if model.dit is None:
            return view_training_flops(model, tokens, checkpointing)
        text, grid = model.text.length if model.text else 0, (2, num_latent_frames(self.config.data.num_frames))
        taught = teacher_flops(self.config, tokens, text, grid) if self.objective.distillation else 0
        return training_flops(model.dit, tokens, text, checkpointing, grid) + taught

    def validate(self) -> ValidationReport:
        return self.validator.run(self.model)

    def export(self, checkpoint: Path) -> None:
        export_checkpoint(checkpoint, self.folder / "model")
        if self.config.optim.lora and not self.config.optim.trainable:
            export_lora(checkpoint, self.folder / "lora")

    def prune(self) -> None:
        prune_banks(self.dataset, self.config, self.progress.step)


def open_dataset(config: RunConfig, rank: int, world: int) -> StepDataset:
    """This rank's part of the data. Raises ValueError where it does not fit the config."""
    settings = (config.data, config.train.seed, config.train.batch_size, config.train.micro_batch_size, rank, world)
    if config.data.latents:
        return LatentDataset(*settings, text_length=text_length(config.model), views=config.model.views)
    if config.model.image_dim:
        raise ValueError(
            "a model with an image branch trains on clips that were encoded with its tokens: run `mvtrack prepare`, "
            "set data.latents and data.banks: []"
        )
    if config.model.text_dim and config.model.text is None:
        raise ValueError(
            "a model with a text branch learns rendered scenes with the empty caption: name its encoder in model.text, "
            "or run `mvtrack prepare --rendered N`"
        )
    return BatchDataset(*settings, config.model.views)


def text_length(config: ModelConfig) -> int | None:
    """Tokens of a caption's features; None for a model without text."""
    if not config.text_dim:
        return None
    return config.text.length if config.text else TextConfig().length


def set_up(config: RunConfig, dataset: StepDataset, reader: CheckpointReader | None, heartbeat: Heartbeat) -> Run:
    """Build a run on this rank. Collective."""
    run_dir, progress = Path(config.train.run_dir), reader.state.progress if reader else Progress()
    kernel, objective = training_kernel(config), Objective(config)
    if objective.distillation:
        teacher_guidance(config)  # refuses what cannot teach before anything is rendered
    if distributed.rank() == 0:
        warn_if_nothing_is_kept(config, kernel)
        record_attempt(run_dir, config, progress.step, distributed.world_size(), kernel)
        if isinstance(dataset, BatchDataset):
            fill_banks(dataset, config)
            _empty_caption(config)
        if objective.distillation:
            negative_features(config, distributed.device())
    distributed.barrier()
    if isinstance(dataset, BatchDataset):
        dataset.text = _empty_caption(config)
    codec = build_codec(config.model.codec)
    weights = _first_weights(config, reader, codec, dataset)
    if isinstance(dataset, LatentDataset):
        check_encoders(dataset, config.model, codec)
    engine = build_engine(prepare_network(config, weights), config)
    codec.to(engine.device)
    if objective.distillation:
        objective.distillation.teacher = open_teacher(config, codec, engine.device)
    save_frozen(run_dir / "checkpoints", engine.module)
    ema = EMA(engine, config.train.ema_decay)
    guard = FiniteGuard(config, progress.skipped)
    validator = _validator(config, dataset)
    log = RunLog(run_dir, config, progress.step) if distributed.rank() == 0 else None
    run = Run(
        config=config, objective=objective, dataset=dataset, engine=engine, codec=codec, ema=ema, guard=guard,
        validator=validator, heartbeat=heartbeat, log=log, progress=progress,
    )  # fmt: skip
    if reader:
        run.materialise_optimizer()
        reader.restore(engine, ema)
    return run


def _empty_caption(config: RunConfig) -> Float[Tensor, "L t"] | None:
    """Features of no caption, by an encoder that is gone when this returns; kept between runs. None without text."""
    if not config.model.text_dim:
        return None
    return embed_captions([None], config.model.text, device=distributed.device())[0]


def _validator(config: RunConfig, dataset: StepDataset) -> Validator | ViewValidator | LatentValidator:
    encoded = dataset if isinstance(dataset, LatentDataset) else None
    if config.model.views is not None:
        return ViewValidator(config, encoded)
    return Validator(config) if encoded is None else LatentValidator(config, encoded)


def check_encoders(dataset: LatentDataset, config: ModelConfig, codec: VideoCodec) -> None:
    """Raise ValueError where the clips were encoded by something else than the model will meet."""
    ours = run_encoders(config, codec)
    for folder in dataset.folders:
        folder.check(ours)


def _first_weights(
    config: RunConfig, reader: CheckpointReader | None, codec: VideoCodec, dataset: StepDataset
) -> Iterator[tuple[str, Tensor]]:
    """Where weights and codec come from: a checkpoint, the model that `train.init_from` names, or a seed."""
    if reader:
        codec.load_state_dict(reader.codec())
        return reader.weights()
    if config.train.init_from:
        start = load_model(config.train.init_from)
        if not same_parameters(start.config, config.model) or not same_codec(start.config.codec, config.model.codec):
            raise ValueError(
                f"train.init_from {config.train.init_from} holds another architecture than model and model.codec"
            )
        if config.model.dit is None:
            _refuse_other_rays(config, start)
        merge_all(start.dit, config.train.init_lora)
        codec.load_state_dict(start.codec.state_dict())
        return _started(config, dict(start.dit.named_parameters()))
    if config.optim.lora:
        raise ValueError("optim.lora is added to a trained model: name it in train.init_from")
    if config.model.codec.kind == "pca":  # a VAE comes with its weights
        _fit_codec(codec, config, dataset)
    return initial_weights(config.model, config.train.seed)


def _refuse_other_rays(config: RunConfig, start: ReshootModel) -> None:
    """Raise ValueError where a network over still views learned rays that the run would give it in another way."""
    ours, theirs = config.model.backbone.rays, start.config.backbone.rays
    silent = [p for name, p in start.dit.named_parameters() if name.startswith(CONDITION_OUT)]
    if replace(theirs, drop=ours.drop, drop_per=ours.drop_per) != ours and any(p.any() for p in silent):
        raise ValueError(f"train.init_from {config.train.init_from} was trained with other rays: set {theirs}")


def _started(config: RunConfig, started: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """A model's weights, and fresh ones for what it did not have, such as a tracking head."""
    shapes = {name: tuple(parameter.shape) for name, parameter in empty_network(config.model).named_parameters()}
    for name, shape in shapes.items():
        if name in started and tuple(started[name].shape) != shape:
            raise ValueError(
                f"train.init_from {config.train.init_from} holds {name} of {tuple(started[name].shape)}, the config "
                f"makes it {shape}: use the model.rays and model.tracking that it was made with"
            )
    names = list(shapes)
    fresh = initial_weights(config.model, config.train.seed, [name for name in names if name not in started])
    return chain(((name, started[name]) for name in names if name in started), fresh)


def _fit_codec(codec: VideoCodec, config: RunConfig, dataset: BatchDataset) -> None:
    """Set the codec from the first scenes of the first bank."""
    bank = dataset.banks[0]
    views, frames = list(range(bank.recipe.num_views)), slice(0, config.data.num_frames)
    scenes = range(min(CODEC_FIT_SCENES, config.data.banks[0].num_scenes))
    codec.fit([bank.clip(n, views, frames).video for n in scenes], config.model.codec.whitening)


def fill_banks(dataset: BatchDataset, config: RunConfig) -> None:
    """Render what training starts with, and start rendering the rest behind it."""
    for bank, settings in zip(dataset.banks, config.data.banks, strict=True):
        bank.build(range(min(settings.num_scenes, settings.prerender)))
        last = settings.num_scenes + math.ceil(settings.new_scenes_per_step * config.train.steps)
        if any(not bank.path(n).exists() for n in range(last)):
            bank.render_ahead(range(last))


def prune_banks(dataset: StepDataset, config: RunConfig, step: int) -> None:
    """Delete scenes that the moving window has left behind."""
    if not isinstance(dataset, BatchDataset):
        return
    for bank, settings in zip(dataset.banks, config.data.banks, strict=True):
        if settings.new_scenes_per_step > 0:
            bank.prune(int(step * settings.new_scenes_per_step))
