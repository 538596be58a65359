"""From result files to one mapping of plain values: means with intervals, counts, reasons, changes."""

import math
from dataclasses import asdict
from importlib import metadata

from mvtrack.evaluation.interface import ESTIMATE_NEEDS, Column, Declined, Metric, skipped
from mvtrack.evaluation.report.columns import table_groups
from mvtrack.evaluation.report.published import published_rows
from mvtrack.evaluation.runner.plan import Plan
from mvtrack.evaluation.runner.records import read_record, unpack
from mvtrack.evaluation.runner.scoring import read_scores
from mvtrack.evaluation.runner.stages import digest_of_case
from mvtrack.evaluation.statistics import mean_interval

_LAST = {"Baselines": 1, "Bounds": 2}  # after models; other groups keep the order of their names
NOT_DONE = skipped("not done yet")
OTHERWISE = skipped("scored with other settings, or before its video changed; run again without a row to renew it")
Cells = dict[str, dict[str, float | Declined]]  # column -> case -> value


def summarise(plan: Plan) -> dict:
    """Everything that the tables and the page show, of every method that the results folder holds."""
    keys = plan.benchmark.case_keys()
    digests = {key: digest_of_case(plan, key) for key in keys}
    groups = table_groups(plan.benchmark.name, plan.metrics)
    columns = [c for part in groups.values() for c in part]
    methods = _methods(plan)
    cells = {m["name"]: collect(plan, m["name"], digests, columns) for m in methods}
    published = published_rows(plan.benchmark.name)
    rows = []
    for method in methods:
        scores = {c.key: summarise_column(list(cells[method["name"]][c.key].values())) for c in columns}
        rows.append(method | {"scores": scores, "change": _changes(method, cells, published["rows"], columns)})
    return {
        "benchmark": {
            "name": plan.benchmark.name, "title": plan.benchmark.title, "cases": len(keys),
            "settings": plan.benchmark.settings,
        },
        "mvtrack": metadata.version("mvtrack"),
        "groups": {title: [asdict(c) for c in part] for title, part in groups.items()},
        "rows": rows,
        "published": published,
        "footnotes": _footnotes(plan, methods),
        "cases": {
            m: {case: {c: _plain(values[case]) for c, values in table.items()} for case in keys}
            for m, table in cells.items()
        },
    }  # fmt: skip


def collect(plan: Plan, method: str, digests: dict[str, str], columns: list[Column]) -> Cells:
    """Every case's value, or the reason why there is none, for every column."""
    cells: Cells = {c.key: {} for c in columns}
    for key, digest in digests.items():
        record = read_record(plan.video_record(method, key))
        stale = record is None or record["inputs"] != digest
        why = NOT_DONE if stale else unpack(record["declined"]) if "declined" in record else None
        scores = {}
        for metric in plan.metrics if why is None else ():
            lacking = metric.missing()
            found = None if lacking else read_scores(plan, method, key, metric, digest, record["sha256"])
            none = skipped(f"missing {lacking}") if lacking else _why_none(plan, method, key, metric)
            scores |= dict.fromkeys((c.key for c in metric.columns), none) | (found or {})
        for c in columns:
            cells[c.key][key] = why or scores.get(c.key, skipped(f"missing a metric that gives {c.title}"))
    return cells


def _why_none(plan: Plan, method: str, key: str, metric: Metric) -> Declined:
    return NOT_DONE if read_record(plan.scores_file(method, key, metric.name)) is None else OTHERWISE


def summarise_column(values: list[float | Declined]) -> dict:
    """Mean with its 95 % interval over finite values, and how many there are of everything else.

    infinite: perfect values without a finite number (the PSNR of equal videos), which no mean can hold.
    """
    numbers = [v for v in values if not isinstance(v, Declined)]
    finite = [v for v in numbers if math.isfinite(v)]
    reasons: dict[str, int] = {}
    for v in values:
        if isinstance(v, Declined):
            reasons[f"{v.kind}: {v.reason}"] = reasons.get(f"{v.kind}: {v.reason}", 0) + 1
    counts = {
        "cases": len(values),
        "infinite": len(numbers) - len(finite),
        "skipped": sum(isinstance(v, Declined) and v.kind == "skipped" for v in values),
        "failed": sum(isinstance(v, Declined) and v.kind == "failed" for v in values),
        "reasons": dict(sorted(reasons.items(), key=lambda item: (-item[1], item[0]))),
    }
    nothing = {"mean": None, "low": None, "high": None, "count": 0}
    return (mean_interval(finite) if finite else nothing) | counts


def _methods(plan: Plan) -> list[dict]:
    """Records of all methods in the folder: models, then baselines, then bounds."""
    records = [read_record(path) for path in sorted((plan.folder / "methods").glob("*/method.json"))]
    return sorted(
        ({k: v for k, v in r.items() if k not in ("key", "origin")} for r in records),
        key=lambda m: (_LAST.get(m["group"], 0), m["group"] if m["group"] not in _LAST else "", m["title"]),
    )


def _changes(method: dict, cells: dict[str, Cells], published: list[dict], columns: list[Column]) -> dict:
    """Differences to the backbone: over the cases that both have where it is in this table, else of means."""
    name = method["backbone"]
    if name is None:
        return {}
    if name in cells:
        own, theirs = cells[method["name"]], cells[name]
        return {c.key: d for c in columns if (d := _paired(own[c.key], theirs[c.key]))}
    [row] = [r for r in published if r["name"] == name]
    own = {c.key: summarise_column(list(cells[method["name"]][c.key].values()))["mean"] for c in columns}
    return {
        key: {"mean": own[key] - value, "count": None}
        for key, value in row["values"].items()
        if own.get(key) is not None
    }


def check_backbones(plan: Plan) -> None:
    """Raise ValueError for a backbone that is no row here and no published one: before the work, not after."""
    rows = [m.name for m in plan.methods] + [m["name"] for m in _methods(plan)]
    known = list(dict.fromkeys([*rows, *(r["name"] for r in published_rows(plan.benchmark.name)["rows"])]))
    for method in plan.methods:
        if method.backbone is not None and method.backbone not in known:
            raise ValueError(
                f"backbone {method.backbone!r} of {method.name} is no row: add it first, or name one of "
                f"{', '.join(known)}"
            )


def _paired(own: dict[str, float | Declined], theirs: dict[str, float | Declined]) -> dict | None:
    both = [(own[k], theirs[k]) for k in own]
    differences = [
        a - b for a, b in both if not isinstance(a, Declined) and not isinstance(b, Declined) if _finite(a, b)
    ]
    return mean_interval(differences) if differences else None


def _finite(*values: float) -> bool:
    return all(math.isfinite(v) for v in values)


def _footnotes(plan: Plan, methods: list[dict]) -> list[str]:
    """What must be said of the benchmark, the metrics that can run, the estimators that these and the methods use, and
    the methods; each once."""
    notes, running = [*plan.benchmark.footnotes], [m for m in plan.metrics if m.missing() is None]
    notes += [n for m in running for n in m.footnotes]
    # Rows that an earlier version made have no needs on record.
    needs = {need for m in running for need in m.needs} | {need for m in methods for need in m.get("needs", ())}
    used = {need.split(".")[1] for need in needs & set(ESTIMATE_NEEDS)}
    estimators = [e for what, e in plan.estimators.items() if what in used and e.missing() is None]
    notes += [n for e in estimators for n in e.footnotes]
    notes += [n for m in methods for n in m["footnotes"]]
    return list(dict.fromkeys(notes))


def _plain(value: float | Declined) -> object:
    if isinstance(value, Declined):
        return f"{value.kind}: {value.reason}"
    return value if math.isfinite(value) else "inf" if value > 0 else "-inf"
