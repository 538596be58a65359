"""What a whole series of evaluations has in common: weights, other programs' environments, the conventions of measures
and of benchmarks. One YAML file (`--settings FILE`, docs/evaluation.md) holds what differs from the defaults below."""

from collections.abc import Sequence
from dataclasses import asdict, field, fields, replace
from pathlib import Path
from typing import Literal

import yaml

from mvtrack.config.checked import Count, NonNegativeInt, Positive, config
from mvtrack.config.matching import MatchingConfig
from mvtrack.config.placement import Placement
from mvtrack.config.sizes import FitMode
from mvtrack.config.tree import apply_override, from_tree
from mvtrack.evaluation.adapters import interpreter_in_environment
from mvtrack.evaluation.measures.camera import CameraOrigin
from mvtrack.evaluation.measures.pair_features import FeatureKind, MaskKind
from mvtrack.evaluation.measures.pair_sources import NETWORK_KINDS
from mvtrack.evaluation.measures.weight_files import default_weights
from mvtrack.geometry.presets import PIVOT_M
from mvtrack.inference.camera_estimation.depth_anything import DepthAnythingConfig
from mvtrack.inference.camera_estimation.source_cameras import AUTO
from mvtrack.inference.pipeline import DEFAULT_FOV_DEG
from mvtrack.metrics.camera_accuracy import ScaleRule
from mvtrack.metrics.perceptual import LpipsNet
from mvtrack.metrics.warp_consistency import Pairing

Geometry = Literal["true_depth", "estimated_depth", "depth_files", "mast3r", "vggt", "depth_anything_3"]


@config
class Environments:
    """The interpreter of each program's environment; None: what its variable names, see `adapters.py`."""

    vbench: Path | None = None
    met3r: Path | None = None
    mast3r: Path | None = None
    vggt: Path | None = None
    depth_anything_3: Path | None = None

    def __post_init__(self) -> None:
        for f in fields(self):
            python = getattr(self, f.name)
            if python is not None and not python.is_file():
                raise ValueError(f"{f.name} {python} does not exist: name the environment's interpreter")

    def python(self, name: str) -> Path | None:
        return getattr(self, name) or interpreter_in_environment(name)


@config
class ConsistencyConfig:
    """Geometric consistency. geometry, features: each of one with each of the other is a `warp_consistency`.
    geometry_model: a hub id or path for the network among the geometries, "": the published one. pairs: which frames
    are compared. dynamic_mask: whose pixels the masks are of; generated_masks: <row>/<case>.npz with mask (T, H, W).
    depth_files: {reference,<row>}/<case>.npz with depth (T, H, W)."""

    geometry: tuple[Geometry, ...] = ("true_depth",)
    geometry_model: str = ""
    features: tuple[FeatureKind, ...] = ("colours",)
    pairs: Pairing = "same_time"
    dynamic_mask: MaskKind = "reference"
    generated_masks: Path | None = None
    depth_files: Path | None = None

    def __post_init__(self) -> None:
        if self.geometry_model and len(set(self.geometry) & set(NETWORK_KINDS)) != 1:
            raise ValueError("geometry_model is for one network: name exactly one in geometry")
        if (self.dynamic_mask == "generated") != (self.generated_masks is not None):
            raise ValueError("dynamic_mask generated and the masks' folder, generated_masks, belong together")
        for name in ("generated_masks", "depth_files"):
            folder = getattr(self, name)
            if folder is not None and not folder.is_dir():
                raise ValueError(f"{name} {folder} is no folder")
        if self.depth_files is not None and "depth_files" not in self.geometry:
            raise ValueError("depth_files has no effect: add depth_files to geometry")


@config
class PosesConfig:
    """Where the poses of videos come from, and how paths are compared. files: <row>/<case>.<any pose format>. scale:
    what settles a path's unit; origin: whose first frame cameras are relative to, None: what suits the benchmark; see
    `CameraMeasure`. model, ray_pose: Depth Anything 3's weights, and its ray head in place of its camera head."""

    estimator: Literal["colmap", "depth_anything_3", "files", "truth"] = "colmap"
    files: Path | None = None
    scale: ScaleRule = "self_max"
    origin: CameraOrigin | None = None
    model: str = DepthAnythingConfig().model
    ray_pose: bool = False

    def __post_init__(self) -> None:
        if (self.estimator == "files") != (self.files is not None):
            raise ValueError("estimator files and the folder with <row>/<case>.<any pose format>, files, go together")
        if self.estimator != "depth_anything_3" and (self.ray_pose or self.model != DepthAnythingConfig().model):
            raise ValueError(f"model and ray_pose are for estimator depth_anything_3, this is {self.estimator}")


@config
class RowConfig:
    """How rows of models and of other programs' videos are made. group: heading above the row. resize_videos: scale
    videos of another size, which fail otherwise. other_size: let a model make the benchmark's size where it was trained
    at others. negative: what guidance steers away from; None: the list of Wan's authors. decoder: folder of an aligning
    decoder, with which a model's videos are decoded a second time."""

    group: str = "Models"
    resize_videos: bool = False
    other_size: bool = False
    negative: str | None = None
    decoder: Path | None = None


@config
class DavisConfig:
    """resolution: the folder under JPEGImages and under `annotations`, the folder of masks. fov_deg: horizontal, where
    nothing says it. subject_distance: nominal, metres. cameras: folder with a pose file for each sequence, or "auto" to
    measure them (pycolmap); None: the source is still. short_clips, fit: see `Davis`."""

    resolution: str = "480p"
    annotations: str = "Annotations"
    fov_deg: Positive = DEFAULT_FOV_DEG
    subject_distance: Positive = PIVOT_M
    cameras: str | None = None
    short_clips: Literal["score_real", "skip"] = "score_real"
    fit: FitMode = "crop"

    def __post_init__(self) -> None:
        if self.cameras is not None and self.fov_deg != DEFAULT_FOV_DEG:
            raise ValueError("fov_deg has no effect where cameras are named: leave one of them out")

    def arguments(self) -> dict:
        """Of `Davis`."""
        cameras = self.cameras if self.cameras in (None, AUTO) else Path(self.cameras).expanduser()
        return asdict(self) | {"cameras": cameras}


@config
class IPhoneConfig:
    """start: first frame of the moving camera. stride: every so manyth of its frames. fit: how portrait pictures meet
    the size."""

    start: NonNegativeInt = 0
    stride: Count = 1
    fit: FitMode = "crop"


@config
class EvaluationSettings:
    """weights: folder of weight files by their published names; None: $MVTRACK_WEIGHTS. placement: where and how models
    work. matching: who counts matches between views in `eval/decoder.py`. The rest: see the sections."""

    weights: Path | None = None
    lpips_net: LpipsNet = "alex"
    environments: Environments = field(default_factory=Environments)
    consistency: ConsistencyConfig = field(default_factory=ConsistencyConfig)
    poses: PosesConfig = field(default_factory=PosesConfig)
    row: RowConfig = field(default_factory=RowConfig)
    matching: MatchingConfig = field(default_factory=MatchingConfig)
    placement: Placement = field(default_factory=Placement)
    davis: DavisConfig = field(default_factory=DavisConfig)
    iphone: IPhoneConfig = field(default_factory=IPhoneConfig)

    def __post_init__(self) -> None:
        if self.weights is not None and not self.weights.is_dir():
            raise ValueError(f"weights {self.weights} is no folder")


def load_settings(path: Path | None = None, overrides: Sequence[str] = ()) -> EvaluationSettings:
    """Settings from a YAML file and `section.key=value` changes; the rest are the defaults, or the environment's.
    Raises ValueError that names the file, the key and the allowed values."""
    try:
        tree = {} if path is None else yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, yaml.YAMLError) as error:
        raise ValueError(f"cannot read the settings {path}: {' '.join(str(error).split())}") from None
    for override in overrides:
        apply_override(tree, override)
    settings = from_tree(EvaluationSettings, tree, str(path or "settings"))
    return replace(settings, weights=settings.weights or default_weights())
