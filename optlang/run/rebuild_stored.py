"""Builds the artifacts of a stored trial again in a folder of their own; database and artifacts stay as they are."""

from __future__ import annotations

import shutil
import tempfile
import time
from contextlib import closing
from pathlib import Path

from optlang.interfaces import OptlangError
from optlang.measure import signals
from optlang.plan.model import Plan
from optlang.run.engine import Engine, LocalEngine
from optlang.run.events import Watcher
from optlang.run.rebuilt import Rebuilt
from optlang.run.repeat import Wanted, recipe_of
from optlang.run.scheduler import Scheduler
from optlang.run.scratch import Scratch
from optlang.run.study import usable
from optlang.store.journal import journal_path
from optlang.store.writer import Writer


@signals.raised()
def rebuild_stored(
    db: Path, plan: Plan, file: Path, run: str, wanted: Wanted, home: Path, folder: Path, watcher: Watcher,
    engine: Engine | None = None,
) -> Rebuilt:
    """The artifacts of a trial of `run` in `db`, built again in `folder`.

    Steps are taken from the cache in `home`, and those that it lacks are carried out and kept there. Nothing is
    written to the database, which another run may write to. Raises OptlangError where it cannot be built, or what it
    needs is missing, InterruptedRun.
    """
    study = file.resolve().parent
    with (
        tempfile.TemporaryDirectory(prefix="optlang-rebuild-") as name, Writer(_copy(db, Path(name))) as store,
        Scratch(home) as scratch, closing(engine or LocalEngine(study, scratch.folder)) as engine,
    ):
        unavailable = usable(plan, study, engine).unavailable
        recipe, _ = recipe_of(plan, wanted, unavailable)
        scheduler = Scheduler(plan, study, home, scratch, store, engine, watcher, run, unavailable, time.monotonic())
        with scheduler.interruptible():
            found = scheduler.rebuild(wanted.number, recipe, folder)
    if found.figures:
        raise OptlangError(
            f"trial {wanted.number}, built again, is not what was measured: {', '.join(found.figures)} "
            f"(other files: {', '.join(found.files)})",
            help="`optlang repeat STUDY TRIAL -o DIR` measures it again, and what it made can be exported from there",
        )
    return found


def _copy(db: Path, folder: Path) -> Path:
    """A copy of the database to read from while another run may write to it: of its journal, which has everything."""
    copy = folder / "optlang.duckdb"
    source = journal_path(db.resolve())
    if source.exists():
        shutil.copyfile(source, journal_path(copy))
    else:
        shutil.copyfile(db, copy)
    return copy
