"""The commands that read a database: front, tradeoffs and sql."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from optlang.cli.exits import colored, table_width, usage, width
from optlang.cli.options import DEFAULT_DB, AnswerFormat, Db, Rows, StudyName, TableFormat, Wide

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
    query: Annotated[
        str | None, typer.Argument(metavar="[QUERY]", help="For example: FROM front ORDER BY latency_p50")
    ] = None,
    file: Annotated[
        Path | None, typer.Option("--file", "-f", metavar="FILE", help="Read the query from a file; - is the input.")
    ] = None,
    param: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="The value of $NAME in the query; may be repeated.")
    ] = None,
    db: Annotated[list[Path] | None, typer.Option("--db", metavar="PATH", help="A database; may be repeated.")] = None,
    all_runs: Annotated[
        bool, typer.Option("--all-runs", help="Views of all runs; those of the newest of each study if left out.")
    ] = False,
    format: Annotated[AnswerFormat, typer.Option("--format", help="How the rows are written.")] = AnswerFormat.table,
) -> int:
    """Query the results in SQL, also during a run; it only reads.

    Views: results, front, tradeoffs, timeline, learning, rungs, devices. Of several databases, their column db says
    which one a row is of.
    """
    question, values = _question(query, file), dict(map(_parameter, param or ()))
    dbs = db or [DEFAULT_DB]
    if format is AnswerFormat.parquet:
        return _parquet(question, values, dbs, all_runs)
    from optlang.report.tables import render
    from optlang.store.reader import connect

    with connect(dbs, all_runs=all_runs) as reader:
        _warn(reader)
        answer = reader.query(question, values)
    sys.stdout.write(render(answer, format.value, width=width(), color=colored(sys.stdout)))
    return 0


def _question(query: str | None, file: Path | None) -> str:
    if (query is None) == (file is None):
        raise usage("`optlang sql` takes one query", 'as an argument, for example "FROM front", or from a file with -f')
    if file is None:
        return query or ""
    try:
        return sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        hint = "name a text file, or give the query itself"
        raise usage(f"cannot read the query in {file}: {reason}", hint) from error


def _parameter(text: str) -> tuple[str, str | float | bool | None]:
    """A name and its value: a number, true, false, null or a string as JSON writes them; anything else is text."""
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise usage(f"`--param {text}` is no NAME=VALUE", "for example: --param calibrator=entropy, or --param trial=3")
    try:
        found = json.loads(value)
    except ValueError:
        found = value
    return name, value if isinstance(found, dict | list) else found


def _parquet(question: str, values: Mapping[str, Any], dbs: Sequence[Path], all_runs: bool) -> int:
    """Write the answer as a Parquet file to the output, which must not be a terminal."""
    from optlang.store.reader import connect

    if sys.stdout.isatty():
        raise usage("a Parquet file is not for a terminal", "send it to a file: optlang sql … --format parquet > FILE")
    with tempfile.TemporaryDirectory(prefix="optlang-sql-") as folder:
        made = Path(folder) / "answer.parquet"
        with connect(dbs, output=made, all_runs=all_runs) as reader:
            _warn(reader)
            reader.write_parquet(question, values)
        sys.stdout.flush()
        with made.open("rb") as content:
            shutil.copyfileobj(content, sys.stdout.buffer)
    return 0
