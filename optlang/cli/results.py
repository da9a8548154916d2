"""The commands that read a database: front, tradeoffs and sql."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from optlang.cli.exits import colored, table_width, width
from optlang.cli.options import DEFAULT_DB, Db, Rows, StudyName, TableFormat, Wide

if TYPE_CHECKING:
    from optlang.store.reader import Reader


def front(
    study: StudyName = None, db: Db = DEFAULT_DB, format: Rows = TableFormat.table, wide: Wide = False
) -> int:
    """Show the best trade-offs of a study."""
    return _view("front", show_front, study, db, format, wide)


def tradeoffs(
    study: StudyName = None, db: Db = DEFAULT_DB, format: Rows = TableFormat.table, wide: Wide = False
) -> int:
    """Show each technique alone: size, speed and accuracy against the baseline."""
    return _view("tradeoffs", show_tradeoffs, study, db, format, wide)


def show_front(reader: Reader, study: str | None, db: Path, wide: bool = False) -> None:
    """Print the front of a study as a table."""
    from optlang.report.front import load_front
    from optlang.report.front_table import render_front

    found = load_front(reader, study)
    sys.stdout.write(render_front(found, width=table_width(wide), color=colored(sys.stdout), db=db))


def show_tradeoffs(reader: Reader, study: str | None, db: Path, wide: bool = False) -> None:
    """Print what each technique of a study does alone, as a table."""
    from optlang.report.tradeoffs import load_tradeoffs, render_tradeoffs

    found = load_tradeoffs(reader, study)
    sys.stdout.write(render_tradeoffs(found, width=table_width(wide), color=colored(sys.stdout), db=db))


def _view(
    view: str, show: Callable[[Reader, str | None, Path, bool], None], study: str | None, db: Path,
    format: TableFormat, wide: bool,
) -> int:
    """A view of one study: as `show` prints it, or its rows with the columns that they have in SQL."""
    from optlang.report.selection import choose
    from optlang.report.tables import render
    from optlang.store.reader import connect

    with connect([db]) as reader:
        _warn(reader)
        if format is TableFormat.table:
            show(reader, study, db, wide)
        else:
            answer = reader.query(f"FROM {view} WHERE study = ?", [choose(reader, study).study])
            sys.stdout.write(render(answer, format.value))
    return 0


def _warn(reader: Reader) -> None:
    """Report the runs that another version of optlang stored, in a form that this one cannot read."""
    for message in reader.unreadable:
        missing = "it is left out of front and tradeoffs, and its own columns of results"
        sys.stderr.write(f"warning: {message}: {missing}\n")


def sql(
    query: Annotated[str, typer.Argument(metavar="QUERY", help="For example: FROM front ORDER BY latency_p50")],
    db: Annotated[list[Path] | None, typer.Option("--db", metavar="PATH", help="A database; may be repeated.")] = None,
    format: Rows = TableFormat.table,
) -> int:
    """Query the results in SQL, also during a run; it only reads.

    Views: results, front, tradeoffs, timeline, learning, rungs, devices.
    """
    from optlang.report.tables import render
    from optlang.store.reader import connect

    with connect(db or [DEFAULT_DB]) as reader:
        _warn(reader)
        answer = reader.query(query)
    sys.stdout.write(render(answer, format.value, width=width(), color=colored(sys.stdout)))
    return 0
