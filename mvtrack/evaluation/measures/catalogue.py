"""Every metric and estimator that evaluations use, in one list: a new one is a line here."""

from mvtrack.evaluation.estimators.colmap_poses import ColmapPoses
from mvtrack.evaluation.estimators.plane_sweep import PlaneSweepDepth
from mvtrack.evaluation.interface import Estimator, Metric
from mvtrack.evaluation.measures.camera import CameraMeasure
from mvtrack.evaluation.measures.fidelity import Fidelity


def all_metrics(camera: CameraMeasure | None = None) -> tuple[Metric, ...]:
    return (Fidelity(), camera or CameraMeasure())


def all_estimators(poses: Estimator | None = None) -> dict[str, Estimator]:
    """By what they give."""
    return {"depth": PlaneSweepDepth(), "poses": poses or ColmapPoses()}


def chosen_metrics(names: str | None, camera: CameraMeasure | None = None) -> tuple[Metric, ...]:
    """The metrics of a comma-separated list; all without one. ValueError for a name that does not exist."""
    known = {m.name: m for m in all_metrics(camera)}
    if names is None:
        return tuple(known.values())
    chosen = [name.strip() for name in names.split(",") if name.strip()]
    for name in chosen:
        if name not in known:
            raise ValueError(f"unknown metric {name!r}; known: {', '.join(known)}")
    return tuple(known[name] for name in dict.fromkeys(chosen))
