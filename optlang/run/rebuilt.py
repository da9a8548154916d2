"""Artifacts that were removed, or are gone: has a worker build them again, and compares them with what was measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from optlang.interfaces import Artifact, Measurement, OptlangError
from optlang.plan.quantities import quantity
from optlang.run.disk import DiskLimit
from optlang.run.dispatch import Dispatcher
from optlang.run.engine import WorkerDied, WorkerTimeout
from optlang.run.history import History, TrialRecord
from optlang.run.job import Failure, Result
from optlang.run.job_builder import JobBuilder
from optlang.run.trial_events import rebuilt_event
from optlang.space.recipe import Recipe
from optlang.store.writer import Writer


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """A trial's artifacts as they are now, by target.

    `files` names those that are not byte for byte what was measured, `figures` says which figures are others; `again`
    are all figures of it that are no times.
    """

    artifacts: Mapping[str, Artifact]
    files: tuple[str, ...]
    figures: tuple[str, ...]
    again: tuple[Measurement, ...]


def missing(record: TrialRecord) -> bool:
    """Whether a file of the trial's artifacts is gone."""
    return any(
        not (artifact.folder / file.name).is_file() for artifact in record.artifacts.values() for file in artifact.files
    )


def rebuild(
    jobs: JobBuilder, dispatcher: Dispatcher, record: TrialRecord, recipe: Recipe, folder: Path | None = None
) -> Rebuilt:
    """Build the trial's artifacts again, in `folder` where one is named, else where they were.

    Raises OptlangError where that fails, with the reason.
    """
    from optlang.run.worker import rebuild as in_worker

    dispatcher.load()
    job = jobs.trial(record.number, recipe, record.origin)
    if folder is not None:
        several = len(job.targets) > 1
        job = replace(job, targets=tuple(
            replace(item, folder=folder / item.target.name if several else folder) for item in job.targets
        ))
    try:
        result = dispatcher.run(in_worker, job, None)
    except (WorkerDied, WorkerTimeout) as error:
        result = Result(failure=Failure(str(error), dispatcher.log_tail()))
    if result.failure is not None:
        raise OptlangError(f"trial {record.number} cannot be built again: {result.failure.reason}")
    artifacts = {
        target: _with_known(artifact, record.artifacts.get(target)) for target, artifact in result.artifacts.items()
    }
    files = [
        f"{file.name} ({file.bytes:,} bytes, {_was(record.artifacts.get(target), file.name)})"
        for target, artifact in artifacts.items() for file in artifact.files
        if file not in _files(record.artifacts.get(target))
    ]
    return Rebuilt(artifacts, tuple(files), tuple(_others(record, result.measurements)), result.measurements)


def _with_known(artifact: Artifact, before: Artifact | None) -> Artifact:
    """With what only a measurement finds out about it."""
    return artifact if before is None else replace(artifact, about={**before.about, **artifact.about})


def _files(before: Artifact | None) -> Sequence[object]:
    return () if before is None else before.files


def _was(before: Artifact | None, name: str) -> str:
    known = [] if before is None else [file for file in before.files if file.name == name]
    return f"measured: {known[0].bytes:,}" if known else "there was none"


def _others(record: TrialRecord, again: Sequence[Measurement]) -> list[str]:
    """The figures that are others than those that were measured."""
    before = {(item.target, item.metric): item for item in record.measurements}
    found = []
    for item in again:
        known = before.get((item.target, item.metric))
        if known is not None and known.value != item.value:
            now, then = quantity(item.value, item.unit), quantity(known.value, item.unit)
            found.append(f"{item.metric} {now}, measured {then}")
    return found


@dataclass(slots=True)
class Rebuilding:
    """Has the artifacts of a run's trials there when they are to be measured again; `measured` keeps new figures."""

    run: str
    history: History
    jobs: JobBuilder
    dispatcher: Dispatcher
    store: Writer
    disk: DiskLimit
    message: Callable[[str], None]
    measured: Callable[[int, Sequence[Measurement]], None]

    def ready(self, numbers: Sequence[int]) -> list[int]:
        """Those of the trials whose artifacts are there, or can be built again within the limit of the disk.

        Of those that are gone only members of the front are built again, ties aside.
        """
        gone = [number for number in numbers if number != 0 and missing(self.history.trial(number))]
        wanted = set(self.history.front()).intersection(gone)
        if wanted:
            which = f"trial{'s' if len(wanted) > 1 else ''} {', '.join(map(str, sorted(wanted)))}"
            self.message(f"building the artifacts of {which} again, which were removed")
        left: list[int] = []
        for number in sorted(wanted):
            record = self.history.trial(number)
            size = sum(file.bytes for artifact in record.artifacts.values() for file in artifact.files)
            if not self.disk.fits(size, numbers):
                left.append(number)
            elif self._built(record):
                gone.remove(number)
                self.disk.added(numbers)
        if left:
            self.message(
                f"not all artifacts of the front fit in at once: trials {', '.join(map(str, left))} are not measured "
                "again (a larger `disk` in search { } has room for them)"
            )
        return [number for number in numbers if number not in gone]

    def _built(self, record: TrialRecord) -> bool:
        if record.recipe is None:
            return False
        try:
            found = rebuild(self.jobs, self.dispatcher, record, record.recipe)
        except OptlangError as error:
            self.message(error.message)
            return False
        self.history.rebuilt(record.number, found.artifacts)
        self.store.record(rebuilt_event(self.run, record.number, found.artifacts))
        if found.files:
            said = f"; {', '.join(found.figures)}" if found.figures else ", with the same figures"
            self.message(f"trial {record.number}, built again, has other bytes: {', '.join(found.files)}{said}")
            self.measured(record.number, found.again)
        return True
