"""What the scores of tracked clips add up to: means, differences paired by clip, the tables, and the aims."""

import csv
from pathlib import Path

from mvtrack.evaluation.tables import interval_text, markdown_table, mean_interval, write_results

HIDDEN = "hidden_here_mean_px_of_256"
_MODEL, _STILL, _TRUE_STARTS = "model", "points stay where they were", "target view, true starts"
_TARGET_VIEW = "target view"
_COMPARED = ("delta_avg", "average_jaccard", "occlusion_accuracy", HIDDEN, "epipolar_error_px", "cross_view_pck")
_MORE = ("first_", "latent_", "view_")
_POOLED = ("hidden_here_pooled", "hidden_here_count")
_TARGETS = {"delta_avg": 0.60, "average_jaccard": 0.40}
_STILL_BELOW, _OCCLUSION_GAIN = 0.25, 0.05
_WITHOUT_VIEWS = {"views apart": "model, views apart", "shuffled": "model, other views of another clip"}

Rows = dict[str, list[dict[str, float | int]]]  # who -> scores of every clip
Summary = dict[str, dict[str, dict[str, float | int]]]  # who -> score -> mean, low, high, count


def summarise(rows: Rows) -> Summary:
    """Means with intervals; clips in which there was nothing to score are left out of that score."""
    return {
        who: _intervals({name: [row[name] for row in scores] for name in scores[0]}) for who, scores in rows.items()
    }


def paired(rows: Rows) -> Summary:
    """Differences from the model's own row (of the target view: from true starts), clip by clip: mean, interval, count.

    higher: in how many clips the score was higher than there. Clips in which either has nothing to score are left out.
    """
    found = {}
    for who, scores in rows.items():
        base = rows[_TRUE_STARTS if who.startswith(_TARGET_VIEW) else _MODEL]
        if scores is base:
            continue
        names = [name for name in _COMPARED if name in scores[0]]
        changes = {n: [a[n] - b[n] for a, b in zip(scores, base, strict=True)] for n in names}
        found[who] = _intervals(changes)
        for name, interval in found[who].items():
            interval["higher"] = sum(change > 0 for change in changes[name])
    return found


def pooled_hidden(rows: Rows) -> dict[str, dict[str, float | int]]:
    """Error over all (point, frame) of all clips that one view hides and another shows, and their number."""
    found = {}
    for who, scores in rows.items():
        known = [(row["hidden_here_pooled_px_of_256"], row["hidden_here_count"]) for row in scores
                 if row.get("hidden_here_count")]  # fmt: skip
        if known:
            count = sum(number for _, number in known)
            found[who] = {"px_of_256": sum(px * number for px, number in known) / count, "count": count}
    return found


def verdict(summary: Summary, differences: Summary) -> dict:
    """The closing line: what the project promises, what was reached, and whether all is met.

    That hidden points suffer without the other view counts as shown where the interval of the paired differences lies
    above zero; where no clip has such points, it is not shown.
    """
    model = summary[_MODEL]
    figures = {name: model[name]["mean"] for name in _TARGETS}
    figures["still delta_avg"] = summary[_STILL]["delta_avg"]["mean"]
    figures["occlusion gain"] = model["occlusion_accuracy"]["mean"] - model["majority_occlusion_accuracy"]["mean"]
    bounds = _TARGETS | {"occlusion gain": _OCCLUSION_GAIN}
    met = all(figures[name] >= bound for name, bound in bounds.items()) and figures["still delta_avg"] <= _STILL_BELOW
    targets = {name: f">= {bound}" for name, bound in bounds.items()} | {"still delta_avg": f"<= {_STILL_BELOW}"}
    for how, who in _WITHOUT_VIEWS.items():
        rise = differences[who].get(HIDDEN)
        name = f"hidden here, {how}: least rise, px of 256"
        figures[name], targets[name] = rise and rise["low"], "> 0"
        met = met and rise is not None and rise["low"] > 0
    return {"figures": figures, "targets": targets, "met": met}


def tables(summary: Summary, differences: Summary, hidden: dict[str, dict[str, float | int]]) -> str:
    """All views, the target view alone, differences paired by clip, then the other ways to score (Markdown)."""
    kinds = [{w: s for w, s in summary.items() if w.startswith(_TARGET_VIEW) == kind} for kind in (False, True)]
    main = [_table(_only(kind, more=False)) for kind in kinds]
    more = [_table(_turned(_only(kind, more=True))) for kind in kinds]
    pooled = [f"- {who}: {h['px_of_256']:.2f} px of 256 ({h['count']} points)" for who, h in hidden.items()]
    paired_title = "Differences from the first row of each table, clip by clip (in how many of them higher):"
    pooled_title = "Hidden here and seen there, over all points of all clips:"
    parts = [*main, paired_title, _table(differences), pooled_title, "\n".join(pooled), "Other ways to score:", *more]
    return "\n\n".join(parts)


def write_report(out: Path, record: dict, table: str, rows: Rows, keys: list[str]) -> None:
    """tracking.json (null where there was nothing to score), tracking.md and tracking.csv. keys: of the clips."""
    cases = {key: {who: _known(scores[i]) for who, scores in rows.items()} for i, key in enumerate(keys)}
    write_results(out, "tracking", record | {"cases": cases}, table)
    with (out / "tracking.csv").open("w", newline="") as file:
        names = dict.fromkeys(name for scores in rows.values() for name in scores[0])
        writer = csv.DictWriter(file, ["clip", "who", *names])
        writer.writeheader()
        for who, scores in rows.items():
            writer.writerows({"clip": key, "who": who} | row for key, row in zip(keys, scores, strict=True))


def _known(scores: dict[str, float | int]) -> dict[str, float | int | None]:
    return {name: value if value == value else None for name, value in scores.items()}


def _intervals(values: dict[str, list[float | int]]) -> dict[str, dict[str, float | int]]:
    known = {name: [x for x in column if x == x] for name, column in values.items()}
    return {name: mean_interval(column) for name, column in known.items() if column}


def _only(summary: Summary, more: bool) -> Summary:
    """The scores that are read first, or the others; pooled figures have a list of their own."""
    return {
        who: {n: s for n, s in scores.items() if n.startswith(_MORE) == more and not n.startswith(_POOLED)}
        for who, scores in summary.items()
    }


def _turned(summary: Summary) -> Summary:
    names = dict.fromkeys(name for scores in summary.values() for name in scores)
    return {name: {who: scores[name] for who, scores in summary.items() if name in scores} for name in names}


def _table(summary: Summary) -> str:
    names = list(dict.fromkeys(name for scores in summary.values() for name in scores))
    return markdown_table(["", *names], [[who, *(_cell(row.get(n)) for n in names)] for who, row in summary.items()])


def _cell(score: dict[str, float | int] | None) -> str:
    if score is None:
        return "-"
    return interval_text(score) + (f", {score['higher']} of {score['count']}" if "higher" in score else "")
