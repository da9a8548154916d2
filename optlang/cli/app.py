"""The commands: parse arguments, call, render. Everything that a command needs is imported when it runs."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from optlang.cli import check, lsp
from optlang.cli.exits import INTERRUPTED, OUTSIDE, USAGE, WRONG, colored, usage
from optlang.cli.options import (
    DEFAULT_DB,
    Continue,
    Db,
    Home,
    Join,
    Ladder,
    New,
    Page,
    PageFormat,
    Progress,
    Rows,
    Seed,
    Sets,
    Shown,
    StudyFile,
    StudyName,
    TableFormat,
    Timeout,
    Trials,
)
from optlang.interfaces import OptlangError

if TYPE_CHECKING:
    from optlang.plan.model import Plan
    from optlang.run.events import Begun
    from optlang.run.scheduler import Outcome
    from optlang.store.reader import Reader

# Typer has a copy of click of its own and names few of its errors: this one's parent is what wrong uses have in common.
UsageError: type[typer.BadParameter] = typer.BadParameter.__bases__[0]

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
    help="Declare how a PyTorch model may be made smaller and faster, search it, measure it, query the results.",
    epilog="Start with: optlang run studies/digits.opt",
)

app.command()(check.check)
app.command()(check.fmt)
app.command()(check.plan)
app.command()(lsp.lsp)


def command(arguments: Sequence[str]) -> int:
    """Run one command; gives its exit code: 0 done, 1 the thing asked about is wrong, 2 wrong use, 3 something outside
    is wrong, 130 interrupted."""
    try:
        result = typer.main.get_command(app).main(list(arguments), prog_name="optlang", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except typer.Exit as stop:
        return stop.exit_code
    except (typer.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output (`| head`) has seen enough; Python must not complain when it flushes at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OptlangError as error:
        _explain(error)
        return error.exit_code
    except UsageError as error:
        error.show(sys.stderr)
        return USAGE


def _explain(error: OptlangError) -> None:
    from optlang.diagnostics.model import StudyError

    if isinstance(error, StudyError):
        from optlang.diagnostics.render import render

        sys.stderr.write(render(error.diagnostics, error.texts, color=colored(sys.stderr)))
        return
    sys.stderr.write(f"error: {error.message}\n")
    details = getattr(error, "details", "")
    if details:
        sys.stderr.write("".join(f"  {line}\n" for line in str(details).rstrip().splitlines()))
    if error.help:
        sys.stderr.write(f"  = help: {error.help}\n")


@app.command()
def run(
    file: StudyFile, set_: Sets = None, trials: Trials = None, timeout: Timeout = None, seed: Seed = None,
    db: Db = DEFAULT_DB, progress: Shown = None, ladder: Ladder = None, continue_: Continue = False,
    join: Join = None, new: New = False, home: Home = None,
) -> int:
    """Search a study, or go on with it; ends with the best trade-offs and the next command to type."""
    from optlang.measure import signals
    from optlang.run.study import Options
    from optlang.run.study import run as run_study

    if continue_ + new + (join is not None) > 1:
        raise usage("--continue, --join and --new exclude each other", "keep one of them")
    limit = _seconds(timeout)
    study, text = check.plan_of(file, set_)
    options = Options(
        trials=trials, timeout=limit, seed=seed, ladder=ladder, home=home,
        mode="continue" if continue_ else "new" if new else "auto", join=join,
    )
    with signals.raised():
        watcher = _watcher(study, progress is Progress.rich or (progress is None and colored(sys.stderr)))
        try:
            outcome = run_study(study, text, file, db, options, watcher)
        finally:
            watcher.close()
        return _ending(study, outcome, db, new)


def _seconds(text: str | None) -> float | None:
    if text is None:
        return None
    from decimal import Decimal

    from optlang.plan.units import quantity

    number, unit = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", text), None
    if number is not None:
        unit = quantity(Decimal(number[1]), number[2] or None, False)
    if unit is None or unit.kind != "time":
        raise usage(f"--timeout {text}: that is no time", "write it as in a study: 90s, 10min, 2h")
    return float(str(unit.value))


def _watcher(study: Plan, rich: bool) -> Any:
    from rich.console import Console

    from optlang.report.front import columns
    from optlang.report.progress import LiveProgress, PlainProgress
    from optlang.report.trial_text import describe

    plan = study.model_dump(mode="json", include={"knobs", "metrics", "targets", "objectives", "requires"})

    def words(begun: Begun) -> str:
        return describe(plan, {"trial": begun.trial, "point": begun.point, "runtime": begun.runtime}, begun.steps)

    def shown(there: Collection[str]) -> Sequence[str]:
        return columns(plan, there)

    if rich:
        return LiveProgress(Console(stderr=True, highlight=False), words, shown)
    return PlainProgress(sys.stderr, words, shown)


def _ending(study: Plan, outcome: Outcome, db: Path, new: bool) -> int:
    from optlang.report import front, terminal
    from optlang.store.reader import connect

    with connect([db]) as reader:
        if outcome.why == "ladder":
            found = front.load_tradeoffs(reader, study.study)
            sys.stdout.write(terminal.render_tradeoffs(found, width=_width(), color=colored(sys.stdout), db=db))
        else:
            best = front.load_front(reader, study.study)
            sys.stdout.write(terminal.render_front(best, width=_width(), color=colored(sys.stdout), db=db))
    again = "the same command without --new" if new else "the same command"
    if outcome.why == "interrupted":
        sys.stderr.write(f"interrupted: all that was finished is kept, and {again} goes on\n")
        return INTERRUPTED
    if outcome.why == "timeout":
        limit = "`timeout` in search { }, or --timeout"
        sys.stderr.write(f"time is up ({limit}): {again} goes on, with as much time again\n")
    if outcome.why == "ladder":
        return 0
    return 0 if outcome.met else WRONG


def _width() -> int | None:
    """The terminal's width; None where the output goes to a file or a pipe, which have none."""
    return os.get_terminal_size(sys.stdout.fileno()).columns if sys.stdout.isatty() else None


@app.command()
def front(study: StudyName = None, db: Db = DEFAULT_DB, format: Rows = TableFormat.table) -> int:
    """Show the best trade-offs of a study."""
    from optlang.report.front import load_front
    from optlang.report.terminal import render_front
    from optlang.store.reader import connect

    with connect([db]) as reader:
        if format is not TableFormat.table:
            return _rows(reader, "front", study, format)
        found = load_front(reader, study)
        sys.stdout.write(render_front(found, width=_width(), color=colored(sys.stdout), db=db))
        return 0


@app.command()
def tradeoffs(study: StudyName = None, db: Db = DEFAULT_DB, format: Rows = TableFormat.table) -> int:
    """Show what each technique won alone: size, speed and accuracy against the baseline."""
    from optlang.report.front import load_tradeoffs
    from optlang.report.terminal import render_tradeoffs
    from optlang.store.reader import connect

    with connect([db]) as reader:
        if format is not TableFormat.table:
            return _rows(reader, "tradeoffs", study, format)
        found = load_tradeoffs(reader, study)
        sys.stdout.write(render_tradeoffs(found, width=_width(), color=colored(sys.stdout), db=db))
        return 0


def _rows(reader: Reader, view: str, study: str | None, shown: TableFormat) -> int:
    """A view's rows of one study, columns as they are in SQL."""
    from optlang.report.selection import choose
    from optlang.report.tables import render

    answer = reader.query(f"FROM {view} WHERE study = ?", [choose(reader, study).study])
    sys.stdout.write(render(answer, shown.value))
    return 0


@app.command()
def sql(
    query: Annotated[str, typer.Argument(metavar="QUERY", help="For example: FROM front ORDER BY latency_p50")],
    db: Annotated[list[Path] | None, typer.Option("--db", metavar="PATH", help="A database; may be repeated.")] = None,
    format: Rows = TableFormat.table,
) -> int:
    """Ask the results a question; reads only, also while a run goes on. Views: results, front, tradeoffs, timeline."""
    from optlang.report.tables import render
    from optlang.store import reader

    answer = reader.query(query, db or [DEFAULT_DB])
    sys.stdout.write(render(answer, format.value, width=_width(), color=colored(sys.stdout)))
    return 0


@app.command()
def export(
    study: Annotated[str, typer.Argument(metavar="STUDY", help="A study's name or file.")],
    trial: Annotated[int, typer.Argument(metavar="TRIAL", min=0, help="A trial's number; 0 is the baseline.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="The folder to make.")],
    db: Db = DEFAULT_DB,
    force: Annotated[bool, typer.Option("--force", help="Write into the folder though it holds something.")] = False,
) -> int:
    """Put a trial's artifact, with a manifest and a runner, where you want it."""
    from optlang.report.export import write as exporting
    from optlang.store.reader import connect

    with connect([db]) as reader:
        done = exporting.export(reader, study, trial, output, overwrite=force)
    for name in done.files:
        sys.stdout.write(f"{done.folder / name}\n")
    return 0


@app.command()
def explain(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="For example E201, static, onnxruntime, latency, tpe.")
    ] = None,
) -> int:
    """Explain a code, technique, runtime, metric, sampler or setting; without a name, list them all."""
    from optlang.report.explain import explained, listing, suggestion

    page = explained(name) if name is not None else listing()
    if page is None:
        raise usage(f"nothing is called {name}", suggestion(str(name)))
    sys.stdout.write(page)
    return 0


@app.command()
def doctor(db: Db = DEFAULT_DB, home: Home = None, format: Page = PageFormat.text) -> int:
    """Show what can run here and what to install: runtimes, packages, processor, cache, disk. Imports none of them."""
    from optlang.cli.doctor import examine, page

    found = examine(db, home)
    sys.stdout.write(found.json() if format is PageFormat.json else page(found))
    return OUTSIDE if found.problems else 0
