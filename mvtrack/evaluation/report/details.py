"""What stands below a table in every form of it: how to read it, intervals, and why numbers are not there."""

LEGEND = (
    "Bold: the best row that does not know the truth and has all cases. (+): change against the backbone. [6/8]: mean "
    "of 6 of 8 cases."
)
NOTHING_LACKS = "Nothing: every case of every method has every score."


def published_note(summary: dict) -> str:
    """Where the published rows come from; empty where there are none."""
    if not summary["published"]["rows"]:
        return ""
    return (
        f"Published rows: {summary['published']['source']}. They were measured by others, with other cases and other "
        "estimators: compare down a column only within one protocol."
    )


def all_columns(summary: dict) -> list[dict]:
    return [c for part in summary["groups"].values() for c in part]


def interval_rows(summary: dict) -> list[list[str]]:
    """A heading and one row a method, of columns that somebody has a number for; nothing where nobody has any."""
    columns = all_columns(summary)
    shown = [c for c in columns if any(_has_number(r["scores"][c["key"]]) for r in summary["rows"])]
    if not shown:
        return []
    rows = [["", *(c["title"] for c in shown)]]
    for row in summary["rows"]:
        rows.append([row["title"], *(_interval(row["scores"][c["key"]], c) for c in shown)])
    return rows


def reason_rows(summary: dict) -> list[list[str]]:
    """Why cells are empty or means are of fewer cases, below a heading: equal reasons of several columns and methods
    are one row, with the number of videos that it is about. Nothing where every case has every score."""
    titles = {c["key"]: c["title"] for c in all_columns(summary)}
    found: dict[tuple[str, str, int], list[str]] = {}
    for row in summary["rows"]:
        for key, score in row["scores"].items():
            for reason, count in score["reasons"].items():
                found.setdefault((row["title"], reason, count), []).append(titles[key])
    merged: dict[tuple[tuple[str, ...], str], dict[str, int]] = {}
    for (method, reason, count), columns in found.items():
        merged.setdefault((tuple(columns), reason), {})[method] = count
    rows = []
    for (columns, reason), counts in merged.items():
        who = "all" if len(counts) == len(summary["rows"]) and len(counts) > 1 else ", ".join(counts)
        what = "all" if len(columns) == len(titles) and len(columns) > 1 else ", ".join(columns)
        rows.append([who, what, str(sum(counts.values())), reason])
    return [["Methods", "Columns", "Videos", "Why"], *rows] if rows else []


def number(value: float, column: dict) -> str:
    """As tables print it."""
    return f"{value:.{column['digits']}f}"


def _has_number(score: dict) -> bool:
    return bool(score["count"] or score["infinite"])


def _interval(score: dict, column: dict) -> str:
    more = f", {score['infinite']} infinite" if score["infinite"] else ""
    if score["mean"] is None:
        return f"–{more or ''}"
    low, high = number(score["low"], column), number(score["high"], column)
    return f"{number(score['mean'], column)} ({low} to {high}; n={score['count']}{more})"
