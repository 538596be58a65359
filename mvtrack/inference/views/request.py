"""What is asked for beside photographs, targets and model."""

from dataclasses import field
from pathlib import Path
from typing import Literal

from mvtrack.config.checked import Count, Positive, config
from mvtrack.config.placement import Placement
from mvtrack.config.sizes import FitMode
from mvtrack.inference.sampler import SamplerOptions

AUTO = "auto"


@config
class ViewsRequest:
    """cameras: a pose file that names the photographs, `auto`, or None, of one photograph. pose_options: what files of
    poses do not say, see `read_cameras`. frames: along a path; a pose file says its own. fps: of the video. fov_deg:
    horizontal, of the first photograph, where no file says it. subject_distance: in the cameras' unit; None: see
    `subject_distance_of`. fit, size: see `plan_fit`. sample: None is what the model is meant for. resolution: of the
    results, see `plan_region`. depth: of the photographs, a file of one map each, or a depth network's id, for
    results at their resolution and for a decoder. decoder: folder of an aligning decoder, with which views are decoded
    a second time, in sight of each other. export: also a point cloud, see `triangulated`. domain: which data the scene
    is like, for CAT3D. ignore_memory: start although the estimate says that memory will not do.
    """

    cameras: str | None = None
    pose_options: dict = field(default_factory=dict)
    frames: Count = 24
    fps: Positive = 12.0
    fov_deg: float | None = None
    subject_distance: Positive | None = None
    fit: FitMode = "auto"
    size: tuple[int, int] | None = None
    sample: SamplerOptions | None = None
    resolution: Literal["source", "model"] | tuple[int, int] = "source"
    depth: Path | str | None = None
    decoder: Path | None = None
    export: Literal["points"] | None = None
    domain: Literal["re10k", "co3d", "others"] | None = None
    placement: Placement = Placement()
    overwrite: bool = False
    ignore_memory: bool = False
