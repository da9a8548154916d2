"""The command `export`: writes a trial's artifact to a folder."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from optlang.cli.options import DEFAULT_DB, Db


def export(
    study: Annotated[str, typer.Argument(metavar="STUDY", help="A study's name or file.")],
    trial: Annotated[int, typer.Argument(metavar="TRIAL", min=0, help="A trial's number; 0 is the baseline.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="The folder to write to.")],
    db: Db = DEFAULT_DB,
    force: Annotated[bool, typer.Option("--force", help="Write into the folder even if it is not empty.")] = False,
) -> int:
    """Write a trial's artifact to a folder, with a manifest and a runner."""
    from optlang.report.export import write as exporting
    from optlang.store.reader import connect

    with connect([db]) as reader:
        done = exporting.export(reader, study, trial, output, overwrite=force)
    for name in done.files:
        sys.stdout.write(f"{done.folder / name}\n")
    return 0
