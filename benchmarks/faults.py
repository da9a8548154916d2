"""Kills processes of a run at random, and looks after each kill whether the store is whole: a table for the docs.

    python benchmarks/faults.py --kills 200 [--seed 0] [--folder DIR] [--workers N]

A study of a small net on scikit-learn's digits runs (one epoch a trial). At random moments the driver (the command
itself), a worker, or a process that measures gets SIGKILL. After each kill, `optlang sql` is asked, and the journal and
the database are compared with what was known before: no trial is there twice, none that had ended is gone or has
changed, and no more are left as running than ran. In the end the run goes on to its end, and its front is exported.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

STUDY = """\
optlang 1

study drill "a small net on digits" {
  model net = zoo.digits_cnn(width = 16)
  data digits = zoo.digits(seed = 0)
  baseline { train { epochs = 1; lr = 0.01 } }
  target here { device = cpu; runtime = onnxruntime }
  steps {
    maybe channels { ratio in 20% .. 60% step 5% }
    finetune { epochs = 1; lr in 0.0001 .. 0.01 log }
    precision in { none; static { samples = 32 } }
  }
  minimize latency, size
  maximize accuracy
  measure { rounds = 3; front_rounds = 3; front_processes = 1; round_seconds = 2ms; round_calls = 5 }
  search { trials = 1000000; seed = 1; sampler = random; screening = off; ladder = false; stop_early = false }
}
"""
KINDS = ("driver", "worker", "measuring process")
COMES = 6.0
"""Seconds to wait for a process of the kind that is to be killed: those that measure live for a second."""

PATIENCE = 300.0
"""Seconds to wait for what has to come."""

State = tuple[str, str | None]


class BrokenStore(Exception):  # noqa: N818 - what the drill looks for
    """Something was lost, or is there twice; the message says what."""


@dataclass(slots=True)
class Drill:
    """A run in `folder` that is killed again and again; `struck` are the kills by kind, `checks` how often it was
    looked at, `slowest` the seconds of the slowest `optlang sql`."""

    folder: Path
    draw: random.Random
    workers: int = 1
    struck: Counter[str] = field(default_factory=Counter)
    lost: Counter[str] = field(default_factory=Counter)
    """Trials that were in progress at a kill, by the kind of kill."""
    checks: int = 0
    sessions: int = 0
    slowest: float = 0.0
    most: int = 0
    """How many there are to be."""
    ended: dict[int, State] = field(default_factory=dict)
    """The trials that were seen to have ended."""

    @property
    def kills(self) -> int:
        """How many processes were killed so far."""
        return self.struck.total()

    def run(self, kills: int, pause: tuple[float, float] = (0.1, 4.0)) -> None:
        """Kill so many processes, with pauses between; raises BrokenStore as soon as something is wrong."""
        (self.folder / "drill.opt").write_text(STUDY)
        self.most = kills
        while self.kills < kills:
            with self._session() as process:
                self._until(lambda: self._count("end") > 0, process)
                while self.kills < kills and process.poll() is None:
                    time.sleep(self.draw.uniform(*pause))
                    self._strike(process)
                    if process.poll() is not None:
                        break
                    self.check()
                if process.poll() is None:
                    process.kill()
            self.check()

    def finish(self, trials: int = 2) -> int:
        """Let the run go on for so many more trials, to its end; returns the number of a trial that was exported."""
        searched = len(self.query("SELECT 1 FROM trials WHERE origin = 'sampler' AND reason IS DISTINCT FROM "
                                  "'interrupted'"))
        done = self.optlang("run", "drill.opt", "--progress", "plain", "--trials", str(searched + trials))
        if done.returncode not in (0, 1):
            raise BrokenStore(f"the run did not go on to its end: {done.stderr[-2000:]}")
        self.check(over=True)
        front = self.query("SELECT trial FROM front ORDER BY trial DESC")
        number = int(front[0][0])
        exported = self.optlang("export", "drill", str(number), "-o", "exported", "--force")
        if exported.returncode != 0:
            raise BrokenStore(f"the front cannot be exported: {exported.stderr[-2000:]}")
        return number

    def check(self, *, over: bool = False) -> None:
        """Compare the store with what is known; `over`: no trial may be left as running."""
        self.checks += 1
        seen = self._events("end")
        numbers = [event["trial"] for event in seen]
        begun = [event["trial"] for event in self._events("start")]
        for what, listed in (("ended", numbers), ("started", begun)):
            if twice := [number for number, count in Counter(listed).items() if count > 1]:
                raise BrokenStore(f"trials {twice} have {what} twice")
        begin = time.monotonic()
        answer = self.optlang("sql", "SELECT trial, state, reason FROM trials ORDER BY trial", "--format", "json")
        self.slowest = max(self.slowest, time.monotonic() - begin)
        if answer.returncode != 0:
            raise BrokenStore(f"optlang sql does not answer: {answer.stderr[-2000:]}")
        rows = json.loads(answer.stdout)
        stored = {row["trial"]: (row["state"], row["reason"]) for row in rows}
        if len(stored) != len(rows):
            raise BrokenStore(f"{len(rows) - len(stored)} trials are there twice")
        for event in seen:
            number = event["trial"]
            state = (event["state"], event["reason"])
            self.ended.setdefault(number, state)
            if number not in stored:
                raise BrokenStore(f"trial {number}, which had ended, is gone")
        for number, state in self.ended.items():
            # Measuring the front again may change whether a requirement is met; there are none here.
            if stored.get(number) != state:
                raise BrokenStore(f"trial {number} had ended as {state}, and is now {stored.get(number)}")
        running = [number for number, (state, _) in stored.items() if state == "running"]
        if len(running) > (0 if over else self.workers):
            raise BrokenStore(f"trials {running} are left as running")
        points = [json.dumps(event["point"], sort_keys=True) for event in self._events("start")
                  if stored.get(event["trial"], ("", None))[1] != "interrupted" and event["origin"] == "sampler"]
        if len(set(points)) != len(points):
            raise BrokenStore("a point was tried twice")

    # ---- how it is done

    def _session(self) -> subprocess.Popen[bytes]:
        self.sessions += 1
        with (self.folder / "run.log").open("ab") as log:
            words = ["run", "drill.opt", "--progress", "plain"]
            more = ["--workers", str(self.workers)] if self.workers > 1 else []
            process = subprocess.Popen(
                [sys.executable, "-m", "optlang", *words, *more], cwd=self.folder, stdout=log, stderr=log,
                start_new_session=True,
            )
        before = self._count("session")
        self._until(lambda: self._count("session") > before, process)
        return process

    def _strike(self, process: subprocess.Popen[bytes]) -> None:
        """Kill a process of the run, of a kind that is drawn; nothing where there is none of it for a while."""
        kind = self.draw.choices(KINDS, weights=(2, 3, 3))[0]
        deadline = time.monotonic() + COMES
        found: list[int] = []
        while not found and process.poll() is None and time.monotonic() < deadline:
            found = [process.pid] if kind == "driver" else list(_below(process.pid, kind))
            time.sleep(0.01)
        if not found:
            return
        running = self._count("start") - self._count("end")
        try:
            os.kill(self.draw.choice(found), signal.SIGKILL)
        except ProcessLookupError:
            return
        self.struck[kind] += 1
        self.lost[kind] += running > 0
        sys.stderr.write(f"{self.kills} of {self.most}: the {kind}\n")
        if kind == "driver":
            process.wait()
            self._gone(process.pid)

    def _gone(self, group: int) -> None:
        """Wait until what the driver had started has ended by itself."""
        deadline = time.monotonic() + PATIENCE
        while _group(group):
            if time.monotonic() > deadline:
                raise BrokenStore(f"processes {_group(group)} outlive their driver")
            time.sleep(0.05)

    def _until(self, condition: Any, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition():
            if process.poll() is not None or time.monotonic() > deadline:
                log = (self.folder / "run.log").read_text(errors="replace")[-3000:]
                raise BrokenStore(f"the run does not go on (exit code {process.poll()}): {log}")
            time.sleep(0.05)

    def _events(self, kind: str) -> list[dict[str, Any]]:
        """The whole lines of a kind in the journal."""
        found = []
        for line in self._journal().splitlines(keepends=True):
            if f'"event":"{kind}"' in line and line.endswith("\n"):
                try:
                    found.append(json.loads(line))
                except ValueError:
                    continue
        return [event for event in found if event["event"] == kind]

    def _count(self, kind: str) -> int:
        return self._journal().count(f'{{"event":"{kind}"')

    def _journal(self) -> str:
        try:
            return (self.folder / "optlang.duckdb.journal").read_text(errors="replace")
        except FileNotFoundError:
            return ""

    def optlang(self, *words: str) -> subprocess.CompletedProcess[str]:
        """A call of the command line, as it ended."""
        return subprocess.run(
            [sys.executable, "-m", "optlang", *words], cwd=self.folder, capture_output=True, text=True, check=False,
            timeout=PATIENCE,
        )

    def query(self, sql: str) -> list[list[Any]]:
        """The rows of an answer."""
        answer = self.optlang("sql", sql, "--format", "json")
        if answer.returncode != 0:
            raise BrokenStore(f"optlang sql does not answer: {answer.stderr[-2000:]}")
        return [list(row.values()) for row in json.loads(answer.stdout)]


def _processes() -> Iterator[tuple[int, int, int, str]]:
    """The id, the parent's, the group's and the command line of all processes."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if fields[0] != "Z":
            yield int(entry.name), int(fields[1]), int(fields[2]), words


def _group(group: int) -> list[int]:
    return [pid for pid, _, own, _ in _processes() if own == group and pid != group]


def _below(root: int, kind: str) -> Iterator[int]:
    """The processes of a kind below the driver."""
    known = list(_processes())
    below = {root}
    for _ in range(6):
        below |= {pid for pid, parent, _, _ in known if parent in below}
    for pid, _, _, words in known:
        if pid == root or pid not in below or "resource_tracker" in words:
            continue
        measures = "optlang.measure.child" in words
        if measures == (kind == "measuring process") and (measures or "spawn_main" in words):
            yield pid


def table(drill: Drill) -> Sequence[str]:
    """What came of it, as Markdown."""
    lines = ["| killed | how often | with a trial in progress |", "|---|---|---|"]
    lines += [f"| {kind} | {drill.struck[kind]} | {drill.lost[kind]} |" for kind in KINDS]
    states = Counter(state for state, _ in drill.ended.values())
    told = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
    lines.append(f"| all | {drill.kills} | {drill.lost.total()} |")
    lines.append("")
    lines.append(
        f"{drill.sessions} sessions of one run, {drill.checks} checks, all of them good; {len(drill.ended)} trials "
        f"ended ({told}); the slowest `optlang sql` took {drill.slowest:.1f} s."
    )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args()
    folder = given.folder or Path(tempfile.mkdtemp(prefix="optlang-faults-"))
    folder.mkdir(parents=True, exist_ok=True)
    drill = Drill(folder, random.Random(given.seed), given.workers)
    begin = time.monotonic()
    try:
        drill.run(given.kills)
        number = drill.finish()
    finally:
        print("\n".join(table(drill)))
    print(f"\nThe run went on to its end, and trial {number} was exported. {(time.monotonic() - begin) / 60:.0f} min.")


if __name__ == "__main__":
    main()
