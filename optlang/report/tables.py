"""The answer to a question as a table, CSV, JSON, one JSON object a line, or Markdown."""

from __future__ import annotations

import csv
import io
import json
import math
import sys
from collections.abc import Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal, get_args
from unicodedata import east_asian_width

from optlang.interfaces import OptlangError
from optlang.store.reader import Answer, Column

if TYPE_CHECKING:
    from rich.table import Table

Format = Literal["table", "csv", "json", "jsonl", "markdown"]
FORMATS: tuple[str, ...] = get_args(Format)

GAP = 3
"""Characters between two columns of a framed table."""

_WIDEST = 48  # characters of a cell in a table
_NUMBERS = ("INT", "DOUBLE", "FLOAT", "DECIMAL", "REAL")


def render(answer: Answer, format: str = "table", *, width: int | None = None, color: bool = False) -> str:
    """The answer as text that ends its last line.

    `width` is the terminal's; None (no terminal) shows every column whole. OptlangError: the format is not known.
    """
    if format == "table":
        return _table(answer, width, color)
    if format == "csv":
        return _csv(answer)
    if format == "json":
        return json.dumps(_typed(answer), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    if format == "jsonl":
        return "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in _typed(answer))
    if format == "markdown":
        return _markdown(answer)
    raise OptlangError(f"there is no format `{format}`", help=f"the formats are {', '.join(FORMATS)}")


def _typed(answer: Answer) -> list[dict[str, Any]]:
    names = _distinct([column.name for column in answer.columns])
    return [
        {name: json_value(value, column.type) for name, column, value in zip(names, answer.columns, row, strict=True)}
        for row in answer.rows
    ]


def _distinct(names: Sequence[str]) -> list[str]:
    """Keys of one object: the second `x` is `x_1`, as DuckDB itself names them."""
    taken: set[str] = set()
    found = []
    for name in names:
        number, fresh = 0, name
        while fresh in taken:
            number += 1
            fresh = f"{name}_{number}"
        taken.add(fresh)
        found.append(fresh)
    return found


def json_value(value: Any, kind: str = "") -> Any:
    """A value of SQL as JSON has it: numbers stay numbers, times are ISO 8601, what is not finite is null."""
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str):
        return json.loads(value) if kind == "JSON" else value
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, dict):
        return {str(key): json_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_value(item) for item in value]
    return str(value)


def _plain(value: Any, kind: str, *, null: str) -> str:
    if value is None:
        return null
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return value
    if isinstance(value, list | tuple | dict):
        return json.dumps(json_value(value, kind), ensure_ascii=False)
    return value.isoformat(sep=" ") if isinstance(value, datetime) else str(value)


def _csv(answer: Answer) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(column.name for column in answer.columns)
    for row in answer.rows:
        writer.writerow(_plain(value, column.type, null="") for column, value in zip(answer.columns, row, strict=True))
    return text.getvalue()


def _markdown(answer: Answer) -> str:
    def cell(text: str) -> str:
        return text.replace("\\", "\\\\").replace("|", "\\|").replace("\n", "<br>")

    lines = [
        "| " + " | ".join(cell(column.name) for column in answer.columns) + " |",
        "|" + "|".join("--:" if _is_number(column) else "---" for column in answer.columns) + "|",
    ]
    lines += ["| " + " | ".join(cell(text) for text in row) + " |" for row in _cells(answer, null="")]
    return "\n".join(lines) + "\n"


def _is_number(column: Column) -> bool:
    return any(word in column.type for word in _NUMBERS) and "[" not in column.type and "STRUCT" not in column.type


def _cells(answer: Answer, *, null: str) -> list[list[str]]:
    return [
        [
            f"{value:.6g}" if isinstance(value, float) else _plain(value, column.type, null=null)
            for column, value in zip(answer.columns, row, strict=True)
        ]
        for row in answer.rows
    ]


def _table(answer: Answer, width: int | None, color: bool) -> str:
    from rich.table import Table
    from rich.text import Text

    rows = _cells(answer, null="NULL")
    shown = _fitting(answer, rows, width)
    table = Table(box=_box(), show_edge=False, pad_edge=False, header_style="bold")
    for index in shown:
        if index is None:
            table.add_column("…")
        else:
            column = answer.columns[index]
            table.add_column(
                Text(column.name), justify="right" if _is_number(column) else "left", no_wrap=width is None,
                overflow="fold",
            )
    for row, values in zip(rows, answer.rows, strict=True):
        table.add_row(
            *(
                Text("…") if index is None else Text(row[index], style="dim" if values[index] is None else "")
                for index in shown
            )
        )
    text = printed(table, width, color)
    note = f"({len(rows)} row{'s' if len(rows) != 1 else ''}"
    if None in shown:
        note += f", {len(shown) - 1} of {len(answer.columns)} columns shown: name those you want, or take --format csv"
    return f"{text}{note})\n"


def _fitting(answer: Answer, rows: list[list[str]], width: int | None) -> list[int | None]:
    """The columns that fit, from both ends: the last are often as telling as the first. None stands for the others."""
    count = len(answer.columns)
    if width is None:
        return list(range(count))
    needs = [
        min(_WIDEST, max([cells(column.name), *(cells(row[index]) for row in rows)]))
        for index, column in enumerate(answer.columns)
    ]
    if sum(needs) + 3 * (count - 1) <= width or count <= 2:
        return list(range(count))
    left, right = [0], [count - 1]
    used = needs[0] + needs[-1] + 3 + 4
    for turn in range(1, count - 1):
        # Two from the left for one from the right: what a row is stands left.
        index = right[0] - 1 if turn % 3 == 0 else left[-1] + 1
        if used + needs[index] + 3 > width:
            break
        used += needs[index] + 3
        if turn % 3 == 0:
            right.insert(0, index)
        else:
            left.append(index)
    return [*left, None, *right] if len(left) + len(right) < count else [*left, *right]


def cells(text: str) -> int:
    """How many columns of a terminal a text takes, by its longest line."""
    return max(
        (sum(2 if east_asian_width(sign) in "WF" else 1 for sign in line) for line in text.split("\n")), default=0
    )


def _box() -> Any:
    from rich import box

    return box.SIMPLE_HEAD if sys.stdout.encoding.lower().startswith("utf") else box.ASCII2


def printed(content: Table | str, width: int | None, color: bool) -> str:
    """What rich makes of it, as text without spaces at the ends of lines; words are broken at the width only if alone
    they do not fit."""
    from rich.console import Console

    if isinstance(content, str):
        content = content.rstrip("\n")
        if not content:
            return ""
    text = io.StringIO()
    console = Console(
        file=text, width=width or 100_000, force_terminal=color, no_color=not color,
        color_system="standard" if color else None, highlight=False, legacy_windows=False, emoji=False, markup=False,
    )
    console.print(content)
    return "".join(line.rstrip() + "\n" for line in text.getvalue().splitlines())


def heading(metric: str) -> str:
    """A metric at the head of a column."""
    return metric.replace(".compressed", ", zstd").replace(".", " ")


def one_line(text: str) -> str:
    """A text of the study on one line, however it was laid out."""
    return " ".join(text.split())


def framed(names: Sequence[str], left: Sequence[int]) -> Table:
    """An empty table with these columns, those of `left` aligned to the left."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold")
    for index, name in enumerate(names):
        # Only what a row is may be broken, between its words.
        table.add_column(
            name, justify="left" if index in left else "right", no_wrap=index not in left, overflow="fold",
            vertical="top",
        )
    return table
