"""What is to be evaluated, and where each piece of the result lies on disk."""

import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from mvtrack.evaluation.interface import ESTIMATE_NEEDS, INPUT_NEEDS, Benchmark, Estimator, Method, Metric
from mvtrack.evaluation.runner.records import hash_of
from mvtrack.files.cache import sha256_once

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class Plan:
    """A benchmark, the methods to run on it, and the metrics and estimators to score them with.

    estimators: by what they give, "poses" or "depth". folder: of the results. others: rows that earlier commands left
    there, which are scored but not made. debug: errors that no part raises on purpose end the run. with_published:
    whether reports show the rows that others published.
    """

    benchmark: Benchmark
    methods: tuple[Method, ...]
    metrics: tuple[Metric, ...]
    estimators: dict[str, Estimator] = field(default_factory=dict)
    folder: Path = Path("outputs/evaluation")
    others: tuple[str, ...] = ()
    debug: bool = False
    with_published: bool = True

    def __post_init__(self) -> None:
        for kind, names in {
            "case": self.benchmark.case_keys(),
            "method": list(self.rows),
            "metric": [m.name for m in self.metrics],
            "column": [c.key for m in self.metrics for c in m.columns],
        }.items():
            if double := [name for name, count in Counter(names).items() if count > 1]:
                raise ValueError(f"{kind} {min(double)!r} occurs twice: names must differ")
            for name in names:
                if not _NAME.fullmatch(name):
                    raise ValueError(f"{kind} {name!r} cannot be a file name: use letters, digits, _ . -")
        known = {*INPUT_NEEDS, *ESTIMATE_NEEDS}
        for part in (*self.methods, *self.metrics, *self.estimators.values()):
            unknown = set(part.needs) - known
            if unknown:
                raise ValueError(f"{part.name} needs {min(unknown)!r}, which nothing gives; known: {sorted(known)}")

    @property
    def rows(self) -> tuple[str, ...]:
        """Names of all rows whose videos are scored."""
        return (*(m.name for m in self.methods), *self.others)

    # Places

    def method_file(self, method: str) -> Path:
        return self.folder / "methods" / method / "method.json"

    def video_record(self, method: str, key: str) -> Path:
        return self.folder / "methods" / method / "videos" / f"{key}.json"

    def video_file(self, method: str, key: str) -> Path:
        return self.folder / "methods" / method / "videos" / f"{key}.mp4"

    def scores_file(self, method: str, key: str, metric: str) -> Path:
        return self.folder / "methods" / method / "scores" / key / f"{metric}.json"

    def estimate_file(self, estimator: Estimator, estimate_key: str) -> Path:
        return self.folder / "estimates" / estimator.name / f"{estimate_key[:32]}.npz"

    # Hashes of what went into a result

    def estimate_key(self, need: str, inputs_digest: str, video_sha: str | None) -> str:
        """Of one estimate; `video_sha` is that of the generated video, where it is in it."""
        subject, what = need.split(".")
        video = None if subject == "reference" else video_sha
        return hash_of([_part(self.estimators[what]), subject, inputs_digest, video])

    def video_key(self, method: Method, inputs_digest: str, found_sha: str | None) -> str:
        estimates = [self.estimate_key(n, inputs_digest, None) for n in self._estimated(method.needs)]
        return hash_of([method.name, method.settings, inputs_digest, found_sha, estimates])

    def scores_key(self, metric: Metric, inputs_digest: str, video_sha: str, method: str, key: str) -> str:
        estimates = [self.estimate_key(n, inputs_digest, video_sha) for n in self._estimated(metric.needs)]
        files = [[sha256_once(file)] for file in metric.files(method, key)]
        return hash_of([_part(metric), inputs_digest, video_sha, estimates, *files])

    def _estimated(self, needs: tuple[str, ...]) -> list[str]:
        """Estimates that can be made here: what was skipped for want of one is taken up once it can."""
        able = {what for what, estimator in self.estimators.items() if estimator.missing() is None}
        return [n for n in needs if n in ESTIMATE_NEEDS and n.split(".")[1] in able]


def _part(part: Metric | Estimator) -> list:
    return [part.name, part.version, part.settings]
