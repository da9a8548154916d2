"""A trial of a database, as commands carry it out again: what its run stored, and where its study lies now."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from optlang.cli.exits import usage

if TYPE_CHECKING:
    from optlang.plan.model import Plan
    from optlang.report.repeated import TrialFigures
    from optlang.report.selection import Chosen
    from optlang.run.repeat import Wanted


@dataclass(frozen=True, slots=True)
class Stored:
    """A trial with all that carries it out again: its study's plan, text and file as its run stored them."""

    chosen: Chosen
    plan: Plan
    text: str
    file: Path
    figures: TrialFigures
    wanted: Wanted


def stored_trial(study: str, trial: int, db: Path) -> Stored:
    """The trial of a study's newest run; OptlangError where it cannot be repeated, as far as is known before it is."""
    from optlang.report.repeated import load_trial
    from optlang.report.selection import check_trial, choose, study_file
    from optlang.store.reader import connect

    with connect([db]) as reader:
        chosen = choose(reader, study)
        check_trial(reader, chosen, trial)
        plan, stored = reader.plan(chosen.run), load_trial(reader, chosen.run, trial)
        baseline = load_trial(reader, chosen.run, 0)
        text = reader.query("SELECT text FROM runs WHERE run = ?", [chosen.run]).rows[0][0]
        file = study_file(reader, chosen.file or "")
    _check(chosen, stored, baseline, file)
    return Stored(chosen, plan, text, file, stored, _wanted(stored, baseline))


def _check(chosen: Chosen, stored: TrialFigures, baseline: TrialFigures, file: Path) -> None:
    """OptlangError where the trial cannot be repeated, as far as is known before anything runs."""
    name = f"trial {stored.number} of `{chosen.study}`"
    if stored.state == "running":
        raise usage(f"{name} is still running", "wait until it has ended")
    if baseline.state != "complete":
        raise usage(
            f"{name} cannot be compared: the baseline of its run ended as `{baseline.state}`",
            "run the study again until its baseline is complete",
        )
    if not file.is_file():
        raise usage(
            f"the file of `{chosen.study}` is gone: there is no {file}",
            "put it back with its Python and data; where the database was moved or copied, move them along",
        )


def changed(file: Path, text: str | None) -> Iterator[str]:
    """A line where the study's file is not what ran; what its run stored is carried out all the same."""
    if text is not None and file.read_bytes().decode("utf-8-sig", "replace") != text:
        yield f"{file} has changed since the run: the trial is carried out as the run stored it, not as the file is now"


def _wanted(stored: TrialFigures, baseline: TrialFigures) -> Wanted:
    from optlang.plan.metrics import TEST
    from optlang.run.repeat import Wanted

    tested = any(metric.startswith(TEST) for _, metric in stored.measurements)
    return Wanted(
        stored.number, stored.origin, stored.alone, stored.runtime, baseline.runtime, stored.point, tested
    )
