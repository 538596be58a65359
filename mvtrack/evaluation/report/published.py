"""Rows that others published, from one file that cites them. They stand under ours, never in a mean with them."""

import json
from importlib import resources


def published_rows(benchmark: str) -> dict:
    """{"source": citation with what each table says of its protocol, "rows": [...]}; each row has name, title, group,
    backbone and values by column."""
    tree = json.loads(resources.files("mvtrack.evaluation").joinpath("published_v1.json").read_text(encoding="utf-8"))
    tables = [t for t in tree["tables"] if t["benchmark"] == benchmark]
    rows = []
    for table in tables:
        for row in table["rows"]:
            values = {k: v for k, v in zip(table["columns"], row["values"], strict=True) if v is not None}
            kept = {k: row.get(k) for k in ("name", "title", "group", "backbone")}
            rows.append(kept | {"table": table["table"], "values": values})
    protocols = "; ".join(f"table {table['table']} ({table['protocol']})" for table in tables)
    return {"source": f"{tree['source']}; {protocols}" if tables else tree["source"], "rows": rows}
