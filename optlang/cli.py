"""The commands: parse arguments, call, render. Everything that a command needs is imported when it runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from optlang.forms import OptlangError

if TYPE_CHECKING:
    from rich.console import Console

    from optlang.plan.load import Loaded
    from optlang.plan.model import Plan

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
    help="Declare how a PyTorch model may be made smaller and faster, search it, measure it, query the results.",
    epilog="Start with: optlang run studies/digits.opt",
)

WRONG, USAGE, OUTSIDE, INTERRUPTED = 1, 2, 3, 130


class CheckFormat(StrEnum):
    """How problems are shown."""

    full = "full"
    concise = "concise"
    json = "json"
    github = "github"


class TableFormat(StrEnum):
    """How rows are shown."""

    table = "table"
    csv = "csv"
    json = "json"
    jsonl = "jsonl"
    markdown = "markdown"


class Progress(StrEnum):
    """How a run is shown while it goes on."""

    plain = "plain"
    rich = "rich"


Db = Annotated[Path, typer.Option("--db", help="The database of results.", show_default=True)]
DEFAULT_DB = Path("optlang.duckdb")
StudyFile = Annotated[Path, typer.Argument(metavar="FILE", help="A study, for example studies/digits.opt.")]
StudyName = Annotated[
    str | None, typer.Argument(metavar="[STUDY]", help="A study's name or file; left out: the newest.", show_default=False)
]
Sets = Annotated[
    list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Set an input of the study; may be repeated.")
]
Rows = Annotated[TableFormat, typer.Option("--format", help="How the rows are shown.")]


def command(arguments: Sequence[str]) -> int:
    """Run one command; gives its exit code: 0 done, 1 the thing asked about is wrong, 2 wrong use, 3 something outside
    is wrong, 130 interrupted."""
    import click

    try:
        result = typer.main.get_command(app).main(list(arguments), prog_name="optlang", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.ClickException as error:
        error.show(sys.stderr)
        return USAGE
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output (`| head`) has seen enough; Python must not complain when it flushes at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OptlangError as error:
        _explain(error)
        return error.exit_code


def _explain(error: OptlangError) -> None:
    from optlang.diagnostics import StudyError

    if isinstance(error, StudyError):
        from optlang.render import render

        sys.stderr.write(render(error.diagnostics, error.texts, color=_colored(sys.stderr)))
        return
    sys.stderr.write(f"error: {error.message}\n")
    details = getattr(error, "details", "")
    if details:
        sys.stderr.write("".join(f"  {line}\n" for line in str(details).rstrip().splitlines()))
    if error.help:
        sys.stderr.write(f"  = help: {error.help}\n")


def _colored(stream: Any) -> bool:
    return stream.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"


def _console(stderr: bool = False) -> Console:
    from rich.console import Console

    return Console(stderr=stderr, highlight=False)


def _usage(message: str, hint: str) -> OptlangError:
    error = OptlangError(message, help=hint)
    error.exit_code = USAGE
    return error


def _overrides(sets: list[str] | None) -> dict[str, str]:
    found = {}
    for item in sets or ():
        name, equal, value = item.partition("=")
        if not equal or not name:
            raise _usage(f"--set {item}: a name, `=` and a value belong together", "for example --set epochs=5")
        found[name.strip()] = value.strip()
    return found


def _load(file: Path, sets: list[str] | None = None) -> tuple[Plan, Loaded]:
    """The plan of a study; raises StudyError with all of its problems. Warnings are shown."""
    from optlang.diagnostics import StudyError
    from optlang.plan.load import load
    from optlang.render import render

    if not file.is_file():
        raise _usage(f"there is no file {file}", "name a study, for example studies/digits.opt")
    loaded = load(file, _overrides(sets))
    if loaded.plan is None:
        raise StudyError(loaded.diagnostics, dict(loaded.texts))
    if loaded.diagnostics:
        sys.stderr.write(render(loaded.diagnostics, loaded.texts, color=_colored(sys.stderr)))
    return loaded.plan, loaded


@app.command()
def check(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Studies and modules to check.")],
    format: Annotated[CheckFormat, typer.Option(help="How problems are shown.")] = CheckFormat.full,  # noqa: A002
) -> int:
    """Find every problem of studies and modules; runs none of their code."""
    from optlang.plan.load import load
    from optlang.render import render

    missing = [str(file) for file in files if not file.is_file()]
    if missing:
        raise _usage(f"there is no file {', '.join(missing)}", "name one or more .opt files")
    found: list[Any] = []
    texts: dict[str, str] = {}
    for file in files:
        loaded = load(file)
        found += loaded.diagnostics
        texts |= loaded.texts
    found = list(dict.fromkeys(found))
    sys.stdout.write(render(found, texts, format.value, color=_colored(sys.stdout)))
    errors = sum(item.severity == "error" for item in found)
    if format is CheckFormat.full:
        warnings = len(found) - errors
        said = [f"{count} {word}{'s' if count != 1 else ''}" for count, word in ((errors, "error"), (warnings, "warning")) if count]
        checked = f"{len(files)} file{'s' if len(files) != 1 else ''} checked"
        sys.stderr.write(f"{checked}: {' and '.join(said) or 'no problems'}\n")
    return WRONG if errors else 0


@app.command()
def plan(
    file: StudyFile,
    json: Annotated[bool, typer.Option("--json", help="The plan as JSON.")] = False,
    set_: Sets = None,
    db: Db = DEFAULT_DB,
) -> int:
    """Show what a study would do: knobs, pipeline, size of the space, what a trial consists of. Runs nothing."""
    from optlang.plan.describe import describe, text
    from optlang.search.space import Space

    study, _ = _load(file, set_)
    if json:
        sys.stdout.write(study.model_dump_json(indent=2) + "\n")
        return 0
    size = Space(study).size()
    sys.stdout.write(text(describe(study, size)))
    seconds = _seconds_a_trial(study.study, db)
    if seconds is not None:
        from optlang.report.quantities import in_seconds

        sys.stdout.write(f"\nA trial took {in_seconds(seconds)} so far, so {study.search.trials} take about "
                         f"{in_seconds(seconds * study.search.trials)}.\n")
    return 0


def _seconds_a_trial(study: str, db: Path) -> float | None:
    """The mean time of a trial of this study, as the database knows it."""
    if not db.exists():
        return None
    from optlang.store.reader import query

    sql = "SELECT avg(seconds) FROM results WHERE study = ? AND origin = 'sampler' AND state <> 'failed'"
    rows = query(sql, [db], [study]).rows
    return rows[0][0] if rows else None


@app.command()
def run(
    file: StudyFile,
    set_: Sets = None,
    trials: Annotated[int | None, typer.Option(min=0, help="Searched trials in all, baseline and ladder not counted.")] = None,
    timeout: Annotated[str | None, typer.Option(metavar="TIME", help="Start no trial after this time, for example 10min.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of the search and of all training.")] = None,
    db: Db = DEFAULT_DB,
    progress: Annotated[Progress | None, typer.Option(help="A picture in a terminal, or lines.", show_default="rich in a terminal")] = None,
    ladder: Annotated[bool, typer.Option("--ladder", help="Stop after each technique was measured alone.")] = False,
    continue_: Annotated[bool, typer.Option("--continue", help="Join the newest run though the study changed.")] = False,
    new: Annotated[bool, typer.Option("--new", help="Begin a new run though there is one to go on with.")] = False,
    home: Annotated[Path | None, typer.Option(envvar="OPTLANG_HOME", help="Where cache and artifacts lie; default .optlang beside the database.")] = None,
) -> int:
    """Search a study, or go on with it; ends with the best trade-offs and the next command to type."""
    from optlang.run.study import Options
    from optlang.run.study import run as run_study

    if continue_ and new:
        raise _usage("--continue and --new exclude each other", "leave one out")
    study, loaded = _load(file, set_)
    options = Options(
        trials=trials, timeout=_seconds(timeout), seed=seed, ladder=ladder, home=home,
        mode="continue" if continue_ else "new" if new else "auto",
    )
    rich = progress is Progress.rich or (progress is None and _colored(sys.stderr))
    watcher = _watcher(rich)
    try:
        outcome = run_study(study, loaded.text, file, db, options, watcher)
    finally:
        watcher.close()
    return _ending(study, outcome, db)


def _seconds(text: str | None) -> float | None:
    if text is None:
        return None
    from optlang.plan.units import duration

    seconds = duration(text)
    if seconds is None:
        raise _usage(f"--timeout {text}: that is no time", "write it as in a study: 90s, 10min, 2h")
    return seconds


def _watcher(rich: bool) -> Any:
    from optlang.report.progress import LiveProgress, PlainProgress

    return LiveProgress(_console(stderr=True)) if rich else PlainProgress(sys.stderr)


def _ending(study: Plan, outcome: Any, db: Path) -> int:
    from optlang.report import terminal
    from optlang.store.reader import connect

    with connect([db]) as reader:
        terminal.ending(reader, study.study, db, _console(), outcome.why)
    if outcome.why == "interrupted":
        sys.stderr.write("interrupted; run the same command again to go on\n")
        return INTERRUPTED
    return 0 if outcome.met else WRONG


@app.command()
def front(study: StudyName = None, db: Db = DEFAULT_DB, format: Rows = TableFormat.table) -> int:  # noqa: A002
    """Show the best trade-offs of a study."""
    return _view("front", study, db, format)


@app.command()
def tradeoffs(study: StudyName = None, db: Db = DEFAULT_DB, format: Rows = TableFormat.table) -> int:  # noqa: A002
    """Show what each technique won alone: size, speed and accuracy against the baseline."""
    return _view("tradeoffs", study, db, format)


def _view(view: str, study: str | None, db: Path, format_: TableFormat) -> int:
    raise NotImplementedError


main: Callable[[Sequence[str]], int] = command
