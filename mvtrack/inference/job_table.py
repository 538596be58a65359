"""Tables of jobs as spreadsheets write them: which rows there are, and what their cells say."""

import csv
from pathlib import Path

from mvtrack.config.errors import did_you_mean
from mvtrack.files.addresses import refuse_address

COLUMNS = (
    "video", "camera", "out", "amount", "speed", "fov", "seed", "steps", "guidance", "caption", "negative"
)  # fmt: skip


def read_table(path: Path) -> list[tuple[int, dict[str, str]]]:
    """Line and filled cells of every row. Commas, semicolons or tabs between them, with or without a byte-order mark.

    Raises ValueError that names the line, or a column that is not known and the one that is meant.
    """
    refuse_address(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
        header = next((line for line in text.splitlines() if line.strip()), "")
        delimiter = max(",;\t", key=header.count)
        rows = csv.reader(text.splitlines(), delimiter=delimiter, strict=True)
        lines = [(rows.line_num, [cell.strip() for cell in row]) for row in rows if any(cell.strip() for cell in row)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"cannot read {path} as a CSV in UTF-8: {error}") from error
    names = lines[0][1] if lines else []
    _check_columns(path, names)
    if len(lines) == 1:
        raise ValueError(f"{path} has no rows below its header")
    table = []
    for number, cells in lines[1:]:
        row = dict(zip(names, cells, strict=False))
        if len(cells) != len(names) or not row["video"]:
            raise ValueError(f"{path} line {number}: expected {len(names)} values, the video not empty; got {cells}")
        table.append((number, {name: cell for name, cell in row.items() if cell}))
    return table


def _check_columns(path: Path, names: list[str]) -> None:
    for name in names:
        if name not in COLUMNS:
            hint = did_you_mean(name.lower(), COLUMNS)
            raise ValueError(f"{path}: unknown column {name!r}{hint} A table may have {', '.join(COLUMNS)}")
        if names.count(name) > 1:
            raise ValueError(f"{path} has several columns {name!r}")
    if "video" not in names:
        raise ValueError(f"{path} needs a column `video` and may have {', '.join(COLUMNS[1:])}; it has {names}")
