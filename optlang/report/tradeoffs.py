"""Each technique alone: what it does to a study's model, from the view `tradeoffs`, and as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optlang.diagnostics.command_line import command
from optlang.plan.quantities import change, times
from optlang.report.selection import choose
from optlang.report.tables import GAP, cells, framed, one_line, printed
from optlang.store.reader import Reader


@dataclass(frozen=True, slots=True)
class Tradeoffs:
    """What each technique alone does to the study's model: rows of the view `tradeoffs`, and why some failed.

    `quality` is the column that says what was lost, and `unit` its unit; `file` is the study's.
    """

    study: str
    file: str | None
    quality: str
    unit: str
    rows: tuple[Mapping[str, Any], ...]
    failed: Mapping[int, str]


def load_tradeoffs(reader: Reader, study: str | None = None) -> Tradeoffs:
    """The ladder of a study: each technique alone, on each runtime."""
    chosen = choose(reader, study)
    reader.plan(chosen.run)
    answer = reader.query("SELECT * FROM tradeoffs WHERE study = ?", [chosen.study])
    names = [column.name for column in answer.columns]
    rows = answer.dicts()
    candidates = names[names.index("latency_same_runtime_x") + 1 : names.index("trial")]
    quality = next((name for name in candidates if any(row[name] is not None for row in rows)), candidates[0])
    failed = dict(
        reader.query(
            "SELECT trial, coalesce(reason, state) FROM trials WHERE run = ? AND state IN ('failed', 'infeasible')",
            [chosen.run],
        ).rows
    )
    metric = quality.removesuffix("_lost").removesuffix("_x")
    units = reader.query(
        "SELECT any_value(unit) FROM measurements WHERE run = ? AND replace(metric, '.', '_') = ?", [chosen.run, metric]
    ).rows
    return Tradeoffs(chosen.study, chosen.file, quality, units[0][0] or "", tuple(rows), failed)


def render_tradeoffs(
    tradeoffs: Tradeoffs, *, width: int | None = None, color: bool = False, db: Path | None = None
) -> str:
    """Each technique alone against the baseline, and against the float32 model in the same runtime."""
    if not tradeoffs.rows:
        again = command("run", tradeoffs.file or "STUDY.opt", "--ladder", db=db)
        return f"{tradeoffs.study}: no technique has been tried alone yet\n\nNext: {again}\n"
    in_points = tradeoffs.quality.endswith("_lost")
    name = tradeoffs.quality.removesuffix("_lost").removesuffix("_x").replace("_", " ")
    quality = f"{name}, points" if in_points and tradeoffs.unit == "ratio" else name
    heads = ["technique", "runtime", "smaller", "zstd", "faster", "in its runtime", quality, "trial"]
    rows = [_tradeoff(row, tradeoffs) for row in tradeoffs.rows]
    notes = [
        f"{row[0]} on {row[1]} (trial {row[-1]}): {one_line(tradeoffs.failed[int(row[-1])])}\n"
        for row in rows if int(row[-1]) in tradeoffs.failed
    ]
    room = width or 10_000
    kept = _narrowed(heads, rows, room, ("zstd", "in its runtime"))
    if len(kept) < len(heads) or _space(heads, rows, kept) > room:
        # The longest heads take two lines.
        heads = [head.replace(" runtime", "\nruntime").replace(", points", ",\npoints") for head in heads]
        kept = _narrowed(heads, rows, room, ("zstd", "in its\nruntime"))
    left: tuple[int, ...] = (0, 1)
    if _space(heads, rows, kept) > room:
        # What each row is takes two lines, too: no name is broken.
        heads = ["technique,\nruntime", *heads[2:]]
        rows = [[f"{row[0]}\n{row[1]}", *row[2:]] for row in rows]
        kept, left = [0, *(index - 1 for index in kept[2:])], (0,)
    table = framed([heads[index] for index in kept], left)
    for row in rows:
        table.add_row(*(row[index] for index in kept))
    said = printed("".join(notes), width, color)
    return f"{tradeoffs.study}: each technique alone\n\n{printed(table, width, color)}" + (f"\n{said}" if said else "")


def _tradeoff(row: Mapping[str, Any], tradeoffs: Tradeoffs) -> list[str]:
    gains = [row[name] for name in ("size_x", "size_compressed_x", "latency_x", "latency_same_runtime_x")]
    lost = row[tradeoffs.quality]
    if lost is None:
        quality = "–"
    else:
        quality = change(lost, tradeoffs.unit) if tradeoffs.quality.endswith("_lost") else times(lost)
    technique = "(as it is)" if row["technique"] == "none" else str(row["technique"])
    texts = ("–" if value is None else times(value) for value in gains)
    return [technique, row["runtime"] or "–", *texts, quality, str(row["trial"])]


def _space(heads: Sequence[str], rows: Sequence[Sequence[str]], kept: Sequence[int]) -> int:
    """How wide a table of these columns is."""
    return sum(max(cells(heads[index]), *(cells(row[index]) for row in rows)) + GAP for index in kept) - GAP


def _narrowed(
    heads: Sequence[str], rows: Sequence[Sequence[str]], room: int, less: Sequence[str]
) -> list[int]:
    """The columns that fit; those of `less` go one after the other, if they must."""
    kept = list(range(len(heads)))
    for head in less:
        if _space(heads, rows, kept) <= room:
            break
        kept.remove(list(heads).index(head))
    return kept
