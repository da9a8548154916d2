"""The program: its commands, and how their errors are reported. Commands import what they need when they run."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import metadata
from typing import Annotated

import typer

from optlang.cli import cache, check, device, doctor, explain, export, fmt, listing, lsp, plan, repeat, results, run
from optlang.cli.exits import INTERRUPTED, USAGE, colored
from optlang.cli.wrong_use import said
from optlang.interfaces import OptlangError

# Typer has a copy of click of its own and names few of its errors: this one's parent is what wrong uses have in common.
UsageError: type[typer.BadParameter] = typer.BadParameter.__bases__[0]
# Without arguments the answer is the help.
_HELP = "NoArgsIsHelpError"

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
    help="Declare how a PyTorch model may be made smaller and faster, search it, measure it, query the results.",
    epilog="Start with: optlang run studies/digits.opt",
)


def _version(asked: bool) -> None:
    if asked:
        sys.stdout.write(f"optlang {metadata.version('optlang-dsl')}\n")
        raise typer.Exit


@app.callback()
def _program(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_version, help="Show the version, and exit.")
    ] = False,
) -> None:
    """Options of the program itself."""


for _command in (
    check.check, fmt.fmt, plan.plan, lsp.lsp, run.run, results.front, results.tradeoffs, results.sql, export.export,
    repeat.repeat, explain.explain, listing.list_, doctor.doctor,
):
    app.command(_command.__name__.rstrip("_"))(_command)
app.add_typer(cache.cache, name="cache")
app.add_typer(device.app, name="device")


def command(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code: 0 done, 1 the study or the query is wrong, 2 wrong use, 3 something
    outside is wrong, 130 interrupted."""
    try:
        result = typer.main.get_command(app).main(list(arguments), prog_name="optlang", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except typer.Exit as stop:
        return stop.exit_code
    except (typer.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our output (`| head`) has closed it; Python must not complain when it flushes at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OptlangError as error:
        _report(error)
        return error.exit_code
    except UsageError as error:
        if type(error).__name__ == _HELP:
            error.show(sys.stderr)
        else:
            _report(said(error))
        return USAGE


def _report(error: OptlangError) -> None:
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
