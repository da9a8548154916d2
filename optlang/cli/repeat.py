"""The command `repeat`: carries out one trial of a study again from nothing, and compares it with what is stored."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from optlang.cli.exits import INTERRUPTED, USAGE, WRONG, colored, table_width, usage
from optlang.cli.options import DEFAULT_DB, Db, Progress, Shown
from optlang.cli.stored import changed, stored_trial
from optlang.cli.watcher import watcher_of
from optlang.diagnostics.command_line import command

if TYPE_CHECKING:
    from optlang.report.repeated import TrialFigures


def repeat(
    study: Annotated[str, typer.Argument(metavar="STUDY", help="A study's name or file.")],
    trial: Annotated[int, typer.Argument(metavar="TRIAL", min=0, help="A trial's number; 0 is the baseline.")],
    db: Db = DEFAULT_DB,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="DIR", help="Keep what is made there: database, cache and artifacts."),
    ] = None,
    progress: Shown = None,
) -> int:
    """Carry out a trial again from nothing, and compare it with what is stored; the database stays as it is.

    Exit code 0: no figure differs; 1: one does; 2: the trial cannot be repeated.
    """
    from optlang.interfaces import OptlangError, OutsideError
    from optlang.run.stop import InterruptedRun

    try:
        return _repeated(study, trial, db, output, progress)
    except InterruptedRun:
        sys.stderr.write("interrupted: nothing was compared\n")
        return INTERRUPTED
    except OptlangError as error:
        # 1 is the answer that a figure differs.
        if not isinstance(error, OutsideError):
            error.exit_code = USAGE
        raise


def _repeated(study: str, trial: int, db: Path, output: Path | None, progress: Progress | None) -> int:
    from optlang.measure import signals
    from optlang.report.repeated import compare, load_trial
    from optlang.report.repeated_table import render_repeated
    from optlang.run.repeat import repeat as repeat_trial
    from optlang.store.reader import connect

    stored = stored_trial(study, trial, db)
    plan, text, file = stored.plan, stored.text, stored.file
    for line in (*_said(stored.figures), *changed(file, text)):
        sys.stderr.write(f"{line}\n")
    with _folder(output) as folder, signals.raised():
        made = folder / DEFAULT_DB.name
        watcher = watcher_of(plan, progress)
        try:
            run = repeat_trial(plan, text, file, stored.wanted, made, watcher)
        finally:
            watcher.close()
        with connect([made]) as reader:
            again = load_trial(reader, run, trial)
    found = compare(plan, stored.figures, again)
    sys.stdout.write(render_repeated(stored.chosen.study, found, width=table_width(), color=colored(sys.stdout)))
    if output is not None:
        again_by = command("export", stored.chosen.study, str(trial), "-o", "DIR", db=made)
        sys.stderr.write(f"what was made is in {output}: `{again_by}` exports the trial\n")
    return 0 if found.agrees else WRONG


def _said(stored: TrialFigures) -> Iterator[str]:
    """Why a trial has no figures, or not all."""
    if stored.interrupted:
        yield f"trial {stored.number} was interrupted: it is carried out again, with nothing to compare"
    elif stored.failed:
        yield f"trial {stored.number} failed: {stored.reason}; it is carried out again"
    elif not stored.measurements:
        yield f"trial {stored.number} ended before it was measured: it is carried out whole, with nothing to compare"


@contextmanager
def _folder(output: Path | None) -> Iterator[Path]:
    """The empty folder that everything is made in: a temporary one, removed in the end, unless `output` is named."""
    if output is None:
        with tempfile.TemporaryDirectory(prefix="optlang-repeat-") as name:
            yield Path(name)
        return
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise usage(f"{output} is {'not empty' if output.is_dir() else 'a file'}", "name another folder with -o")
    output.mkdir(parents=True, exist_ok=True)
    yield output
