"""What a model is: everything that is needed to rebuild it from its weights file."""

from dataclasses import field
from typing import Annotated, Literal

from mvtrack.config.backbones import HunyuanConfig, UNetConfig
from mvtrack.config.checked import Count, NonNegativeInt, Positive, Range, config
from mvtrack.config.diffusion import DiffusionConfig
from mvtrack.config.encoders import WAN_REPOSITORY, CodecConfig, ImageConfig, TextConfig
from mvtrack.config.features import ProjectorConfig
from mvtrack.config.views import ViewsConfig
from tracking_head import HeadConfig


@config
class DiTConfig:
    """Sizes and branches of the transformer; defaults are Wan2.1-T2V-1.3B.

    Branches of released checkpoints: ReCamMaster's `pose_encoder` (poses into self-attention's input) and `projector`
    (on its output); `control_adapter` (maps of the camera's rays, Wan-Fun's) and, on its tokens, ReDirector's
    `rope_phases`; `image_dim`, the width of CLIP's image tokens.

    camera_encoding: `prope` transforms half of every head's channels by the projections of the tokens' cameras
    (models/camera_encoding.py), beside the rays; RoPE keeps the other half, to which `rope_pairs` must sum.

    attention: `factorised` lets tokens of the even blocks attend to all frames of their own view, those of the odd
    blocks to all views at their own moment; the first `full_attention_blocks` keep attending to everything. The
    parameters are the same, so a model can be fine-tuned from one to the other.

    reference_attention: `own` lets the reference's tokens attend to each other alone, as if at noise level 0, while the
    target's attend to all: their keys and values are then computed once a video (models/reference_pass.py). The
    parameters are those of `joint`.
    """

    dim: Count = 1536
    ffn_dim: Count = 8960
    num_heads: Count = 12
    num_layers: Count = 30
    patch_size: tuple[Count, Count, Count] = (1, 2, 2)
    in_channels: Count = 16  # more than the codec's: the missing ones are zero
    out_channels: Count = 16
    text_dim: NonNegativeInt = 4096  # 0: no text branch
    freq_dim: Count = 256
    eps: Positive = 1e-6
    rope_frames: Literal["concat", "shared", "by_view"] = "concat"
    rope_theta: Positive = 10000.0
    rope_pairs: tuple[int, int, int] | None = None  # (frame, row, column); None: Wan's split
    attention: Literal["full", "factorised"] = "full"
    full_attention_blocks: NonNegativeInt = 0  # of a factorised transformer
    reference_attention: Literal["joint", "own"] = "joint"
    role_embedding: bool = False  # a learned vector that tells reference from target tokens
    init: Literal["wan", "open_gates"] = "wan"
    pose_encoder: bool = False
    projector: bool = False
    control_adapter: bool = False
    rope_phases: bool = False
    camera_encoding: Literal["none", "prope"] = "none"
    image_dim: NonNegativeInt = 0  # 0: no image branch
    tap_features: Literal["after_rope", "before_rope"] = "after_rope"  # q and k for the losses and the tracking head

    def __post_init__(self) -> None:
        if self.rope_phases and not self.control_adapter:
            raise ValueError("dit.rope_phases turn with the adapter's camera tokens: set dit.control_adapter: true")
        if self.image_dim and not self.text_dim:
            raise ValueError("dit.image_dim is a branch of the attention to text: it needs dit.text_dim")
        if self.dim % self.num_heads or (self.dim // self.num_heads) % 2:
            raise ValueError(f"dit.dim {self.dim} must divide into an even width for {self.num_heads} dit.num_heads")
        if self.camera_encoding == "prope" and self.rope_phases:
            raise ValueError(
                "dit.camera_encoding prope and dit.rope_phases both turn channels by the camera: choose one"
            )
        if self.camera_encoding == "prope" and self.head_dim % 8:
            raise ValueError(f"dit.camera_encoding prope needs heads of a multiple of 8 channels, got {self.head_dim}")
        if self.rope_pairs is not None and sum(self.rope_pairs) != self.rope_dim // 2:
            raise ValueError(
                f"dit.rope_pairs {self.rope_pairs} must sum to {self.rope_dim // 2}, half the "
                f"{'head' if self.camera_encoding == 'none' else 'rest of the head'} width"
            )
        if self.patch_size[0] != 1:
            raise ValueError(f"dit.patch_size must not fold frames (1, p, q), got {self.patch_size}")
        if self.full_attention_blocks > (self.num_layers if self.attention == "factorised" else 0):
            raise ValueError(
                f"dit.full_attention_blocks {self.full_attention_blocks} must be at most dit.num_layers "
                f"{self.num_layers} with dit.attention: factorised, and 0 with full"
            )
        if self.freq_dim % 2:
            raise ValueError(f"dit.freq_dim must be even, got {self.freq_dim}")

    @property
    def size_unit(self) -> int:
        """Latents to a side must be a multiple of it."""
        return self.patch_size[1]

    def token_side(self, _layer: int) -> int:
        """Latents to a side of a token."""
        return self.patch_size[1]

    def layer_width(self, _layer: int) -> int:
        """Values of a token."""
        return self.dim

    @property
    def head_dim(self) -> int:
        """Channels of one head."""
        return self.dim // self.num_heads

    @property
    def rope_dim(self) -> int:
        """Channels of a head that RoPE turns."""
        return self.head_dim if self.camera_encoding == "none" else self.head_dim // 2


@config
class RayConfig:
    """How cameras enter the transformer (method §1).

    scale: what one unit of length means to the model: the reference's median depth, or the larger extent of the two
    camera paths (unknown depth), or the camera's own unit.
    drop: share of training samples whose rays are all zero, so that sampling can be guided by the camera (CAMEO's 0.1).
    """

    token_px: Count = 16
    stride: Count = 4  # pixels between the rays that are computed
    fourier_bands: NonNegativeInt = 0  # sin/cos at pi 2^k, k = 1 .. bands, beside the raw values
    hidden_dim: Count | None = None
    kernel_size: Count = 3
    scale: Literal["median_depth", "path_extent", "none"] = "median_depth"
    proj_init: Literal["zero", "normal"] = "zero"
    drop: Annotated[float, Range(0, 1, high_open=True)] = 0.0

    def __post_init__(self) -> None:
        if self.token_px % self.stride:
            raise ValueError(f"rays.stride {self.stride} must divide rays.token_px {self.token_px}")
        if self.kernel_size % 2 == 0:
            raise ValueError(f"rays.kernel_size must be odd, got {self.kernel_size}")

    @property
    def channels(self) -> int:
        """Channels of one packed ray map: 6 coordinates x 4 frames x (raw + sines and cosines)."""
        return 24 * (1 + 2 * self.fourier_bands)


@config
class NativeCameraConfig:
    """How a released checkpoint's own camera branch is driven; lengths are metres.

    origin: poses are relative to the reference's first frame, or to each view's own first frame.
    pose_view: whose pose a token gets: the target's (reference tokens too, ReCamMaster), or its own view's.
    map_order: which three channels of a Plücker map come first, the moment or the direction.
    """

    origin: Literal["reference", "own"] = "reference"
    pose_view: Literal["target", "own"] = "target"
    map_order: Literal["moment_first", "direction_first"] = "moment_first"


@config
class FlowConfig:
    """Rectified flow (method §2)."""

    shift: Positive = 5.0
    prediction: Literal["velocity", "x0"] = "velocity"
    timestep_sampling: Literal["shifted", "uniform", "logit_normal"] = "shifted"
    weighting: Literal["wan", "none"] = "wan"


@config
class SamplingConfig:
    """How a model is meant to be sampled: what `reshoot` does unless it is told otherwise.

    guidance: scale of text guidance, 1 is none. precision: of the weights while they sample; stored: as in the file.
    cache_fit: of the step cache, see `StepCache`; `mvtrack calibrate` writes it.
    """

    steps: Count = 8
    guidance: float = 1.0
    precision: Literal["stored", "float32", "bfloat16"] = "stored"
    cache_fit: tuple[float, ...] | None = None


@config
class ModelConfig:
    """Everything needed to rebuild a model from its weights file; defaults are Wan2.1-T2V-1.3B.

    dit, cat3d, hunyuan: the backbone, exactly one of them; the latter two make views of still scenes, and have rays of
    their own instead of `rays`. diffusion: the discrete schedule that it is trained and sampled with; null: rectified
    flow.
    """

    dit: DiTConfig | None = field(default_factory=DiTConfig)
    cat3d: UNetConfig | None = None
    hunyuan: HunyuanConfig | None = None
    rays: RayConfig = field(default_factory=RayConfig)
    native_camera: NativeCameraConfig = field(default_factory=NativeCameraConfig)
    codec: CodecConfig = CodecConfig(kind="wan_vae", channels=16, stride=8, weights=WAN_REPOSITORY)
    text: TextConfig | None = None  # what turns captions into text features; null: features are given
    image: ImageConfig | None = None
    flow: FlowConfig = field(default_factory=FlowConfig)
    diffusion: DiffusionConfig | None = None
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    tap_layer: NonNegativeInt = 18
    tracking: HeadConfig | None = None  # the tracking head on the tapped block; null: none
    logit_heads: tuple[NonNegativeInt, ...] = ()  # layers with CAMEO's MLP over the heads' logits, for the loss
    feature_projector: ProjectorConfig | None = None  # to another network's features, for REPA and Geometry Forcing
    views: ViewsConfig | None = None  # null: re-shoots videos; else makes views of still scenes
    sizes: tuple[tuple[Count, Count], ...] = ((480, 832),)  # (H, W) it was trained at; a video gets the nearest aspect
    num_frames: Count = 81  # length of one window
    max_angle_deg: Annotated[float, Range(0, 180, True)] | None = None  # of training's paths, if known

    def __post_init__(self) -> None:
        names = [name for name in ("dit", "cat3d", "hunyuan") if getattr(self, name) is not None]
        if len(names) != 1:
            raise ValueError(
                f"a model has one backbone, got {' and '.join(names) or 'none'}: set the others of dit, cat3d and "
                "hunyuan to null"
            )
        if not self.sizes or (self.num_frames - 1) % 4:
            raise ValueError(f"sizes must not be empty and num_frames must be 4n + 1, got {self.num_frames}")
        for size in self.sizes:
            if size[0] % self.size_unit_px or size[1] % self.size_unit_px:
                raise ValueError(f"sizes {size} is not divisible by the token size {self.size_unit_px}")
        if self.dit is not None:
            self._check_dit(self.dit)
        else:
            self._check_view_backbone(names[0])
        if self.sampling.guidance != 1 and not self.text_dim:
            raise ValueError("sampling.guidance is by text: set it to 1 where dit.text_dim is 0")
        if (self.text and not self.text_dim) or (self.image and not self.image_dim):
            raise ValueError(
                "text and image are encoders for dit.text_dim and dit.image_dim: set them null where that is 0"
            )
        if not 0 <= self.tap_layer < self.num_layers:
            raise ValueError(f"tap_layer {self.tap_layer} must lie in [0, {self.num_layers - 1}]")
        if not all(0 <= layer < self.num_layers for layer in self.logit_heads):
            raise ValueError(f"logit_heads {list(self.logit_heads)} must lie in [0, {self.num_layers - 1}]")
        if self.feature_projector and not self.feature_projector.layer < self.num_layers:
            raise ValueError(f"feature_projector.layer {self.feature_projector.layer} must be below {self.num_layers}")
        if self.views is not None:
            rope_frames = self.dit.rope_frames if self.dit else "shared"
            self.views.check_model(self.num_frames, rope_frames, has_tracking=self.tracking is not None)

    def _check_dit(self, dit: DiTConfig) -> None:
        if self.codec.channels > dit.in_channels or self.codec.channels != dit.out_channels:
            raise ValueError(
                f"codec.channels {self.codec.channels} must equal dit.out_channels {dit.out_channels} and not "
                f"exceed dit.in_channels {dit.in_channels}"
            )
        if self.views is not None and dit.reference_attention == "own":
            raise ValueError("dit.reference_attention own re-shoots videos: set it to joint in a model with views")
        if self.rays.token_px != self.size_unit_px:
            raise ValueError(
                f"rays.token_px {self.rays.token_px} must be codec.stride x dit.patch_size = {self.size_unit_px}"
            )
        apart = dit.attention == "factorised" and self.tap_layer >= dit.full_attention_blocks
        if apart and self.tap_layer % 2 == 0:
            raise ValueError(f"dit.attention factorised: views meet in odd blocks only, tap_layer is {self.tap_layer}")

    def _check_view_backbone(self, name: str) -> None:
        if self.views is None or self.views.encoding != "images":
            raise ValueError(f"{name} makes views of still scenes: set views with encoding: images")
        if self.codec.channels != self.backbone.channels or self.codec.stride != 8:
            raise ValueError(
                f"codec.channels {self.codec.channels} must equal {name}.channels {self.backbone.channels}, and "
                f"codec.stride be 8, got {self.codec.stride}"
            )
        if self.rays != RayConfig() or self.native_camera != NativeCameraConfig():
            raise ValueError(f"rays and native_camera are dit's: set {name}.rays")
        if self.backbone.logit_heads:
            raise ValueError(f"{name}.logit_heads is of networks without a model: set model.logit_heads")

    @property
    def backbone(self) -> DiTConfig | UNetConfig | HunyuanConfig:
        """Of the network."""
        return self.dit or self.cat3d or self.hunyuan

    @property
    def num_layers(self) -> int:
        """Layers of self-attention."""
        return self.backbone.num_layers

    @property
    def text_dim(self) -> int:
        """Values of a caption's token; 0: the model takes no text."""
        return self.dit.text_dim if self.dit else 0

    @property
    def image_dim(self) -> int:
        """Values of an image token; 0: the model takes none."""
        return self.dit.image_dim if self.dit else 0

    @property
    def ray_drop(self) -> float:
        """Share of training without cameras."""
        return self.rays.drop if self.dit else self.backbone.rays.drop

    @property
    def size_unit_px(self) -> int:
        """Pixels of which the sides of pictures must be multiples."""
        return self.codec.stride * self.backbone.size_unit

    def token_px(self, layer: int | None = None) -> int:
        """Pixels to a side of a layer's token; None: of the tapped layer."""
        return self.codec.stride * self.backbone.token_side(self.tap_layer if layer is None else layer)
