"""Every metric and estimator that evaluations use, in one list: a new one is a line here."""

from mvtrack.evaluation.estimators.colmap_poses import ColmapPoses
from mvtrack.evaluation.estimators.plane_sweep import PlaneSweepDepth
from mvtrack.evaluation.interface import Estimator, Metric
from mvtrack.evaluation.measures.camera import CameraMeasure
from mvtrack.evaluation.measures.consistency import WarpConsistency
from mvtrack.evaluation.measures.correspondence import Correspondence
from mvtrack.evaluation.measures.dynamic_masks import DynamicMasks
from mvtrack.evaluation.measures.fidelity import Fidelity, MaskedFidelity
from mvtrack.evaluation.measures.met3r_package import Met3r
from mvtrack.evaluation.measures.options import MeasureOptions
from mvtrack.evaluation.measures.pair_features import PairFeatures
from mvtrack.evaluation.measures.pair_networks import NetworkWarpConsistency, PairNetwork
from mvtrack.evaluation.measures.pair_sources import DepthFiles, EstimatedDepth, TrueDepth
from mvtrack.evaluation.measures.perceptual import PerceptualDistance
from mvtrack.evaluation.measures.vbench_dimensions import DIMENSIONS
from mvtrack.evaluation.measures.vbench_native import NATIVE, VBenchNative
from mvtrack.evaluation.measures.vbench_package import VBenchPackage

_DEFAULTS = MeasureOptions()


def all_metrics(options: MeasureOptions = _DEFAULTS) -> tuple[Metric, ...]:
    return (
        *_vbench(options),
        Fidelity(),
        PerceptualDistance(options.lpips_net, options.weights),
        MaskedFidelity(),
        Met3r(options.pythons.get("met3r"), options.pairing, _masks(options), options.non_commercial),
        *_warp_consistency(options),
        CameraMeasure(options.pose_scale, options.camera_origin),
        Correspondence(options.models),
    )


def all_estimators(poses: Estimator | None = None) -> dict[str, Estimator]:
    """By what they give."""
    return {"depth": PlaneSweepDepth(), "poses": poses or ColmapPoses()}


def chosen_metrics(names: str | None, options: MeasureOptions = _DEFAULTS) -> tuple[Metric, ...]:
    """The metrics of a comma-separated list; all without one. ValueError for a name that does not exist."""
    known = {m.name: m for m in all_metrics(options)}
    if names is None:
        return tuple(known.values())
    chosen = [name.strip() for name in names.split(",") if name.strip()]
    for name in chosen:
        if name not in known:
            raise ValueError(f"unknown metric {name!r}; known: {', '.join(known)}")
    return tuple(known[name] for name in dict.fromkeys(chosen))


def _vbench(options: MeasureOptions) -> list[Metric]:
    """The package's number of each dimension where its environment is given, else this project's equal one."""
    python = options.pythons.get("vbench")
    metrics: list[Metric] = []
    for name in DIMENSIONS:
        if python is None and name in NATIVE:
            metrics.append(VBenchNative(name, options.weights))
        else:
            metrics.append(VBenchPackage(name, python, options.non_commercial))
    return metrics


def _warp_consistency(options: MeasureOptions) -> list[Metric]:
    """Each geometry with each kind of features."""
    near = {s.name: s for s in (TrueDepth(), EstimatedDepth(), DepthFiles(options.depth_files))}
    metrics: list[Metric] = []
    for geometry in options.geometry:
        for kind in options.features:
            rest = PairFeatures(kind, options.weights), options.pairing, _masks(options)
            if geometry in near:
                metrics.append(WarpConsistency(near[geometry], *rest))
            else:
                python = options.pythons.get("da3" if geometry == "depth_anything_3" else geometry)
                network = PairNetwork(geometry, python, options.geometry_model, options.non_commercial)
                metrics.append(NetworkWarpConsistency(network, *rest))
    return metrics


def _masks(options: MeasureOptions) -> DynamicMasks:
    return DynamicMasks(options.masks, options.generated_masks)
