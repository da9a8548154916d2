"""How long `optlang sql` takes for a question, by the number of trials: a million rows of measurements at the most.

    python benchmarks/questions.py [--trials 500 5000 50000]

The database is what a search over studies/digits.opt writes: its first trials go through the journal, the others are
copies of them with other figures, written as rows. Each trial has 20 measurements. Every question is a process of its
own, and asked five times; the figures are medians, in seconds: those that passed, and those that all threads took of
a processor, which other work on the machine lengthens less. `start-up` is the same process for a question of an empty
database, and what the other columns have is beyond it: reading the database, the question itself, and printing the
answer (up to 20 rows).

On two cores with much other work next to it, seconds of a processor; the rows are before and after a question was
asked of a copy that the system makes, with views that compute what a question uses:

| trials | measurements | MB | start-up | one trial | count | mean | smallest | cache | front |
|---|---|---|---|---|---|---|---|---|---|
| 50,000, before | 1,000,000 | 33 | 0.52 | 0.61 | 0.26 | 0.63 | 0.51 | 0.25 | 2.11 |
| 50,000 | 1,000,000 | 33 | 0.39 | 0.12 | 0.05 | 0.15 | 0.11 | 0.07 | 1.15 |
| 500 | 10,000 | 4 | 0.39 | 0.00 | 0.00 | 0.05 | 0.01 | 0.00 | 0.03 |

Only `front` takes longer than 0.3 s after 50,000 trials: it compares them with each other, and looks for ties.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from optlang.analysis.load import load
from optlang.plan.model import Plan
from optlang.store import database
from optlang.store.journal import now
from optlang.store.writer import Writer

STUDY = Path(__file__).parents[1] / "studies" / "digits.opt"
METRICS = (
    "accuracy", "loss", "size", "size.compressed", "latency.p50", "latency.p95", "throughput", "parameters",
    *(f"further.{number}" for number in range(12)),
)
QUESTIONS = {
    "one trial": "SELECT * FROM results WHERE trial = 17",
    "count": "SELECT count(*) FROM measurements",
    "mean": "SELECT runtime, count(*), median(latency_x) FROM results WHERE state = 'complete' GROUP BY ALL",
    "smallest": "SELECT trial, size, accuracy_lost FROM results WHERE accuracy_lost < 0.01 ORDER BY size LIMIT 5",
    "cache": "SELECT avg(cached::INTEGER) FROM timeline WHERE cached IS NOT NULL",
    "front": "SELECT trial, size, latency_x, accuracy FROM front WHERE tie_of IS NULL ORDER BY latency_p50 LIMIT 20",
}
WRITTEN = 200
"""Trials that go through the journal."""


def events(plan: Plan, trials: int) -> Iterator[dict[str, Any]]:
    """A run with its baseline and so many trials, figures drawn at random."""
    draw = random.Random(0)
    yield {
        "event": "session", "session": "s", "run": "r", "study": plan.study, "title": plan.title, "file": str(STUDY),
        "plan": plan.model_dump(mode="json"), "meaning": plan.meaning, "text": STUDY.read_text(encoding="utf-8"),
        "inputs": {}, "seed": 7, "machine": {}, "versions": {}, "git": None, "optlang": "", "started": now(),
    }
    for trial in range(trials):
        runtime = draw.choice(["eager", "onnxruntime", "openvino"])
        yield {
            "event": "start", "run": "r", "session": "s", "trial": trial, "in_space": True, "runtime": runtime,
            "origin": "sampler" if trial else "baseline", "alone": None, "target": "laptop", "started": now(),
            "point": {"laptop.runtime": runtime, "rounds": draw.randint(0, 3), "precision": "dynamic"}, "steps": [],
        }
        steps = [
            {
                "path": f"rounds[{turn}].{name}", "technique": technique, "settings": {}, "key": f"{trial}.{turn}",
                "cached": draw.random() < 0.3, "seconds": draw.random(), "started": now(), "worker": "1",
            }
            for turn in (1, 2) for name, technique in (("prune", "prune.channels"), ("recover", "training.finetune"))
        ]
        yield {
            "event": "end", "run": "r", "trial": trial, "state": "complete", "reason": None, "error": None,
            "finished": now(), "seconds": 2.0, "steps": steps, "artifacts": [], "notes": {}, "violations": [],
            "measurements": [_measurement(metric, draw) for metric in METRICS], "sampler_state": {},
        }
    yield {"event": "finish", "run": "r", "session": "s", "finished": now(), "why": "complete"}


def _measurement(metric: str, draw: random.Random) -> dict[str, Any]:
    value = draw.uniform(0.9, 1.0) if metric == "accuracy" else draw.uniform(1e3, 1e5)
    return {
        "metric": metric, "target": "laptop", "unit": "", "n": 5, "value": value, "low": 0.99 * value,
        "high": 1.01 * value, "ratio": None, "ratio_low": None, "ratio_high": None, "baseline": None,
    }


def grown(db: Path, trials: int) -> None:
    """Copies of the database's trials, until it has so many."""
    connection = database.open_file(db)
    connection.execute("SELECT setseed(0.5)").fetchall()
    connection.execute(
        f"CREATE TEMP TABLE copies AS SELECT i AS copy, 1 + i % {WRITTEN - 1} AS trial, 0.9 + 0.2 * random() AS factor "
        f"FROM range({WRITTEN}, {trials}) made(i)"
    )
    for table in ("trials", "steps", "measurements"):
        value = ", if(o.metric = 'accuracy', value, value * factor) AS value" if table == "measurements" else ""
        connection.execute(
            f"INSERT INTO {table} BY NAME SELECT o.* REPLACE (c.copy AS trial{value}) FROM {table} o "
            "JOIN copies c ON c.trial = o.trial ORDER BY c.copy"
        )
    connection.close()


def asked(db: Path, sql: str, times: int = 5) -> tuple[float, float]:
    """Seconds, and those of a processor, that a process takes for a question: the medians."""
    walls, processors = [], []
    for _ in range(times):
        before, began = os.times(), time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "optlang", "sql", sql, "--db", str(db), "--format", "csv"], check=True,
            stdout=subprocess.DEVNULL,
        )
        walls.append(time.perf_counter() - began)
        after = os.times()
        processors.append(
            after.children_user + after.children_system - before.children_user - before.children_system
        )
    return statistics.median(walls), statistics.median(processors)


def main() -> None:
    parser = argparse.ArgumentParser(description="How long a question takes.")
    parser.add_argument("--trials", type=int, nargs="+", default=[500, 5_000, 50_000])
    counts = parser.parse_args().trials
    plan = load(STUDY).plan
    assert plan is not None
    print(f"| trials | measurements | MB | start-up | {' | '.join(QUESTIONS)} |")
    print("|---" * (len(QUESTIONS) + 4) + "|")
    with tempfile.TemporaryDirectory() as folder:
        empty = Path(folder) / "empty.duckdb"
        with Writer(empty) as store:
            for event in events(plan, 1):
                store.record(event)
        start, processor = asked(empty, "SELECT 1")
        for trials in counts:
            db = Path(folder) / f"{trials}.duckdb"
            with Writer(db) as store:
                for event in events(plan, WRITTEN):
                    store.record(event)
            grown(db, trials)
            found = [asked(db, sql) for sql in QUESTIONS.values()]
            figures = [f"{wall - start:.2f}, {spent - processor:.2f}" for wall, spent in found]
            print(
                f"| {trials:,} | {trials * len(METRICS):,} | {db.stat().st_size / 1e6:.0f} "
                f"| {start:.2f}, {processor:.2f} | {' | '.join(figures)} |"
            )


if __name__ == "__main__":
    main()
