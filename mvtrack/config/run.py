"""A whole training run, read from YAML with `section.key=value` overrides.

A config never changes after it was read. An unknown key is an error that suggests the right one.
"""

from collections.abc import Sequence
from dataclasses import field
from pathlib import Path
from typing import Any

import yaml

from mvtrack.config.checked import config
from mvtrack.config.data import DataConfig
from mvtrack.config.decoder import DecoderRunConfig
from mvtrack.config.losses import LossConfig
from mvtrack.config.model import ModelConfig
from mvtrack.config.training import TrainingConfig
from mvtrack.config.tree import apply_override, from_tree
from mvtrack.config.views import ViewsConfig


@config
class RunConfig(TrainingConfig):
    """One training run."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    loss: LossConfig = field(default_factory=LossConfig)

    def __post_init__(self) -> None:
        unit = self.model.size_unit_px
        for source in (*self.data.banks, *self.data.latents):
            if source.size[0] % unit or source.size[1] % unit:
                raise ValueError(f"{source.root}: size {source.size} is not divisible by the token size {unit}")
        self._check_latents()
        if (self.loss.tracking > 0) != (self.model.tracking is not None):
            raise ValueError(
                "loss.tracking trains the head that model.tracking describes: set both (model.tracking: {} for the "
                "defaults), or loss.tracking: 0 and model.tracking: null"
            )
        self._check_features()
        if self.loss.distillation > 0:
            self._check_distillation()
        last = self.model.num_layers - 1
        for layer in self.loss.correspondence_layers or ():
            if not 0 <= layer <= last:
                raise ValueError(f"loss.correspondence_layers: layer {layer} must lie in [0, {last}]")
        self._check_logit_heads()
        if self.model.views is not None:
            self._check_views(self.model.views)
        if self.model.dit is None:
            self._check_view_backbone()
        elif self.train.sequence_parallel > 1:
            self._check_sequence_parallel(self.train.sequence_parallel)
        if self.optim.name == "muon" and (self.train.zero_stage > 0 or self.train.precision == "bf16"):
            raise ValueError(
                "optim.name muon works on whole float32 matrices: set train.zero_stage: 0 and train.precision: fp32 or "
                "autocast_bf16, or optim.name: adamw"
            )

    def _check_latents(self) -> None:
        """What only encoded clips have, and what they have not."""
        loss = self.loss
        if not self.data.latents:
            return
        of_videos = self.model.views is None
        if of_videos and loss.correspondence > 0 and loss.correspondence_targets != "tracks":
            raise ValueError(
                f"data.latents keep point tracks, no {loss.correspondence_targets}: set loss.correspondence_targets: "
                "tracks"
            )
        if self.model.codec.kind == "pca" and not self.train.init_from:
            raise ValueError("data.latents of a pca codec belong to a model: name it in train.init_from")

    def _check_features(self) -> None:
        features, projector = self.loss.features, self.model.feature_projector
        if features.is_used != (projector is not None):
            raise ValueError(
                "loss.features trains model.feature_projector: set both ({layer: 10, features: 768} for DINOv2's "
                "base), or loss.features.repa: 0, geometry_forcing: 0 and model.feature_projector: null"
            )
        if projector and projector.scale != (features.geometry_forcing > 0):
            raise ValueError("model.feature_projector.scale is Geometry Forcing's: set it true for that loss alone")
        if features.is_used and self.model.views is None:
            raise ValueError("loss.features is for models of still views: set model.views, or both weights to 0")

    def _check_distillation(self) -> None:
        model, options = self.model, self.loss.distillation_options
        if model.dit is None or model.diffusion is not None or model.views is not None:
            raise ValueError(
                "loss.distillation is for rectified flow over model.dit that re-shoots videos: set it to 0 with "
                "model.diffusion or model.views"
            )
        if options.teacher is None and self.train.init_from is None:
            raise ValueError(
                "loss.distillation needs a teacher: name the model that the student starts from in train.init_from, or "
                "another one in loss.distillation_options.teacher"
            )
        if options.guidance not in (None, 1) and not model.text_dim:
            raise ValueError("loss.distillation_options.guidance is by text: set it to 1 where dit.text_dim is 0")
        if (model.sampling.steps, model.sampling.guidance) != (options.steps, 1):
            raise ValueError(
                f"a student is sampled as it was taught: set model.sampling.steps: {options.steps} (the steps of "
                f"loss.distillation_options) and model.sampling.guidance: 1, got {model.sampling.steps} and "
                f"{model.sampling.guidance:g}"
            )

    def _check_logit_heads(self) -> None:
        loss = self.loss
        used = loss.correspondence > 0 and loss.correspondence_options.heads == "mlp"
        needed = (loss.correspondence_layers or (self.model.tap_layer,)) if used else ()
        if needed != self.model.logit_heads:
            raise ValueError(
                f"loss.correspondence_options.heads mlp trains one of model.logit_heads for each supervised layer: set "
                f"model.logit_heads: {list(needed)}, got {list(self.model.logit_heads)}"
            )

    def _check_view_backbone(self) -> None:
        """What only this project's transformer can do."""
        train = self.train
        for name, used, instead in (
            ("train.compile", train.compile, "false"),
            ("train.sequence_parallel", train.sequence_parallel > 1, "1"),
            ("train.attention", train.attention != "auto", "auto"),
            ("train.checkpoint_blocks", train.checkpoint_blocks is not None, "null"),
            ("train.checkpoint_keep", train.checkpoint_keep != "nothing", "nothing"),
            ("train.zero_stage", train.zero_stage == 3, "2"),
        ):
            if used:
                raise ValueError(f"{name} is for model.dit, this model's network is diffusers': set it to {instead}")
        sides = {self.model.token_px(layer) for layer in self.loss.correspondence_layers or ()}
        if len(sides) > 1:
            raise ValueError(
                f"loss.correspondence_layers {list(self.loss.correspondence_layers)} have tokens of {sorted(sides)} "
                "pixels: supervise layers of one size"
            )

    def _check_sequence_parallel(self, ranks: int) -> None:
        heads, token = self.model.dit.num_heads, self.model.token_px()
        if heads % ranks:
            raise ValueError(f"train.sequence_parallel {ranks} does not divide the {heads} heads of model.dit")
        for height, width in self.data.sizes:
            cells = (height // token) * (width // token)
            if cells % ranks:
                raise ValueError(
                    f"train.sequence_parallel {ranks} does not divide the {cells} tokens of a frame of "
                    f"{height}x{width}: use another size or number"
                )

    def _check_views(self, views: ViewsConfig) -> None:
        views.check_banks(self.data.num_frames, {b.root: (b.static, b.num_views) for b in self.data.banks})
        if self.loss.correspondence > 0:
            views.check_loss(self.loss.correspondence_targets, self.loss.correspondence_options.exclude)


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a YAML file and apply `section.key=value` overrides.

    Raises ValueError that names the file, the key and the nearest known key.
    """
    loaded = load_training_config(path, overrides)
    if isinstance(loaded, DecoderRunConfig):
        raise ValueError(f"{path} trains an aligning decoder, which only `mvtrack train` and `mvtrack doctor` take")
    return loaded


def load_training_config(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig | DecoderRunConfig:
    """The same of any run: with a section `decoder` it is that of an aligning decoder."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"config file {path} does not exist")
    try:
        tree = yaml.safe_load(path.read_text()) or {}
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {str(error).splitlines()[0]}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a text file") from error
    for override in overrides:
        apply_override(tree, override)
    return training_from_tree(tree, str(path))


def training_from_tree(tree: Any, where: str) -> RunConfig | DecoderRunConfig:
    """A run's config from nested dicts. Raises ValueError for anything else."""
    is_decoder = isinstance(tree, dict) and "decoder" in tree
    return from_tree(DecoderRunConfig if is_decoder else RunConfig, tree, where)
