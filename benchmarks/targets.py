"""Measures one trained model in every runtime that runs here: float32 and int8, one sample and 32 a call.

    .venv/bin/pip install -q -e ".[all]" && .venv/bin/python benchmarks/targets.py [--write]

benchmarks/targets/cpu.opt is run as far as its ladder, each runtime as it is and with `static`, in a folder of its own;
browser.opt as well where a browser is. Accuracy and agreement are measured through each runtime itself. A runtime that
is missing has no row. `--write` puts the table into docs/targets.md, between the two lines that mark it.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optlang

ROOT = Path(__file__).resolve().parent.parent
STUDIES = ROOT / "benchmarks" / "targets"
PAGE = ROOT / "docs" / "targets.md"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"

Row = Mapping[str, Any]

HEADS = (
    "runtime", "weights", "size", "size ×", "batch 1", "× eager", "batch 32", "× eager", "accuracy", "agreement",
    "build",
)

NEAR = 1.15
"""How near ONNX Runtime's int8 should be to the fastest runtime."""

FASTER = 2.5
"""How many times faster than eager float32 every int8 artifact should be."""

QUERY = """
SELECT runtime, coalesce(trials.alone, 'none') AS alone, one_size AS size, one_size_x AS size_x,
  one_latency AS one, one_latency_x AS one_x, many_latency AS many, many_latency_x AS many_x,
  accuracy, agreement, one_build_time AS build
FROM results JOIN trials USING (run, trial) WHERE results.state = 'complete' ORDER BY trial
"""


def measured(study: Path) -> list[dict[str, Any]]:
    """The baseline and all complete trials of the study's ladder, after a run in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
        done = subprocess.run(
            [sys.executable, "-m", "optlang", "run", str(study), "--ladder", "--progress", "plain"], cwd=folder,
            check=False, env=environment, stdout=subprocess.DEVNULL,
        )
        if done.returncode == 3:
            return []
        done.check_returncode()
        with optlang.open_store([Path(folder) / "optlang.duckdb"]) as store:
            return store.query(QUERY).dicts()


def label(row: Row) -> str:
    """What the study calls the runtime, which is the same on both targets."""
    return str(row["runtime"]).split(", ")[0].rpartition(".")[2]


def int8(row: Row) -> bool:
    """Whether the artifact is in int8."""
    return row["alone"] != "none" or label(row) in ("nncf", "accuracy")


def line(row: Row) -> tuple[str, ...]:
    """A row as text."""
    return (
        label(row), "int8" if int8(row) else "float32", f"{row['size'] / 1e3:.0f} kB", f"×{row['size_x']:.1f}",
        f"{1e6 * row['one']:.0f} µs", f"×{row['one_x']:.1f}", f"{1e3 * row['many']:.2f} ms", f"×{row['many_x']:.1f}",
        f"{100 * row['accuracy']:.1f} %", f"{100 * row['agreement']:.1f} %", f"{row['build']:.1f} s",
    )


def aims(rows: Sequence[Row]) -> list[str]:
    """How the bounds that are aimed at were met."""
    small = [row for row in rows if int8(row)]
    found = []
    for size in ("one", "many"):
        fastest = max(rows, key=lambda row: row[f"{size}_x"])
        mine = next((row for row in small if label(row) == "onnxruntime"), None)
        if mine is not None:
            behind = fastest[f"{size}_x"] / mine[f"{size}_x"]
            found.append(
                f"onnxruntime int8, batch {1 if size == 'one' else 32}: {behind:.2f} of the fastest, {label(fastest)} "
                f"(aim: {NEAR}): {'met' if behind <= NEAR else 'missed'}"
            )
        slow = [label(row) for row in small if row[f"{size}_x"] < FASTER]
        found.append(
            f"every int8 artifact at least ×{FASTER} faster than eager, batch {1 if size == 'one' else 32}: "
            + (f"missed by {', '.join(slow)}" if slow else "met")
        )
    return found


def printed(lines: Sequence[Sequence[str]]) -> str:
    """The table for a terminal."""
    widths = [max(map(len, column)) for column in zip(HEADS, *lines, strict=True)]
    return "\n".join(
        "  ".join(item.ljust(width) for item, width in zip(row, widths, strict=True)).rstrip()
        for row in (HEADS, *lines)
    )


def main() -> None:
    """Run the studies, print the table and the aims, write them where that is asked for."""
    parser = argparse.ArgumentParser(description="Measure one model in every runtime that runs here.")
    parser.add_argument("--write", action="store_true", help="put the table into docs/targets.md too")
    given = parser.parse_args()
    rows = measured(STUDIES / "cpu.opt")
    browser = measured(STUDIES / "browser.opt")
    # The browser's baseline is the browser's own float32: against eager it is compared in seconds.
    eager = rows[0]
    for row in browser:
        row |= {f"{name}_x": eager[name] / row[name] for name in ("one", "many", "size")}
    every = [*rows, *browser]
    lines = [line(row) for row in every]
    found = aims(every)
    print(printed(lines), *found, sep="\n")
    if given.write:
        head, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
        table = "\n".join(f"| {' | '.join(row)} |" for row in lines)
        told = "\n".join(f"- {item}" for item in found)
        PAGE.write_text(
            f"{head}{BEGIN}\n| {' | '.join(HEADS)} |\n|---|---|{'--:|' * 9}\n{table}\n\n{told}\n{END}"
            f"{rest.split(END)[1]}", encoding="utf-8",
        )


if __name__ == "__main__":
    main()
