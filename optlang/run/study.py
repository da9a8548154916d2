"""A run from a plan: which run it is, what it may use on this machine, and how it is opened and closed in the store."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from optlang.forms import OutsideError
from optlang.plan.model import Plan
from optlang.run import machine
from optlang.run.engine import Engine, LocalEngine
from optlang.run.history import choose_run
from optlang.run.job import Failure, RuntimeJob
from optlang.run.loop import InterruptedRun, Loop, Outcome, RunError
from optlang.store.journal import now
from optlang.store.store import Store
from optlang.watch import Watcher


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says beside the study: None keeps what the study says.

    `mode` is "auto" (go on with the run of the same meaning, else begin one), "continue" (join the newest run of this
    study though its plan differs) or "new".
    """

    trials: int | None = None
    timeout: float | None = None
    seed: int | None = None
    mode: Literal["auto", "continue", "new"] = "auto"
    ladder: bool = False
    home: Path | None = None


def run(
    plan: Plan, text: str, file: Path, db: Path, options: Options, watcher: Watcher, engine: Engine | None = None
) -> Outcome:
    """Carry out a study, or go on with it, until its trials are done, its time is up, or Ctrl-C.

    `text` and `file` are the study's, `db` the database that the results go to; `engine` is where trials run, a worker
    process on this machine if None. Raises OptlangError where nothing can be run: a runtime that is missing
    everywhere, a mistake in the user's Python, a database in use.
    """
    search = plan.search
    plan = plan.model_copy(update={"search": search.model_copy(update={
        "trials": search.trials if options.trials is None else options.trials,
        "timeout": search.timeout if options.timeout is None else options.timeout,
        "seed": search.seed if options.seed is None else options.seed,
    })})
    folder = file.resolve().parent
    home = machine.home_of(db, options.home)
    home.mkdir(parents=True, exist_ok=True)
    engine = engine or LocalEngine(folder, home / "worker.log")
    with Store(db) as store, closing(engine):
        unavailable = _unavailable(plan, folder, engine)
        run_id, changed = choose_run(store, plan, options.mode)
        for line in changed:
            watcher.note(line)
        loop = Loop(plan, folder, home, store, engine, watcher, run_id, unavailable)
        store.record({
            "event": "session", "session": loop.session, "run": run_id, "study": plan.study, "title": plan.title,
            "plan": plan.model_dump(mode="json"), "meaning": plan.meaning, "text": text,
            "file": str(file.resolve()), "inputs": {item.name: item.value for item in plan.inputs},
            "seed": plan.search.seed, "machine": machine.machine(), "versions": machine.versions(),
            "git": machine.repository(folder),
            "optlang": machine.versions(["optlang-dsl"]).get("optlang-dsl"), "started": now(),
        })
        why: str = "failed"
        try:
            with loop.interruptible():
                outcome = loop.go(options.ladder)
            why = outcome.why
            return outcome
        except InterruptedRun:
            why = "interrupted"
            return loop.outcome("interrupted")
        finally:
            engine.close()
            loop.tidy()
            store.record({
                "event": "finish", "run": run_id, "session": loop.session, "finished": now(),
                "why": "complete" if why == "ladder" else why,
            })


def _unavailable(plan: Plan, folder: Path, engine: Engine) -> dict[str, str]:
    """Labels of the target's runtimes that cannot run here, with the reason."""
    from optlang.run.worker import availability
    from optlang.workload import objects

    found = {}
    for use in plan.targets[0].runtimes:
        job = RuntimeJob(use.runtime, plan.runtime(use.runtime).calls, {}, folder)
        # A runtime of the user's own is the user's code, which runs in workers only.
        own = objects.is_file(job.calls)
        reason = engine.submit(availability, job, None).result() if own else availability(job)
        if isinstance(reason, Failure):
            raise RunError(reason)
        if reason is not None:
            found[use.label] = reason
    if len(found) == len(plan.targets[0].runtimes):
        reasons = "; ".join(f"{label}: {reason}" for label, reason in found.items())
        raise OutsideError(f"no runtime of the target `{plan.targets[0].name}` can run here: {reasons}",
                           help="install what is named, or give the target another runtime")
    return found
