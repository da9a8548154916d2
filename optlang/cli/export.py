"""The command `export`: writes a trial's artifact to a folder."""

from __future__ import annotations

import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from optlang.cli.exits import INTERRUPTED
from optlang.cli.options import DEFAULT_DB, Db

if TYPE_CHECKING:
    from optlang.report.export.write import Exported


def export(
    study: Annotated[str, typer.Argument(metavar="STUDY", help="A study's name or file.")],
    trial: Annotated[int, typer.Argument(metavar="TRIAL", min=0, help="A trial's number; 0 is the baseline.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="The folder to write to.")],
    db: Db = DEFAULT_DB,
    force: Annotated[bool, typer.Option("--force", help="Write into the folder even if it is not empty.")] = False,
) -> int:
    """Write a trial's artifact to a folder, with a manifest and a runner."""
    from optlang.report.export import write as exporting
    from optlang.run.stop import InterruptedRun
    from optlang.store.reader import connect

    with connect([db]) as reader:
        pruned = exporting.pruned(reader, study, trial)
        if not pruned:
            done = exporting.export(reader, study, trial, output, overwrite=force)
    if pruned:
        try:
            done = _rebuilt(study, trial, output, db, force)
        except InterruptedRun:
            sys.stderr.write("interrupted: nothing was exported\n")
            return INTERRUPTED
    else:
        _keep(done)
    for name in done.files:
        sys.stdout.write(f"{done.folder / name}\n")
    return 0


def _rebuilt(study: str, trial: int, output: Path, db: Path, force: bool) -> Exported:
    """Export an artifact that was removed to keep the disk within its limit: it is built again for it."""
    from optlang.cli.stored import changed, stored_trial
    from optlang.cli.watcher import watcher_of
    from optlang.report.export import write as exporting
    from optlang.run.machine import home_of
    from optlang.run.rebuild_stored import rebuild_stored
    from optlang.store.reader import connect

    stored = stored_trial(study, trial, db)
    for line in changed(stored.file, stored.text):
        sys.stderr.write(f"{line}\n")
    sys.stderr.write(
        f"the artifact of trial {trial} was removed to keep the disk within its limit: it is built again\n"
    )
    with connect([db]) as reader:
        home = exporting.home(reader, study, trial) or home_of(db)
    with tempfile.TemporaryDirectory(prefix="optlang-export-") as name:
        watcher = watcher_of(stored.plan, None)
        try:
            found = rebuild_stored(
                db, stored.plan, stored.file, stored.chosen.run, stored.wanted, home, Path(name) / "built", watcher
            )
        finally:
            watcher.close()
        same = "its files have the same figures, and other bytes than" if found.files else "byte for byte"
        sys.stderr.write(f"built again: {same} what was measured\n")
        with connect([db]) as reader:
            return exporting.export(reader, study, trial, output, overwrite=force, rebuilt=found.artifacts)


def _keep(done: Exported) -> None:
    """What was exported is kept longer than other artifacts; see `run.pruning`."""
    from optlang.store.artifacts import EXPORTED

    for source in done.sources:
        with suppress(OSError):
            (source / EXPORTED).touch()
