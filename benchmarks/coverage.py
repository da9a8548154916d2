"""Tries each technique with each runtime on architectures that people bring: what works, what is refused, what fails.

    python benchmarks/coverage.py [NAME …] [--runtimes onnxruntime,openvino] [--rows quant.*] [--again] [--table]

An architecture is tried in a child process (benchmarks/coverage/cells.py), each cell within --limit seconds of
processor time. What is found is appended to --results as lines of JSON, and a cell that has a line for this version of
the code is not tried again: the program goes on where it stopped. `--again` tries those that did not work in an earlier
version, and no others; `--left` tries these and those that were never tried. `--table` prints the table of what is
known, `--write` puts it into docs/coverage.md.
"""

from __future__ import annotations

import argparse
import fnmatch
import importlib.metadata
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = ROOT / "benchmarks" / "coverage" / "cells.py"
PAGE = ROOT / "docs" / "coverage.md"
BEGIN, END = "<!-- coverage: begin -->", "<!-- coverage: end -->"
WAIT = 10
"""How many times the limit of a cell may pass on the clock: other programs may need the processor too."""
FIRST = 60.0
"""Seconds that libraries and the model may take to load, besides that."""
MARKS = {"works": "✓", "refused": "refused", "fails": "fails", "nothing": "–"}
VERSIONS = ("torch", "torchvision", "timm", "transformers", "onnxruntime", "openvino", "executorch")

Cell = tuple[str, str]
Line = Mapping[str, Any]

sys.path.insert(0, str(PROGRAM.parent))


# ---- what is known


class Results:
    """The lines of the file: one a cell and version of the code."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.lines = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []

    def add(self, line: Line) -> None:
        """Append a line, on the disk at once."""
        self.lines.append(dict(line))
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def latest(self) -> dict[tuple[str, str, str], Line]:
        """The last line of each cell, whatever the version."""
        return {(line["architecture"], line["row"], line["runtime"]): line for line in self.lines}

    def of(self, version: str) -> set[tuple[str, str, str]]:
        """The cells that have a line for this version."""
        return {
            (line["architecture"], line["row"], line["runtime"]) for line in self.lines if line["version"] == version
        }


def version() -> str:
    """The last commit of what is tried, and whether files differ from it."""
    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True
        ).stdout.strip()

    code = ("optlang", "stdlib")
    return git("log", "-1", "--format=%h", "--", *code) + ("+" if git("status", "--porcelain", *code) else "")


# ---- trying


class Child:
    """A process that tries cells of one architecture; `answers` gives what it says, and None when it has ended."""

    def __init__(self, architecture: str, cells: Sequence[Cell], limit: float) -> None:
        environment = {
            **os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
            "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "TOKENIZERS_PARALLELISM": "false",
        }
        self._process = subprocess.Popen(
            [sys.executable, str(PROGRAM), architecture, str(limit)], cwd=ROOT, env=environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(cells))
        self._process.stdin.close()
        self.answers: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self.last: list[str] = []
        self._readers = [threading.Thread(target=target, daemon=True) for target in (self._read, self._drain)]
        for reader in self._readers:
            reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.answers.put(line)
        self.answers.put(None)

    def _drain(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self.last = [*self.last[-5:], line.rstrip()]

    def end(self, patience: float) -> int:
        """Kill it where it still runs after so many seconds; its exit code."""
        try:
            self._process.wait(patience)
        except subprocess.TimeoutExpired:
            self._process.kill()
        code = self._process.wait()
        for reader in self._readers:
            reader.join(5)
        for pipe in (self._process.stdout, self._process.stderr):
            assert pipe is not None
            pipe.close()
        return code


def tried(architecture: str, cells: Sequence[Cell], limit: float) -> Iterator[tuple[Cell, Line]]:
    """What becomes of each cell. A process that dies or takes too long is replaced, and the rest goes on."""
    left = list(cells)
    while left:
        child = Child(architecture, left, limit)
        current: Cell = ("", "")
        alike = False
        deadline = time.monotonic() + WAIT * limit + FIRST
        while True:
            try:
                line = child.answers.get(timeout=max(deadline - time.monotonic(), 0.01))
            except queue.Empty:
                reason = f"over {WAIT * limit:.0f} s on the clock"
                break
            if line is None:
                reason = "the process died"
                break
            told = json.loads(line)
            deadline = time.monotonic() + WAIT * limit
            if "begin" in told:
                current = tuple(told["begin"])
            elif "alike" in told:
                # The steps of this row do just the same for every runtime.
                alike = told["alike"]
            else:
                cell = tuple(told.pop("cell"))
                left.remove(cell)
                yield cell, told
        late = reason.startswith("over")
        code = child.end(0.0 if late else 10.0)
        if not left:
            return
        if code == -signal.SIGXCPU:
            reason = f"over {limit:.0f} s"
        elif code and not late:
            reason += f" with code {code}: {' | '.join(child.last)}"[:800]
        failed = left if current == ("", "") else [
            cell for cell in left if cell == current or (alike and cell[0] == current[0])
        ]
        for cell in list(failed):
            left.remove(cell)
            yield cell, {"state": "fails", "reason": reason, "seconds": limit}


# ---- the table


def table(lines: Sequence[Line]) -> str:
    """Two tables in Markdown: the shares by runtime and row, and each architecture; then what does not work."""
    counted = [line for line in lines if line["state"] != "nothing"]
    return "\n\n".join((_summary(counted), _by_row(lines), _by_architecture(lines), _causes(counted)))


def _share(lines: Sequence[Line]) -> str:
    found = Counter(line["state"] for line in lines)
    total = sum(found.values())
    return f"{found['works']} of {total} ({100 * found['works'] / total:.1f} %)" if total else "–"


def _summary(counted: Sequence[Line]) -> str:
    found = Counter(line["state"] for line in counted)
    by_runtime = ", ".join(
        f"{runtime} {len([line for line in counted if line['runtime'] == runtime])} on "
        f"{len({line['architecture'] for line in counted if line['runtime'] == runtime})}"
        for runtime in dict.fromkeys(line["runtime"] for line in counted)
    )
    names = {line["architecture"] for line in counted}
    return (
        f"{len(names)} architectures, {len(counted)} cells: {_share(counted)} work, {found['refused']} are refused "
        f"with a reason and a way out, {found['fails']} fail. What was tried, in cells on architectures: {by_runtime}."
    )


def _names(lines: Sequence[Line], key: str, order: Sequence[str]) -> list[str]:
    there = {line[key] for line in lines}
    return [name for name in order if name in there]


def _by_row(lines: Sequence[Line]) -> str:
    from cells import ROWS, RUNTIMES  # type: ignore[import-not-found]

    runtimes = _names(lines, "runtime", RUNTIMES)
    found: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for line in lines:
        found[line["row"], line["runtime"]][line["state"]] += 1

    def shown(states: Counter[str]) -> str:
        total = sum(states.values()) - states["nothing"]
        parts = [f"{states['works']}/{total}"] if total else ["–"]
        return ", ".join([*parts, *(f"{states[name]} {name}" for name in ("fails",) if states[name])])

    rows = [
        f"| {f'`{name}`' if name != 'none' else 'float32 as it is'} | "
        + " | ".join(shown(found[name, runtime]) if (name, runtime) in found else "" for runtime in runtimes) + " |"
        for name in _names(lines, "row", list(ROWS))
    ]
    head = f"| what is done | {' | '.join(runtimes)} |\n|---|{'--:|' * len(runtimes)}"
    return "\n".join((head, *rows))


def _by_architecture(lines: Sequence[Line]) -> str:
    from architectures import ARCHITECTURES  # type: ignore[import-not-found]
    from cells import RUNTIMES

    runtimes = _names(lines, "runtime", RUNTIMES)
    rows = []
    for name in _names(lines, "architecture", list(ARCHITECTURES)):
        parts = [f"{ARCHITECTURES[name].family}: {name}"]
        for runtime in runtimes:
            mine = [
                line for line in lines if (line["architecture"], line["runtime"]) == (name, runtime)
                and line["state"] != "nothing"
            ]
            states = Counter(line["state"] for line in mine)
            failed = f", {states['fails']} fail" if states["fails"] else ""
            parts.append(f"{states['works']}/{len(mine)}{failed}" if mine else "")
        rows.append(f"| {' | '.join(parts)} |")
    head = f"| architecture | {' | '.join(runtimes)} |\n|---|{'--:|' * len(runtimes)}"
    return "\n".join((head, *rows))


def _causes(counted: Sequence[Line]) -> str:
    """What does not work, by reason, with what was done, the runtimes and the architectures."""
    found: dict[tuple[str, str], list[Line]] = defaultdict(list)
    for line in counted:
        if line["state"] in ("refused", "fails"):
            found[line["state"], _cause(line["reason"])].append(line)
    rows = []
    for (state, _), some in sorted(found.items(), key=lambda item: (item[0][0], -len(item[1]))):
        parts = [
            ", ".join(dict.fromkeys(shown.format(line[key]) for line in some))
            for key, shown in (("row", "`{}`"), ("runtime", "{}"), ("architecture", "{}"))
        ]
        reason = " ".join(str(some[0]["reason"]).split()).replace("|", "\\|")[:300]
        rows.append(f"| {state} | {' | '.join(parts)} | {reason} |")
    if not rows:
        return "Nothing is refused and nothing fails."
    head = "| | what is done | runtimes | architectures | reason (of the first) |\n|---|---|---|---|---|"
    return "\n".join((head, *rows))


def _cause(reason: str) -> str:
    """A reason without the names and numbers that differ from model to model."""
    return " ".join(
        word for word in reason.split() if not any(sign in word for sign in "._/()[]'\"=") and not word.isdigit()
    )[:120]


def written(text: str) -> None:
    """Put the table into the page, between the lines that mark it, with the versions of the libraries."""
    there = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in VERSIONS)
    head, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
    tail = rest.split(END)[1]
    PAGE.write_text(f"{head}{BEGIN}\nWith {there}.\n\n{text}\n{END}{tail}", encoding="utf-8")


# ---- the program


def _wanted(given: argparse.Namespace, results: Results, code: str) -> dict[str, list[Cell]]:
    """The cells to try, by architecture."""
    from architectures import ARCHITECTURES
    from cells import cells

    known, latest = results.of(code), results.latest()
    found: dict[str, list[Cell]] = {}
    patterns = given.only or ["*"]
    for name in dict.fromkeys(name for item in patterns for name in fnmatch.filter(ARCHITECTURES, item)):
        mine = []
        for row, runtime in cells():
            key = (name, row, runtime)
            if not any(fnmatch.fnmatch(row, pattern) for pattern in given.rows.split(",")):
                continue
            if runtime not in given.runtimes.split(",") or key in known:
                continue
            if given.left and latest.get(key, {"state": "none"})["state"] in ("works", "nothing"):
                continue
            if given.again and latest.get(key, {"state": "works"})["state"] in ("works", "nothing"):
                continue
            mine.append((row, runtime))
        if mine:
            found[name] = mine
    return found


def main() -> None:
    """Try what is not known yet, or print what is."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("only", nargs="*", help="architectures, by name or pattern; none: all")
    parser.add_argument("--runtimes", default="onnxruntime,torchscript,openvino,eager,executorch,inductor")
    parser.add_argument("--rows", default="*", help="what is done, by name or pattern, separated by commas")
    parser.add_argument("--results", type=Path, default=Path("coverage.jsonl"))
    parser.add_argument("--limit", type=float, default=120.0, help="seconds of processor time that a cell may take")
    parser.add_argument("--again", action="store_true", help="only what did not work before")
    parser.add_argument("--left", action="store_true", help="what did not work before, or was not tried")
    parser.add_argument("--table", action="store_true", help="print what is known, and try nothing")
    parser.add_argument("--write", action="store_true", help="put what is known into docs/coverage.md")
    given = parser.parse_args()
    results = Results(given.results)
    if given.table or given.write:
        text = table(list(results.latest().values()))
        print(text)
        if given.write:
            written(text)
        return
    code = version()
    wanted = _wanted(given, results, code)
    total, done = sum(map(len, wanted.values())), 0
    for name, cells in wanted.items():
        for (row, runtime), told in tried(name, cells, given.limit):
            done += 1
            results.add({"architecture": name, "row": row, "runtime": runtime, "version": code, **told})
            why = f": {' '.join(str(told['reason']).split())[:160]}" if "reason" in told else ""
            print(f"[{done}/{total}] {name} {row} {runtime} {told['state']} {told['seconds']} s{why}", flush=True)


if __name__ == "__main__":
    main()
