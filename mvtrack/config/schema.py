"""Every setting of a run as frozen dataclasses, and how they are read from YAML with dotted overrides.

A config never changes after it was read. An unknown key is an error that suggests the right one.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import yaml

from mvtrack.config.data import DataConfig
from mvtrack.config.encoders import CodecConfig, ImageConfig, TextConfig
from mvtrack.config.tree import apply_override, from_tree
from mvtrack.config.views import ViewsConfig
from tracking_head import HeadConfig, TrackLossConfig

AttentionKernel = Literal[
    "auto", "cpu", "blocked", "cudnn", "flash", "efficient", "flash_attn_2", "flash_attn_3", "sage"
]


@dataclass(frozen=True)
class DiTConfig:
    """Sizes and branches of the transformer; defaults are Wan2.1-T2V-1.3B.

    Branches of released checkpoints: ReCamMaster's `pose_encoder` (poses into self-attention's input) and `projector`
    (on its output); `control_adapter` (maps of the camera's rays, Wan-Fun's) and, on its tokens, ReDirector's
    `rope_phases`; `image_dim`, the width of CLIP's image tokens.

    attention: `factorised` lets tokens of the even blocks attend to all frames of their own view, those of the odd
    blocks to all views at their own moment. The parameters are the same.
    """

    dim: int = 1536
    ffn_dim: int = 8960
    num_heads: int = 12
    num_layers: int = 30
    patch_size: tuple[int, int, int] = (1, 2, 2)
    in_channels: int = 16  # more than the codec's: the missing ones are zero
    out_channels: int = 16
    text_dim: int = 4096  # 0: no text branch
    freq_dim: int = 256
    eps: float = 1e-6
    rope_frames: Literal["concat", "shared", "by_view"] = "concat"
    rope_theta: float = 10000.0
    rope_pairs: tuple[int, int, int] | None = None  # (frame, row, column); None: Wan's split
    attention: Literal["full", "factorised"] = "full"
    role_embedding: bool = False  # a learned vector that tells reference from target tokens
    init: Literal["wan", "open_gates"] = "wan"
    pose_encoder: bool = False
    projector: bool = False
    control_adapter: bool = False
    rope_phases: bool = False
    image_dim: int = 0  # 0: no image branch
    tap_features: Literal["after_rope", "before_rope"] = "after_rope"  # q and k for the losses and the tracking head

    def __post_init__(self) -> None:
        if self.rope_phases and not self.control_adapter:
            raise ValueError("dit.rope_phases turn with the adapter's camera tokens: set dit.control_adapter: true")
        if self.image_dim and not self.text_dim:
            raise ValueError("dit.image_dim is a branch of the attention to text: it needs dit.text_dim")
        if self.dim % self.num_heads or (self.dim // self.num_heads) % 2:
            raise ValueError(f"dit.dim {self.dim} must divide into an even width for {self.num_heads} dit.num_heads")
        if self.rope_pairs is not None and sum(self.rope_pairs) != self.dim // self.num_heads // 2:
            raise ValueError(
                f"dit.rope_pairs {self.rope_pairs} must sum to {self.dim // self.num_heads // 2}, half the head width"
            )
        if self.patch_size[0] != 1:
            raise ValueError(f"dit.patch_size must not fold frames (1, p, q), got {self.patch_size}")
        if self.freq_dim % 2:
            raise ValueError(f"dit.freq_dim must be even, got {self.freq_dim}")


@dataclass(frozen=True)
class RayConfig:
    """How cameras enter the transformer (method §1).

    scale: what one unit of length means to the model: the reference's median depth, or the larger extent of the two
    camera paths (unknown depth), or the camera's own unit.
    drop: share of training samples whose rays are all zero, so that sampling can be guided by the camera (CAMEO's 0.1).
    """

    token_px: int = 16
    stride: int = 4  # pixels between the rays that are computed
    fourier_bands: int = 0  # sin/cos at pi 2^k, k = 1 .. bands, beside the raw values
    hidden_dim: int | None = None
    kernel_size: int = 3
    scale: Literal["median_depth", "path_extent", "none"] = "median_depth"
    proj_init: Literal["zero", "normal"] = "zero"
    drop: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.drop < 1:
            raise ValueError(f"rays.drop must lie in [0, 1), got {self.drop}")
        if self.token_px % self.stride:
            raise ValueError(f"rays.stride {self.stride} must divide rays.token_px {self.token_px}")
        if self.kernel_size % 2 == 0:
            raise ValueError(f"rays.kernel_size must be odd, got {self.kernel_size}")

    @property
    def channels(self) -> int:
        """Channels of one packed ray map: 6 coordinates x 4 frames x (raw + sines and cosines)."""
        return 24 * (1 + 2 * self.fourier_bands)


@dataclass(frozen=True)
class NativeCameraConfig:
    """How a released checkpoint's own camera branch is driven; lengths are metres.

    origin: poses are relative to the reference's first frame, or to each view's own first frame.
    pose_view: whose pose a token gets: the target's (reference tokens too, ReCamMaster), or its own view's.
    map_order: which three channels of a Plücker map come first, the moment or the direction.
    """

    origin: Literal["reference", "own"] = "reference"
    pose_view: Literal["target", "own"] = "target"
    map_order: Literal["moment_first", "direction_first"] = "moment_first"


@dataclass(frozen=True)
class FlowConfig:
    """Rectified flow (method §2)."""

    shift: float = 5.0
    prediction: Literal["velocity", "x0"] = "velocity"
    timestep_sampling: Literal["shifted", "uniform", "logit_normal"] = "shifted"
    weighting: Literal["wan", "none"] = "wan"


@dataclass(frozen=True)
class SamplingConfig:
    """How a model is meant to be sampled: what `reshoot` does unless it is told otherwise.

    guidance: scale of text guidance, 1 is none. precision: of the weights while they sample; stored: as in the file.
    """

    steps: int = 8
    guidance: float = 1.0
    precision: Literal["stored", "float32", "bfloat16"] = "stored"

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"sampling.steps must be at least 1, got {self.steps}")


@dataclass(frozen=True)
class ModelConfig:
    """Everything needed to rebuild a model from its weights file."""

    dit: DiTConfig = field(default_factory=DiTConfig)
    rays: RayConfig = field(default_factory=RayConfig)
    native_camera: NativeCameraConfig = field(default_factory=NativeCameraConfig)
    codec: CodecConfig = field(default_factory=CodecConfig)
    text: TextConfig | None = None  # what turns captions into text features; null: features are given
    image: ImageConfig | None = None
    flow: FlowConfig = field(default_factory=FlowConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    tap_layer: int = 18
    tracking: HeadConfig | None = None  # the tracking head on the tapped block; null: none
    logit_heads: tuple[int, ...] = ()  # blocks with CAMEO's MLP over the heads' logits; only the loss needs it
    views: ViewsConfig | None = None  # null: re-shoots videos; else makes views of still scenes
    sizes: tuple[tuple[int, int], ...] = ((480, 832),)  # (H, W) it was trained at; a video gets the nearest aspect
    num_frames: int = 81  # length of one window

    def __post_init__(self) -> None:
        for size in self.sizes:
            if size[0] % self.rays.token_px or size[1] % self.rays.token_px:
                raise ValueError(f"sizes {size} is not divisible by the token size {self.rays.token_px}")
        if not self.sizes or (self.num_frames - 1) % 4:
            raise ValueError(f"sizes must not be empty and num_frames must be 4n + 1, got {self.num_frames}")
        if self.codec.channels > self.dit.in_channels or self.codec.channels != self.dit.out_channels:
            raise ValueError(
                f"codec.channels {self.codec.channels} must equal dit.out_channels {self.dit.out_channels} and not "
                f"exceed dit.in_channels {self.dit.in_channels}"
            )
        if self.sampling.guidance != 1 and not self.dit.text_dim:
            raise ValueError("sampling.guidance is by text: set it to 1 where dit.text_dim is 0")
        if (self.text and not self.dit.text_dim) or (self.image and not self.dit.image_dim):
            raise ValueError(
                "text and image are encoders for dit.text_dim and dit.image_dim: set them null where that is 0"
            )
        token_px = self.codec.stride * self.dit.patch_size[1]
        if self.rays.token_px != token_px:
            raise ValueError(f"rays.token_px {self.rays.token_px} must be codec.stride x dit.patch_size = {token_px}")
        if not 0 <= self.tap_layer < self.dit.num_layers:
            raise ValueError(f"tap_layer {self.tap_layer} must lie in [0, {self.dit.num_layers - 1}]")
        if self.dit.attention == "factorised" and self.tap_layer % 2 == 0:
            raise ValueError(f"dit.attention factorised: views meet in odd blocks only, tap_layer is {self.tap_layer}")
        if not all(0 <= layer < self.dit.num_layers for layer in self.logit_heads):
            raise ValueError(f"logit_heads {list(self.logit_heads)} must lie in [0, {self.dit.num_layers - 1}]")
        if self.views is not None:
            self.views.check_model(self.num_frames, self.dit.rope_frames, has_tracking=self.tracking is not None)


@dataclass(frozen=True)
class OptimConfig:
    name: Literal["adamw", "muon"] = "adamw"
    lr: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.01
    muon_lr: float = 0.02
    muon_momentum: float = 0.95
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup_steps: int = 100
    final_lr_ratio: float = 0.02
    grad_clip: float = 1.0
    trainable: tuple[str, ...] = ("*",)  # fnmatch patterns of parameter names


@dataclass(frozen=True)
class CorrespondenceLossConfig:
    """How rows of attention are compared with their labels. The defaults are MVTrack4Gen's (eq. 20, method §6-§7).

    heads: what becomes one distribution over a key frame: the mean of the heads' probabilities, each head on its own
    (mean of losses), the mean of their logits, or a small MLP over their logits (`LogitHead`).
    label_scope: a label in every key frame, or only in the one whose 3D point is nearest (CAMEO's released code;
    the other rows still count in the denominator).
    exclude: key frames that are never asked for: the query's own frame, its whole view, or none.
    reduction: weighted mean over all rows, or that of reference queries plus that of target queries.
    average: over each sample and then over the batch (so that micro-batches change nothing), or over all rows at once.
    loss: -log p(label), or the L1 distance to the one-hot label, averaged over the key frame's cells.
    """

    heads: Literal["prob_mean", "per_head", "logit_mean", "mlp"] = "prob_mean"
    label_scope: Literal["per_pair", "best_view"] = "per_pair"
    exclude: Literal["own_frame", "own_view", "nothing"] = "own_frame"
    reduction: Literal["weighted_mean", "ref_plus_tgt"] = "weighted_mean"
    average: Literal["per_sample", "batch"] = "per_sample"
    loss: Literal["cross_entropy", "l1"] = "cross_entropy"


@dataclass(frozen=True)
class PointMatchConfig:
    """Which 3D nearest neighbours become labels (CAMEO §3.3).

    resize: how point maps come to the token grid: bilinear (CAMEO), or the pixel at the token's centre.
    pairs: match all views and frames (a static scene), or views at the same time only (things move).
    cycle_cells: matching forward and back must end less than this many token cells from the start; None: no check.
    max_distance: largest 3D distance of a match, in the points' unit; None: no gate.
    max_spacings: the same as a multiple of the distance between neighbouring tokens' points, free of units; null: no
    gate, as in CAMEO's released code, and border cells of views that share nothing match.
    min_confidence: points below it are left out; needs a confidence map.
    """

    resize: Literal["bilinear", "nearest"] = "bilinear"
    pairs: Literal["all", "same_time"] = "all"
    cycle_cells: float | None = 1.5
    max_distance: float | None = None
    max_spacings: float | None = 2.0
    min_confidence: float | None = None

    def __post_init__(self) -> None:
        for name in ("cycle_cells", "max_distance", "max_spacings"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be positive or null, got {value}")


@dataclass(frozen=True)
class LossConfig:
    """correspondence: weight of the correspondence loss, 0 is off; the mean over `correspondence_layers` is taken.

    correspondence_targets: target tokens' cells in the reference at the same time by exact depth, visible track points
    in all views and frames (MVTrack4Gen), or nearest 3D points (CAMEO). correspondence_queries: drawn per sample from
    the latter two; null: all.
    tracking: weight of the tracking head's loss, 0 is off; tracking_points: points followed per sample.
    """

    correspondence: float = 0.0
    correspondence_layers: tuple[int, ...] | None = None  # null: model.tap_layer
    correspondence_targets: Literal["depth", "tracks", "points"] = "depth"
    correspondence_queries: int | None = 1024
    correspondence_options: CorrespondenceLossConfig = field(default_factory=CorrespondenceLossConfig)
    correspondence_matches: PointMatchConfig = field(default_factory=PointMatchConfig)
    tracking: float = 0.0
    tracking_points: int = 64
    tracking_options: TrackLossConfig = field(default_factory=TrackLossConfig)

    def __post_init__(self) -> None:
        layers = self.correspondence_layers
        if layers is not None and (not layers or list(layers) != sorted(set(layers))):
            raise ValueError(f"correspondence_layers must name layers once, in ascending order, got {list(layers)}")
        if self.correspondence < 0 or self.tracking < 0 or self.tracking_points < 1:
            raise ValueError(
                f"correspondence and tracking must not be negative and tracking_points at least 1, got "
                f"{self.correspondence}, {self.tracking} and {self.tracking_points}"
            )
        if self.correspondence_queries is not None and self.correspondence_queries < 1:
            raise ValueError(f"correspondence_queries must be at least 1 or null, got {self.correspondence_queries}")
        if self.correspondence_options.label_scope == "best_view" and self.correspondence_targets != "points":
            raise ValueError("label_scope best_view compares 3D distances: set correspondence_targets: points")
        if self.correspondence_matches.min_confidence is not None:
            raise ValueError("min_confidence needs confidence maps, which training data does not have: set it to null")


@dataclass(frozen=True)
class TrainConfig:
    steps: int = 1000
    batch_size: int = 1  # all ranks together
    micro_batch_size: int = 1  # one rank, one forward
    seed: int = 0
    precision: Literal["fp32", "bf16", "autocast_bf16"] = "fp32"
    zero_stage: Literal[0, 1, 2, 3] = 0  # bf16 keeps float32 masters, so its stage 0 runs as stage 1
    offload_optimizer: bool = False  # optimiser state and update on the CPU; stages 1 to 3
    offload_parameters: bool = False  # weights too; stage 3
    gradient_checkpointing: bool = False  # recompute transformer blocks in the backward pass
    checkpoint_blocks: int | None = None  # only so many, from the first; null: all
    checkpoint_keep: Literal["nothing", "attention"] = "nothing"  # of a recomputed block: the output of self-attention
    attention: AttentionKernel = "auto"
    compile: bool = False  # torch.compile the transformer block
    ema_decay: float = 0.999
    on_nonfinite: Literal["stop", "skip"] = "stop"  # skip: leave the update out on all ranks, and count it
    max_skipped: int = 20  # stop after so many
    log_every: int = 20
    save_every: int = 500
    keep_last: int = 2
    keep_every: int | None = None  # also keep checkpoints at multiples of this step
    validate_every: int = 500
    validate_clips: int = 4
    stop_after: int | None = None  # save and stop at this step, with the schedule of all `steps`
    timeout_s: int = 1800  # how long ranks wait for each other
    peak_tflops: float | None = None  # of one device, for FLOP utilisation; None: known GPUs only
    wandb: bool = False
    init_from: str | None = None  # a model to start from: its folder, file or hub id
    run_dir: str = "runs/train"

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch_size < 1 or self.micro_batch_size < 1:
            raise ValueError("train.steps, train.batch_size and train.micro_batch_size must be at least 1")
        if self.batch_size % self.micro_batch_size:
            raise ValueError(
                f"train.batch_size {self.batch_size} must be a multiple of train.micro_batch_size "
                f"{self.micro_batch_size}"
            )
        counts = ("log_every", "save_every", "validate_every", "keep_last", "validate_clips", "timeout_s")
        for name in counts:
            if getattr(self, name) < 1:
                raise ValueError(f"train.{name} must be at least 1, got {getattr(self, name)}")
        if self.checkpoint_blocks is not None and self.checkpoint_blocks < 0:
            raise ValueError(f"train.checkpoint_blocks must not be negative, got {self.checkpoint_blocks}")
        if not self.gradient_checkpointing and (
            self.checkpoint_blocks is not None or self.checkpoint_keep != "nothing"
        ):
            raise ValueError("train.checkpoint_blocks and checkpoint_keep need train.gradient_checkpointing: true")
        if self.offload_optimizer and self.zero_stage == 0:
            raise ValueError("train.offload_optimizer needs train.zero_stage 1, 2 or 3")
        if self.offload_parameters and (self.zero_stage != 3 or not self.offload_optimizer):
            raise ValueError("train.offload_parameters needs train.zero_stage: 3 and train.offload_optimizer: true")


@dataclass(frozen=True)
class RunConfig:
    """One training run."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        token_px = self.model.rays.token_px
        for source in (*self.data.banks, *self.data.latents):
            if source.size[0] % token_px or source.size[1] % token_px:
                raise ValueError(f"{source.root}: size {source.size} is not divisible by the token size {token_px}")
        self._check_latents()
        if (self.loss.tracking > 0) != (self.model.tracking is not None):
            raise ValueError(
                "loss.tracking trains the head that model.tracking describes: set both (model.tracking: {} for the "
                "defaults), or loss.tracking: 0 and model.tracking: null"
            )
        last = self.model.dit.num_layers - 1
        for layer in self.loss.correspondence_layers or ():
            if not 0 <= layer <= last:
                raise ValueError(f"loss.correspondence_layers: layer {layer} must lie in [0, {last}]")
        self._check_logit_heads()
        if self.model.views is not None:
            self._check_views(self.model.views)
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
        if self.model.views is not None:
            raise ValueError("model.views are of rendered scenes: set data.banks, and data.latents: []")
        if loss.correspondence > 0 and loss.correspondence_targets != "tracks":
            raise ValueError(
                f"data.latents keep point tracks, no {loss.correspondence_targets}: set loss.correspondence_targets: "
                "tracks"
            )
        if self.model.codec.kind == "pca" and not self.train.init_from:
            raise ValueError("data.latents of a pca codec belong to a model: name it in train.init_from")

    def _check_logit_heads(self) -> None:
        loss = self.loss
        used = loss.correspondence > 0 and loss.correspondence_options.heads == "mlp"
        needed = (loss.correspondence_layers or (self.model.tap_layer,)) if used else ()
        if needed != self.model.logit_heads:
            raise ValueError(
                f"loss.correspondence_options.heads mlp trains one of model.logit_heads for each supervised layer: set "
                f"model.logit_heads: {list(needed)}, got {list(self.model.logit_heads)}"
            )

    def _check_views(self, views: ViewsConfig) -> None:
        views.check_banks(self.data.num_frames, {b.root: (b.static, b.num_views) for b in self.data.banks})
        if self.loss.correspondence > 0:
            views.check_loss(self.loss.correspondence_targets, self.loss.correspondence_options.exclude)


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a YAML file and apply `section.key=value` overrides.

    Raises ValueError that names the file, the key and the nearest known key.
    """
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
    return from_tree(RunConfig, tree, where=str(path))
