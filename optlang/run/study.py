"""A run from a plan: which run it is, what it may use on this machine, and how it is opened and closed in the store."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from optlang.interfaces import JSON, OutsideError
from optlang.measure import signals
from optlang.measure.machine import described
from optlang.plan.metrics import BUILT
from optlang.plan.model import BASELINE_RUNTIME, Fixed, Plan, RuntimeUse, Target
from optlang.run import machine
from optlang.run.choose_run import choose_run
from optlang.run.device_check import Checked, check_target
from optlang.run.dispatch import SetupError
from optlang.run.engine import MEASURE, Engine, LocalEngine
from optlang.run.events import Watcher
from optlang.run.job import Failure, RuntimeJob
from optlang.run.scheduler import Outcome, Scheduler, runtime_label
from optlang.run.scratch import Scratch, make_home
from optlang.run.stop import InterruptedRun
from optlang.run.worker import availability, running
from optlang.search.ablation import EAGER_DEVICES, reference_path
from optlang.store.journal import journal_path, now
from optlang.store.lock import HeldByRunError, holder
from optlang.store.writer import Writer
from optlang.workload import imports

TURN = 0.5
"""Seconds between two looks at whether a run that is to be joined has finished."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says in addition to the study: None keeps what the study says.

    `mode` is "auto" (go on with the run of the same meaning, else begin one), "continue" (join the newest run of this
    study though its plan differs) or "new"; `join` is the id of a run to join though its plan differs, which is waited
    for while another process carries it on. `ladder` is True to stop after the ladder, False to leave it out. `workers`
    train on this machine, whatever cluster the study names.
    """

    trials: int | None = None
    timeout: float | None = None
    seed: int | None = None
    mode: Literal["auto", "continue", "new"] = "auto"
    join: str | None = None
    ladder: bool | None = None
    home: Path | None = None
    workers: int | None = None


@signals.raised()
def run(
    plan: Plan, text: str, file: Path, db: Path, options: Options, watcher: Watcher, engine: Engine | None = None
) -> Outcome:
    """Carry out a study, or go on with it, until its trials are done, its time is up, or a signal to stop.

    `text` and `file` are the study's, `db` the database that the results go to; `engine` is where trials run, a worker
    process on this machine if None. Raises OptlangError where nothing can be run: a runtime that is missing
    everywhere, a mistake in the user's Python, a database in use.
    """
    begun = time.monotonic()
    if sys.platform == "win32":
        raise OutsideError("studies run on Linux and macOS", help="on Windows run them in WSL")
    search = plan.search
    plan = plan.model_copy(update={"search": search.model_copy(update={
        "trials": search.trials if options.trials is None else options.trials,
        "timeout": search.timeout if options.timeout is None else options.timeout,
        "seed": search.seed if options.seed is None else options.seed,
        "workers": search.workers if options.workers is None else options.workers,
        "ray": search.ray if options.workers is None else None,
    })})
    folder = file.resolve().parent
    home = machine.home_of(db, options.home)
    make_home(home)
    with _opened(db, options, watcher) as store, Scratch(home) as scratch, closing(
        engine or engine_of(plan, folder, home, scratch, db)
    ) as engine:
        runtimes = usable(plan, folder, engine)
        run_id, changed = choose_run(store, plan, options.mode, options.join)
        for line in (*_namesake(store, plan.study, file), *changed):
            watcher.message(line)
        scheduler = Scheduler(plan, folder, home, scratch, store, engine, watcher, run_id, runtimes.unavailable, begun)
        for path, reason in runtimes.unrun.items():
            watcher.message(f"{runtime_label(plan, path)} is built and not run: {reason}")
        store.record(session_event(scheduler.session, run_id, plan, text, file, runtimes.devices))
        why: str = "failed"
        with scheduler.interruptible():
            try:
                outcome = scheduler.go(options.ladder)
                why = outcome.why
                return outcome
            except InterruptedRun:
                why = "interrupted"
                return scheduler.outcome("interrupted")
            finally:
                engine.close()
                store.record(finish_event(scheduler.session, run_id, "complete" if why == "ladder" else why))


def engine_of(plan: Plan, folder: Path, home: Path, scratch: Scratch, db: Path) -> Engine:
    """Where the study's trials run."""
    ray = plan.search.ray
    if ray is None:
        return LocalEngine(folder, scratch.folder, plan.search.workers)
    from optlang.run.ray_engine import RayEngine

    files = [db.resolve(), journal_path(db.resolve()), Path(f"{db.resolve()}.wal")]
    return RayEngine(folder, home, scratch.session, ray, [target.name for target in plan.targets], files)


def _opened(db: Path, options: Options, watcher: Watcher) -> Writer:
    """The database, open for writing. A run that is to be joined is waited for: two processes do not write to one."""
    while True:
        try:
            return Writer(db)
        except HeldByRunError as error:
            if options.join is None or holder(db) == os.getpid():
                raise
            watcher.message(f"{error.message}; waiting until it has finished")
        while holder(db) is not None:
            time.sleep(TURN)


def session_event(
    session: str, run_id: str, plan: Plan, text: str, file: Path, devices: Mapping[str, JSON]
) -> dict[str, JSON]:
    """What is recorded of a session when it starts: the study, and what it runs with, here and on `devices`."""
    elsewhere: dict[str, JSON] = {"devices": devices} if devices else {}
    return {
        "event": "session", "session": session, "run": run_id, "study": plan.study, "title": plan.title,
        "plan": plan.model_dump(mode="json"), "meaning": plan.meaning, "text": text,
        "file": str(file.resolve()), "inputs": {item.name: item.value for item in plan.inputs},
        "seed": plan.search.seed, "machine": {**described(), **elsewhere}, "versions": machine.versions(),
        "git": machine.repository(file.resolve().parent),
        "optlang": machine.versions(["optlang-dsl"]).get("optlang-dsl"), "started": now(),
    }


def finish_event(session: str, run_id: str, why: str) -> dict[str, JSON]:
    """What is recorded of a session when it ends."""
    return {"event": "finish", "run": run_id, "session": session, "finished": now(), "why": why}


@contextmanager
def session(
    scheduler: Scheduler, store: Writer, engine: Engine, run_id: str, plan: Plan, text: str, file: Path,
    devices: Mapping[str, JSON],
) -> Iterator[None]:
    """Record a session of a run that is not searched: how it ends follows from how the block does.

    Signals stop the scheduler inside, and the workers end with the block.
    """
    store.record(session_event(scheduler.session, run_id, plan, text, file, devices))
    why = "failed"
    with scheduler.interruptible():
        try:
            yield
            why = "complete"
        except InterruptedRun:
            why = "interrupted"
            raise
        finally:
            engine.close()
            store.record(finish_event(scheduler.session, run_id, why))


def _namesake(store: Writer, study: str, file: Path) -> list[str]:
    """What to say where another file's study of this name ran into the same database."""
    other = store.file(study)
    if other is None or Path(other).resolve() == file.resolve() or not Path(other).exists():
        return []
    return [
        f"{other} has a study `{study}` too, in this database: by that name front, tradeoffs and export take the "
        "newest run, from now on this one (--db keeps them apart)"
    ]


@dataclass(frozen=True, slots=True)
class Usable:
    """Which of a study's runtimes can be used on this machine.

    `unavailable` maps the paths of those that cannot to the reason, `unrun` the paths of those that build here and
    cannot run here. `devices` is what was found of the machines of targets that are elsewhere, by the target's name.
    """

    unavailable: Mapping[str, str]
    unrun: Mapping[str, str]
    devices: Mapping[str, JSON] = field(default_factory=dict)


def usable(plan: Plan, folder: Path, engine: Engine) -> Usable:
    """Ask all runtimes of the study, and the devices of its targets; OutsideError where a device cannot be used, or a
    target has no runtime that serves what the study asks of it."""
    unavailable: dict[str, str] = {}
    unrun: dict[str, str] = {}
    devices: dict[str, JSON] = {}
    for target in plan.targets:
        metric = _measured_on(plan, target)
        there = None if target.remote is None else _device(plan, target, folder)
        if there is not None:
            devices[target.name] = there.about()
        for use in target.runtimes:
            reason = _answer(availability, plan, use, folder, engine, target.device)
            if reason is None and there is not None:
                reason = there.unavailable.get(use.path)
                if reason is None:
                    continue
            elif reason is None:
                reason = _answer(running, plan, use, folder, engine, target.device)
                if reason is None:
                    continue
                if metric is None:
                    unrun[use.path] = reason
                    continue
                reason = f"{reason}, and the study asks for {metric}"
            unavailable[use.path] = reason
        if all(use.path in unavailable for use in target.runtimes):
            raise OutsideError(
                f"no runtime of the target `{target.name}` can run {'here' if there is None else 'there'}: "
                f"{_reasons(target, unavailable)}",
                help="install what is named, or give the target another runtime",
            )
        runs_eager = target.device in EAGER_DEVICES and there is None
        if runs_eager and (reason := _no_reference(plan, target, folder)) is not None:
            unavailable[reference_path(target)] = reason
    running_ones = [use for target in plan.targets for use in target.runtimes if use.path not in {*unavailable, *unrun}]
    wanted = next((ref for ref in plan.metric_refs() if ref.metric not in BUILT), None)
    if not running_ones and wanted is not None:
        reasons = "; ".join(f"{runtime_label(plan, path)}: {reason}" for path, reason in unrun.items())
        raise OutsideError(
            f"`{wanted.metric}` cannot be measured here: {reasons}",
            help="ask for size, parameters or macs, or add a target that this machine can run",
        )
    return Usable(unavailable, unrun, devices)


def _device(plan: Plan, target: Target, folder: Path) -> Checked:
    """What was found of a target's device. OutsideError where nothing can be measured on it."""
    found = check_target(plan, target, folder)
    if found.error is not None:
        raise OutsideError(
            f"the target `{target.name}`: {found.error.message}", help=found.error.help, details=found.error.details
        )
    missing = next((item for item in found.findings if item.state == "missing" and not found.ready), None)
    if missing is not None and missing.about not in found.unavailable:
        raise OutsideError(f"the target `{target.name}` on {target.remote}: {missing.said}", help=missing.help)
    return found


def _reasons(target: Target, unavailable: Mapping[str, str]) -> str:
    """Why the target's runtimes cannot be used, each reason once, with those that have it."""
    labels: dict[str, list[str]] = {}
    for use in target.runtimes:
        labels.setdefault(unavailable[use.path], []).append(use.label)
    return "; ".join(f"{', '.join(names)}: {reason}" for reason, names in labels.items())


def _no_reference(plan: Plan, target: Target, folder: Path) -> str | None:
    """Why eager, which the baseline runs on, cannot run on the target's device; None where it can."""
    reason = running(RuntimeJob(BASELINE_RUNTIME, plan.runtime(BASELINE_RUNTIME).calls, {}, folder, target.device))
    return reason.reason if isinstance(reason, Failure) else reason


def _measured_on(plan: Plan, target: Target) -> str | None:
    """A metric of the study that this target must run for, as a study with several writes it."""
    for ref in plan.metric_refs():
        if ref.metric in BUILT:
            continue
        if ref.target == target.name:
            return f"{target.name}.{ref.metric}"
        if len(plan.targets) == 1:
            return ref.metric
    return None


def _answer(
    question: Callable[[RuntimeJob], str | Failure | None], plan: Plan, use: RuntimeUse, folder: Path, engine: Engine,
    device: str,
) -> str | None:
    settings = {name: item.value for name, item in use.settings.items() if isinstance(item, Fixed)}
    job = RuntimeJob(use.runtime, plan.runtime(use.runtime).calls, settings, folder, device)
    # A runtime of the user's own is the user's code, which runs in workers only.
    if engine.apart:
        answer = engine.submit(question, job, MEASURE).result()
    else:
        answer = engine.submit(question, job).result() if imports.is_file(job.calls) else question(job)
    if isinstance(answer, Failure):
        raise SetupError(answer)
    return answer
