"""From result files to one mapping of plain values: means with intervals, counts, reasons, changes."""

import json
import math
from collections import Counter
from dataclasses import asdict
from importlib import metadata, resources

from mvtrack.evaluation.interface import ESTIMATE_NEEDS, Column, Skipped, skipped
from mvtrack.evaluation.report.columns import table_groups
from mvtrack.evaluation.runner.case import Case
from mvtrack.evaluation.runner.plan import Plan
from mvtrack.evaluation.runner.records import read_record, unpack
from mvtrack.evaluation.runner.scoring import read_scores
from mvtrack.evaluation.tables import mean_interval

_LAST = {"Baselines": 1, "Bounds": 2}  # after models; other groups keep the order of their names
NOT_DONE = skipped("not done yet")
OTHERWISE = skipped("scored with other settings, or before its video changed; run again without a row to renew it")
Cells = dict[str, dict[str, float | Skipped]]  # column -> case -> value


def summarise(plan: Plan) -> dict:
    """Everything that the tables and the page show, of every method that the results folder holds."""
    cases = [Case.of(plan, key) for key in plan.benchmark.case_keys()]
    groups = table_groups(plan.benchmark, plan.metrics)
    columns = [c for part in groups.values() for c in part]
    methods, published = _methods(plan), published_rows(plan)
    cells = {m["name"]: collect(m["name"], cases, columns) for m in methods}
    rows = []
    for method in methods:
        scores = {c.key: summarise_column(list(cells[method["name"]][c.key].values())) for c in columns}
        rows.append(method | {"scores": scores, "change": _changes(method, cells, published["rows"], columns)})
    bench = plan.benchmark
    return {
        "benchmark": {
            "name": bench.name, "title": bench.full_title, "cases": len(cases), "settings": bench.settings,
            "is_miniature": bench.is_miniature,
        },
        "mvtrack": metadata.version("mvtrack"),
        "groups": {title: [asdict(c) for c in part] for title, part in groups.items()},
        "rows": rows,
        "published": published,
        "footnotes": _footnotes(plan, methods),
        "cases": {
            m: {case.key: {c: _plain(values[case.key]) for c, values in table.items()} for case in cases}
            for m, table in cells.items()
        },
    }  # fmt: skip


def published_rows(plan: Plan) -> dict:
    """Rows that others published, where the plan wants them: {"source": citation with what each table says of its
    protocol, "rows": [...]}; each row has name, title, group, backbone and values by column."""
    tree = json.loads(resources.files("mvtrack.evaluation").joinpath("published_v1.json").read_text(encoding="utf-8"))
    tables = [t for t in tree["tables"] if t["benchmark"] == plan.benchmark.name and plan.with_published]
    rows = []
    for table in tables:
        for row in table["rows"]:
            values = {k: v for k, v in zip(table["columns"], row["values"], strict=True) if v is not None}
            kept = {k: row.get(k) for k in ("name", "title", "group", "backbone")}
            rows.append(kept | {"table": table["table"], "values": values})
    protocols = [f"table {table['table']} ({table['protocol']})" for table in tables]
    return {"source": "; ".join([tree["source"], *protocols]), "rows": rows}


def collect(method: str, cases: list[Case], columns: list[Column]) -> Cells:
    """Every case's value, or the reason why there is none, for every column."""
    cells: Cells = {c.key: {} for c in columns}
    for case in cases:
        scores = _scores_of(case, method)
        for c in columns:
            lacking = skipped(f"missing a metric that gives {c.title}")
            cells[c.key][case.key] = scores if isinstance(scores, Skipped) else scores.get(c.key, lacking)
    return cells


def _scores_of(case: Case, method: str) -> dict[str, float | Skipped] | Skipped:
    """By column; why there is no video."""
    plan, video = case.plan, case.video(method)
    if video is None:
        record = read_record(plan.video_record(method, case.key))
        is_stale = record is None or record["inputs"] != case.digest
        return NOT_DONE if is_stale else unpack(record["declined"])
    scores = {}
    for metric in plan.metrics:
        if lacking := metric.missing():
            found = None
            none = skipped(f"missing {lacking}")
        else:
            found = read_scores(video, metric)
            kept = read_record(plan.scores_file(method, case.key, metric.name))
            none = NOT_DONE if kept is None else OTHERWISE
        scores |= found or dict.fromkeys((c.key for c in metric.columns), none)
    return scores


def summarise_column(values: list[float | Skipped]) -> dict:
    """Mean with its 95 % interval over finite values, and how many there are of everything else.

    infinite: perfect values without a finite number (the PSNR of equal videos), which no mean can hold.
    """
    numbers = [v for v in values if not isinstance(v, Skipped)]
    declined = [v for v in values if isinstance(v, Skipped)]
    finite = [v for v in numbers if math.isfinite(v)]
    kinds, reasons = Counter(v.kind for v in declined), Counter(map(str, declined))
    nothing = {"mean": None, "low": None, "high": None, "count": 0}
    return (mean_interval(finite) if finite else nothing) | {
        "cases": len(values),
        "infinite": len(numbers) - len(finite),
        "skipped": kinds["skipped"],
        "failed": kinds["failed"],
        "reasons": dict(sorted(reasons.items(), key=lambda item: (-item[1], item[0]))),
    }


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
    known = list(dict.fromkeys([*rows, *(r["name"] for r in published_rows(plan)["rows"])]))
    for method in plan.methods:
        if method.backbone is not None and method.backbone not in known:
            raise ValueError(
                f"backbone {method.backbone!r} of {method.name} is no row: add it first, or name one of "
                f"{', '.join(known)}"
            )


def _paired(own: dict[str, float | Skipped], theirs: dict[str, float | Skipped]) -> dict | None:
    differences = [own[k] - theirs[k] for k in own if _is_number(own[k]) and _is_number(theirs[k])]
    return mean_interval(differences) if differences else None


def _is_number(value: float | Skipped) -> bool:
    return not isinstance(value, Skipped) and math.isfinite(value)


def _footnotes(plan: Plan, methods: list[dict]) -> list[str]:
    """What must be said of the benchmark, the metrics that can run, the estimators that these and the methods use, and
    the methods; each once."""
    notes, running = [*plan.benchmark.all_footnotes], [m for m in plan.metrics if m.missing() is None]
    notes += [n for m in running for n in m.footnotes]
    # Rows that an earlier version made have no needs on record.
    needs = {need for m in running for need in m.needs} | {need for m in methods for need in m.get("needs", ())}
    used = {need.split(".")[1] for need in needs & set(ESTIMATE_NEEDS)}
    estimators = [e for what, e in plan.estimators.items() if what in used and e.missing() is None]
    notes += [n for e in estimators for n in e.footnotes]
    notes += [n for m in methods for n in m["footnotes"]]
    return list(dict.fromkeys(notes))


def _plain(value: float | Skipped) -> object:
    if isinstance(value, Skipped):
        return str(value)
    return value if math.isfinite(value) else "inf" if value > 0 else "-inf"
