"""The training of an aligning decoder, read from YAML as other runs are."""

from dataclasses import field
from typing import Literal

from mvtrack.config.checked import Count, NonNegative, NonNegativeInt, Positive, Share, config
from mvtrack.config.encoders import CodecConfig
from mvtrack.config.matching import MatchingConfig
from mvtrack.config.training import TrainingConfig


@config
class AlignerConfig:
    """Sizes of an aligning decoder; null: those of the codec's kind.

    width: the codec's own, or of the tiny codecs' decoder. points: on each ray, by level, the coarsest first; []: no
    view sees another. dim: of what is sampled. sources: views that each view asks. reach: how far before and behind a
    surface points lie, in tenths of the scene's depth or of the object's size; 1 as in the paper.
    """

    width: Count | None = None
    points: tuple[Count, ...] | None = None
    dim: Count | None = None
    sources: Count | None = None
    reach: Positive = 1.0


@config
class DecoderConfig:
    """What is trained, and what it learns to repair.

    tune: the aligner alone; the VAE's own decoder, whose views see no other; or both, as in the paper (optim.trainable
    picks among their weights: levels.*, host.*). model: a model's folder, whose codec it stands behind; null: the tiny
    one that ships, or `codec`; a pca codec is fitted to the first scenes, for experiments. latents: targets as the
    model itself restores them from a noise level of `sigma`, or as the codec encodes them. noise: of depth, structured
    (wrong over areas, Depth Guided Decoder §3.3), independent (at every pixel), or none; noise_scale: times the paper's
    amplitudes. perceptual: weight of LPIPS beside the mean squared error; perceptual_backbone: its VGG-16,
    torchvision's file. matching: who counts the matches between views in validation.
    """

    tune: Literal["aligner", "decoder", "both"] = "aligner"
    model: str | None = None
    codec: CodecConfig | None = None
    aligner: AlignerConfig = field(default_factory=AlignerConfig)
    latents: Literal["restored", "encoded"] = "encoded"
    sigma: tuple[Share, Share] = (0.4, 0.98)
    noise: Literal["structured", "independent", "none"] = "structured"
    noise_scale: NonNegative = 1.0
    perceptual: NonNegative = 0.0
    perceptual_backbone: str | None = None
    matching: MatchingConfig = field(default_factory=MatchingConfig)

    def __post_init__(self) -> None:
        if self.model is not None and self.codec is not None:
            raise ValueError("decoder.model has a codec: leave decoder.codec out")
        if self.codec is not None and self.codec.kind == "pca" and self.tune != "aligner":
            raise ValueError(f"a pca codec has no decoder to tune: set decoder.tune to aligner, not {self.tune}")
        if self.codec is not None and self.latents == "restored":
            raise ValueError("decoder.latents restored needs the model that restores them: set decoder.model")
        if (self.perceptual > 0) != (self.perceptual_backbone is not None):
            raise ValueError("decoder.perceptual and decoder.perceptual_backbone go together: set both or none")
        if self.sigma[0] > self.sigma[1]:
            raise ValueError(f"decoder.sigma must be two noise levels, the lower first, got {self.sigma}")


@config
class DecoderDataConfig:
    """Rendered scenes with exact depth, made in `root` when they are needed, or renders that lie there.

    kind: two views of a scene that moves; of objects the views of Wonder3D's or of SyncDreamer's rig; or renders, of
    Objaverse or GSO, in the layout of either; the last of them are validated on. ortho_scale: units that Wonder3D's
    renders are wide. views: of the rig, by number, the known one first; null: all. num_scenes: at most. num_frames: of
    a clip; frames: of them in a step (objects have one).
    """

    kind: Literal["moving", "wonder3d", "syncdreamer", "renders"] = "moving"
    root: str = "bank/decoder"
    size: tuple[Count, Count] = (64, 64)
    num_scenes: Count = 512
    num_frames: Count = 1
    frames: Count = 1
    seed: int = 90_000
    workers: NonNegativeInt = 1
    views: tuple[NonNegativeInt, ...] | None = None
    ortho_scale: Positive | None = None

    def __post_init__(self) -> None:
        if self.ortho_scale is not None and self.kind != "renders":
            raise ValueError(f"data.ortho_scale is for data.kind renders, not {self.kind}: leave it out")
        rig = {"wonder3d": 6, "syncdreamer": 16, "renders": 16}.get(self.kind, 0)
        if self.views is not None and (len({*self.views} & {*range(rig)}) != len(self.views) or len(self.views) < 2):
            raise ValueError(
                f"data.views must be two or more of the views of data.kind {self.kind}, 0 to {rig - 1}, each once, got "
                f"{list(self.views)}"
                if rig
                else "data.views is for rendered objects: leave it out, or set data.kind to wonder3d or syncdreamer"
            )
        if self.frames > self.num_frames:
            raise ValueError(f"data.frames {self.frames} are more than data.num_frames, {self.num_frames}")
        if self.kind != "moving" and (self.num_frames != 1 or self.size[0] != self.size[1]):
            raise ValueError(f"data.kind {self.kind} has square pictures of one frame: set data.num_frames: 1")


@config
class DecoderRunConfig(TrainingConfig):
    """One training run of a decoder."""

    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    data: DecoderDataConfig = field(default_factory=DecoderDataConfig)

    def __post_init__(self) -> None:
        for name, used, instead in (
            ("train.zero_stage", self.train.zero_stage == 3, "2"),
            ("train.compile", self.train.compile, "false"),
            ("train.sequence_parallel", self.train.sequence_parallel > 1, "1"),
            ("train.checkpoint_blocks", self.train.checkpoint_blocks is not None, "null"),
            ("train.checkpoint_keep", self.train.checkpoint_keep != "nothing", "nothing"),
            ("train.init_from", self.train.init_from is not None, "null"),
            ("optim.lora", self.optim.lora is not None, "null"),
        ):
            if used:
                raise ValueError(f"{name} is not for the training of a decoder: set it to {instead}")
        if self.optim.name == "muon" and (self.train.zero_stage > 0 or self.train.precision == "bf16"):
            raise ValueError("optim.name muon works on whole float32 matrices: set train.zero_stage: 0")
