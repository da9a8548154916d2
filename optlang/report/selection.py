"""Which study and which trial an argument of the command line means."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from optlang.diagnostics.command_line import command
from optlang.diagnostics.suggest import closest
from optlang.interfaces import OptlangError
from optlang.store.reader import Reader


@dataclass(frozen=True, slots=True)
class Chosen:
    """A study of a database, and its newest run."""

    study: str
    run: str
    title: str
    file: str | None


def choose(reader: Reader, argument: str | None = None) -> Chosen:
    """The study by its name or the path of its file; without an argument the one that ran last.

    OptlangError: there is none, or none of that name (with the nearest).
    """
    rows = reader.query(
        "SELECT s.study, arg_max(r.run, greatest(r.started, n.started)) AS run, any_value(s.title) AS title, "
        "any_value(s.file) AS file, max(greatest(r.started, n.started)) AS last "
        "FROM studies s JOIN runs r ON r.study = s.study LEFT JOIN sessions n ON n.run = r.run "
        "GROUP BY s.study ORDER BY last DESC"
    ).dicts()
    found = [Chosen(row["study"], row["run"], row["title"] or "", row["file"]) for row in rows]
    where = ", ".join(str(db) for db in reader.dbs)
    if not found:
        again = command("run", "STUDY.opt", db=reader.dbs[0])
        raise OptlangError(f"{where} holds no study yet", help=f"`{again}` searches one")
    if argument is None:
        return found[0]
    name = _named(argument, found)
    for item in found:
        if item.study == name:
            _check_file(reader, argument, item)
            return item
    names = [item.study for item in found]
    near = closest(name, names)
    raise OptlangError(
        f"there is no study `{name}` in {where}",
        help=f"did you mean `{near}`?" if near else f"it holds {', '.join(f'`{item}`' for item in names)}",
    )


def _check_file(reader: Reader, argument: str, chosen: Chosen) -> None:
    """OptlangError where the argument is a file, and another file's study of the same name ran last."""
    if argument == chosen.study or chosen.file is None or not Path(argument).exists():
        return
    other = Path(chosen.file)
    if other.resolve() == Path(argument).resolve() or not other.exists():
        return
    raise OptlangError(
        f"the newest run of `{chosen.study}` in {reader.dbs[0]} is that of {other}, not of {argument}",
        help=f"`{command('front', chosen.study, db=reader.dbs[0])}` shows it; to keep both, give one of the studies "
        "another name, or its runs another --db",
    )


def _named(argument: str, found: list[Chosen]) -> str:
    """The name that an argument stands for: itself, or what the file says that it is the path of."""
    path = Path(argument)
    if path.suffix != ".opt" or argument in {item.study for item in found}:
        return argument
    for item in found:
        if item.file is not None and Path(item.file).resolve() == path.resolve():
            return item.study
    try:
        declared = re.search(r"^[ \t]*study[ \t]+(\w+)", path.read_text(encoding="utf-8-sig"), re.MULTILINE)
    except OSError:
        declared = None
    return declared[1] if declared else path.stem


def check_trial(reader: Reader, chosen: Chosen, trial: int) -> None:
    """OptlangError with the nearest numbers where the study's newest run has no such trial."""
    numbers = [
        row[0] for row in reader.query("SELECT trial FROM trials WHERE run = ? ORDER BY trial", [chosen.run]).rows
    ]
    if trial in numbers:
        return
    near = sorted(sorted(numbers, key=lambda number: abs(number - trial))[:3])
    raise OptlangError(
        f"`{chosen.study}` has no trial {trial}",
        help=f"the nearest are {', '.join(map(str, near))}" if near else "no trial of it has begun",
    )


def study_file(reader: Reader, recorded: str) -> Path:
    """The study's file: where it ran, or as it lies about a database that was moved together with it."""
    file = Path(recorded).resolve()
    if file.is_file():
        return file
    for db in reader.dbs:
        for depth in range(len(file.parts) - 1):
            moved = db.resolve().parent.joinpath(*file.parts[-depth - 1:])
            if moved.is_file():
                return moved
    return file
