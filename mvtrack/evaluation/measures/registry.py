"""Every metric and estimator that evaluations use: a new one is a file and a line here."""

from collections.abc import Callable

from mvtrack.evaluation.estimators import ColmapPoses, DepthAnythingPoses, PlaneSweepDepth, PoseFiles, TruePoses
from mvtrack.evaluation.interface import Estimator, Metric
from mvtrack.evaluation.measures.camera import CameraMeasure
from mvtrack.evaluation.measures.consistency import NetworkWarpConsistency, WarpConsistency
from mvtrack.evaluation.measures.correspondence import Correspondence
from mvtrack.evaluation.measures.fidelity import Fidelity, MaskedFidelity, PerceptualDistance
from mvtrack.evaluation.measures.met3r import Met3r
from mvtrack.evaluation.measures.pair_features import DynamicMasks, PairFeatures
from mvtrack.evaluation.measures.pair_sources import DepthFiles, EstimatedDepth, PairNetwork, TrueDepth
from mvtrack.evaluation.measures.vbench import DIMENSIONS, NATIVE, VBenchNative, VBenchPackage
from mvtrack.evaluation.methods.model import ModelMethod
from mvtrack.evaluation.settings import EvaluationSettings
from mvtrack.inference.camera_estimation.depth_anything import DepthAnythingConfig

Models = dict[str, ModelMethod | None]  # of the rows that a model of this project made, see `Correspondence`


def all_metrics(
    settings: EvaluationSettings, models: Models | None = None, non_commercial: bool = False
) -> tuple[Metric, ...]:
    """non_commercial: whether what may not be used commercially may run."""
    consistency, poses = settings.consistency, settings.poses
    masks = DynamicMasks(consistency.dynamic_mask, consistency.generated_masks)
    return (
        *_vbench(settings, non_commercial),
        Fidelity(),
        PerceptualDistance(settings.lpips_net, settings.weights),
        MaskedFidelity(),
        Met3r(settings.environments.python("met3r"), consistency.pairs, masks, non_commercial),
        *_warp_consistency(settings, masks, non_commercial),
        CameraMeasure(poses.scale, poses.origin or "own"),
        Correspondence(models or {}),
    )


def chosen_metrics(metrics: tuple[Metric, ...], names: tuple[str, ...]) -> tuple[Metric, ...]:
    """The metrics of these names; all without any. ValueError for a name that does not exist."""
    known = {m.name: m for m in metrics}
    for name in names:
        if name not in known:
            raise ValueError(f"unknown metric {name!r}; known: {', '.join(known)}")
    return tuple(known[name] for name in dict.fromkeys(names or known))


def all_estimators(poses: Estimator | None = None) -> dict[str, Estimator]:
    """By what they give."""
    return {"depth": PlaneSweepDepth(), "poses": poses or ColmapPoses()}


def pose_estimator(settings: EvaluationSettings, num_frames: int, non_commercial: bool = False) -> Estimator:
    """What `poses.estimator` names. num_frames: of the benchmark's clips. ValueError where it cannot run."""
    poses = settings.poses
    network = DepthAnythingConfig(settings.environments.python("depth_anything_3"), poses.model, poses.ray_pose)
    estimators: dict[str, Callable[[], Estimator]] = {
        "colmap": ColmapPoses,
        "truth": TruePoses,
        "files": lambda: PoseFiles.of(poses.files, num_frames),
        "depth_anything_3": lambda: DepthAnythingPoses(network, non_commercial),
    }
    estimator = estimators[poses.estimator]()
    if poses.estimator == "depth_anything_3" and (lacking := estimator.missing()):
        raise ValueError(f"poses.estimator depth_anything_3 cannot run: missing {lacking}")
    return estimator


def _vbench(settings: EvaluationSettings, non_commercial: bool) -> list[Metric]:
    """The package's number of each dimension where its environment is named, else this project's equal one."""
    python = settings.environments.python("vbench")
    return [
        VBenchNative(name, settings.weights)
        if python is None and name in NATIVE
        else VBenchPackage(name, python, non_commercial)
        for name in DIMENSIONS
    ]


def _warp_consistency(settings: EvaluationSettings, masks: DynamicMasks, non_commercial: bool) -> list[Metric]:
    """Each geometry with each kind of features."""
    consistency, metrics = settings.consistency, []
    own = {s.name: s for s in (TrueDepth(), EstimatedDepth(), DepthFiles(consistency.depth_files))}
    for geometry in consistency.geometry:
        for kind in consistency.features:
            parts = PairFeatures(kind, settings.weights), consistency.pairs, masks
            if geometry in own:
                metrics.append(WarpConsistency(own[geometry], *parts))
            else:
                python = settings.environments.python(geometry)
                network = PairNetwork(geometry, python, consistency.geometry_model, non_commercial)
                metrics.append(NetworkWarpConsistency(network, *parts))
    return metrics
