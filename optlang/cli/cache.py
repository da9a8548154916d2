"""The commands `cache list`, `size`, `prune` and `verify`: what lies in the folder of cache and artifacts."""

from __future__ import annotations

import sys
import time
from contextlib import closing, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from optlang.cli.exits import WRONG, colored, usage, width
from optlang.cli.options import DEFAULT_DB, Db, Home, Rows, TableFormat

if TYPE_CHECKING:
    from optlang.report.kept import Held
    from optlang.run.pruning import Candidate
    from optlang.store.writer import Writer

cache = typer.Typer(no_args_is_help=True, help="Show, check and prune the cache of steps and the artifacts.")


@cache.command("list")
def list_(db: Db = DEFAULT_DB, home: Home = None, format: Rows = TableFormat.table) -> int:
    """List the results in the cache by study, step, bytes and last use; what was used last comes last."""
    from optlang.report.kept import cached
    from optlang.run.cache_files import entries
    from optlang.run.pruning import CACHE

    folder = _home(db, home)
    found = sorted(entries(folder / CACHE), key=lambda item: item.used)
    with closing(_held(db, folder)) as held:
        answer = cached(held, [(item.key, item.kind, item.bytes, _moment(item.used)) for item in found])
    from optlang.report.tables import render

    sys.stdout.write(render(answer, format.value, width=width(), color=colored(sys.stdout)))
    return 0


@cache.command()
def size(db: Db = DEFAULT_DB, home: Home = None, format: Rows = TableFormat.table) -> int:
    """Show how much the cache and the artifacts take."""
    from collections import Counter

    from optlang.report.kept import sizes
    from optlang.report.tables import render
    from optlang.run.cache_files import entries, size_of
    from optlang.run.pruning import CACHE
    from optlang.store.artifacts import KEPT

    folder = _home(db, home)
    numbers: Counter[str] = Counter()
    taken: Counter[str] = Counter()
    for item in entries(folder / CACHE):
        numbers[item.kind] += 1
        taken[item.kind] += item.bytes
    with closing(_held(db, folder)) as held:
        for path in sorted((folder / KEPT).glob("*/*")):
            what = held.what(path.parent.name, path.name)
            numbers[what] += 1
            taken[what] += size_of(path)
    sys.stdout.write(render(sizes(numbers, taken), format.value, width=width(), color=colored(sys.stdout)))
    return 0


@cache.command()
def prune(
    to: Annotated[str | None, typer.Option("--to", metavar="SIZE", help="Until so much is left, as 5GB.")] = None,
    older: Annotated[
        str | None, typer.Option("--older", metavar="TIME", help="What was not used for so long, as 30d.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Remove nothing, and show what would go.")] = False,
    db: Db = DEFAULT_DB, home: Home = None,
) -> int:
    """Remove results of the cache and artifacts outside the fronts, those used least recently first.

    Baselines, fronts, what was exported, and what a run in progress uses stay.
    """
    from optlang.plan.quantities import counted, in_bytes
    from optlang.run.pruning import Pruning, Tier

    if to is None and older is None:
        raise usage("nothing says how much to remove", "say --to 5GB, or --older 30d, or both")
    most = None if to is None else _amount("--to", to, "bytes", "5GB")
    since = None if older is None else time.time() - _amount("--older", older, "time", "30d")
    folder = _home(db, home)
    shown = _fronts(db)
    store = _writer(db)
    with store or nullcontext():
        pruning = Pruning(folder, store, shown=shown)
        stock = pruning.stock()
        left, gone = stock.bytes, []
        for item in stock.candidates:
            if item.tier is Tier.FRONT or (most is not None and left <= most):
                break
            if since is not None and item.used / 1e9 > since and item.tier is not Tier.LEFT_OVER:
                continue
            if dry_run or pruning.remove(item):
                left -= item.bytes
                gone.append(item)
        for item in gone if dry_run else ():
            sys.stdout.write(f"{_line(item, folder)}\n")
    verb = "would go" if dry_run else "removed"
    freed = in_bytes(sum(item.bytes for item in gone))
    sys.stdout.write(f"{verb}: {counted(len(gone), 'folder')}, {freed}; {in_bytes(left)} are left\n")
    if most is not None and left > most:
        sys.stderr.write(
            f"{in_bytes(left)} stay: baselines, the artifacts of fronts, what was exported or is in use"
            f"{', and artifacts, since a run is writing to the database' if store is None and db.exists() else ''}\n"
        )
    return 0


@cache.command()
def verify(db: Db = DEFAULT_DB, home: Home = None) -> int:
    """Check the sums of all files, and name what is damaged, half written, or of no run. Exit code 1 if anything is."""
    from optlang.plan.quantities import counted
    from optlang.run.cache_files import broken, entries
    from optlang.run.pruning import CACHE

    folder = _home(db, home)
    checked, wrong = 0, []
    for item in entries(folder / CACHE):
        checked += 1
        reason = "half written, or half removed" if item.kind == "partial" else broken(item)
        if reason is not None:
            wrong.append(f"{item.folder}: {reason}")
    with closing(_held(db, folder)) as held:
        for path, reason in held.wrong():
            wrong.append(f"{path}: {reason}")
        checked += held.checked
    for line in wrong:
        sys.stdout.write(f"{line}\n")
    sys.stdout.write(f"{counted(checked, 'folder')} checked, {len(wrong) or 'nothing'} wrong\n")
    if wrong:
        sys.stderr.write(
            "a folder of the cache can be removed, and what was in it is made again; so can an artifact, but a "
            "baseline's (trial 0); leave what a run in progress is writing\n"
        )
    return WRONG if wrong else 0


def _home(db: Path, home: Path | None) -> Path:
    from optlang.run.machine import home_of

    folder = home_of(db, home)
    if not folder.is_dir():
        raise usage(f"there is no folder {folder}", "name the database with --db PATH, or the folder with --home DIR")
    return folder


def _held(db: Path, folder: Path) -> Held:
    """What the database, and those next to the folder, say of what lies in it."""
    from optlang.report.kept import Held

    others = sorted(path for path in folder.parent.glob("*.duckdb") if path.resolve() != db.resolve())
    return Held(folder, [path for path in (db, *others) if path.exists()])


def _fronts(db: Path) -> list[tuple[str, int]]:
    """The trials that `optlang front` shows, of all studies, with those that tie."""
    from optlang.store.reader import connect

    if not db.exists():
        return []
    with connect([db]) as reader:
        if not reader.query("SELECT 1 FROM runs LIMIT 1").rows:
            return []
        return [(run, trial) for run, trial in reader.query("SELECT run, trial FROM front").rows]


def _writer(db: Path) -> Writer | None:
    """The database open for writing; None where there is none, or a run writes to it, which is said."""
    from optlang.store.lock import HeldByRunError
    from optlang.store.writer import Writer

    if not db.exists():
        return None
    try:
        return Writer(db)
    except HeldByRunError as error:
        sys.stderr.write(f"{error.message}: no artifact is removed, only results of the cache that it does not use\n")
        return None


def _amount(option: str, text: str, kind: Literal["bytes", "time"], example: str) -> float:
    from optlang.plan.units import amount

    found = amount(text, kind)
    if found is None:
        raise usage(f"{option} {text}: that is no {'size' if kind == 'bytes' else 'time'}", f"write it as {example}")
    return found


def _moment(used: int) -> datetime:
    return datetime.fromtimestamp(used / 1e9, UTC).replace(tzinfo=None, microsecond=0)


def _line(item: Candidate, folder: Path) -> str:
    from optlang.plan.quantities import in_bytes

    return f"{in_bytes(item.bytes):>8}  {_moment(item.used)}  {item.kind:<10}  {item.folder.relative_to(folder)}"
