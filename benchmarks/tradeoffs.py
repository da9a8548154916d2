"""Measures the field's table of trade-offs here: each technique alone and three in sequence, next to what is promised.

    .venv/bin/pip install -q -e ".[openvino]" && .venv/bin/python benchmarks/tradeoffs.py [NAME …] [--write]

Each benchmarks/tradeoffs/NAME.opt is run to its end in a folder of its own, every point of it. A row is one artifact:
the one of the technique that is fastest here, whatever its runtime. `--write` puts the tables into
docs/techniques/README.md as well, between the two lines that mark them.
"""

from __future__ import annotations

import argparse
import operator
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optlang

ROOT = Path(__file__).resolve().parent.parent
STUDIES = ROOT / "benchmarks" / "tradeoffs"
PAGE = ROOT / "docs" / "techniques" / "README.md"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Aim:
    """A bound that one column of a technique's row should keep; `points` are of accuracy."""

    column: str
    holds: Callable[[float, float], bool]
    bound: float
    said: str

    def met(self, row: Row) -> bool:
        """Compared as it is printed: a ratio to two digits."""
        return self.holds(float(f"{row[self.column]:.2g}"), self.bound)


def at_least(column: str, bound: float, said: str) -> Aim:
    """`column` ≥ `bound`."""
    return Aim(column, operator.ge, bound, said)


def lost(points: float) -> Aim:
    """At most `points` of accuracy lost."""
    return Aim("points", operator.le, points, f"{points:g} points")


@dataclass(frozen=True, slots=True)
class Technique:
    """A branch of the studies: what the table calls it, what the literature promises of it, and what we aim at."""

    said: str
    promised: str
    aims: tuple[Aim, ...] = ()


SIZE, ZSTD, EAGER, MACS = "size_x", "size_compressed_x", "latency_x", "macs_x"

# What users expect: of Han et al. (Deep Compression, 2016) for unstructured pruning, Jacob et al. and Krishnamoorthi
# (both 2018) for int8, He et al. (2017) for channels, Hinton et al. (2015) and Sanh et al. (2019) for distillation.
TECHNIQUES: dict[str, Technique] = {
    "none": Technique("none: the runtime alone", ""),
    "half": Technique("half precision", "size ×2", (at_least(SIZE, 2.0, "size ×2"),)),
    "dynamic": Technique("int8, dynamic", "size ×4, speed ×2–4, 1–2 points"),
    "static": Technique(
        "int8, static", "size ×4, speed ×2–4, 1–2 points",
        (at_least(SIZE, 3.9, "size ×3.9"), at_least(EAGER, 3, "speed ×3"), lost(0.5)),
    ),
    "qat": Technique(
        "int8, trained (QAT)", "size ×4, speed ×2–4, about 0 points",
        (at_least(SIZE, 3.9, "size ×3.9"), at_least(EAGER, 3, "speed ×3"), lost(0)),
    ),
    "weight_only": Technique("int8 weights", "size ×4"),
    "thin": Technique(
        "channels, half of them", "size and speed ×2–5",
        (at_least(MACS, 3, "macs ×3"), at_least(EAGER, 2, "speed ×2"), lost(2)),
    ),
    "iterative": Technique(
        "92 % of the weights zero", "size ×10, compressed",
        (at_least("sparsity", 0.9, "90 % zeros"), at_least(ZSTD, 8, "compressed ×8"), lost(2)),
    ),
    "distill": Technique("distilled student", "size and speed ×5–10", (at_least(SIZE, 8, "size ×8"), lost(3))),
    "together": Technique(
        "student, channels, int8", "",
        (at_least(SIZE, 25, "size ×25"), at_least(EAGER, 8, "speed ×8"), lost(2)),
    ),
}

HEADS = (
    "technique", "runtime", "size", "after zstd", "macs", "zeros", "speed", "speed, same runtime", "points lost",
    "promised", "aim", "met",
)


def measured(name: str) -> list[dict[str, Any]]:
    """The fastest complete trial of each technique in the study, after a run to its end in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
        subprocess.run(
            [sys.executable, "-m", "optlang", "run", str(STUDIES / f"{name}.opt"), "--progress", "plain"], cwd=folder,
            check=True, env=environment, stdout=subprocess.DEVNULL,
        )
        with optlang.open_store([Path(folder) / "optlang.duckdb"]) as store:
            return store.query(
                "WITH points AS (SELECT *, 100 * accuracy_lost AS points FROM results "
                "WHERE state = 'complete' AND technique IS NOT NULL AND trial > 0), "
                "bare AS (SELECT runtime, min(latency_p50 * latency_x) AS eager, max(latency_x) AS x "
                "FROM points WHERE technique = 'none' GROUP BY runtime) "
                "SELECT points.*, latency_x / bare.x AS same_x FROM points LEFT JOIN bare USING (runtime) "
                "QUALIFY row_number() OVER (PARTITION BY technique ORDER BY latency_x DESC) = 1"
            ).dicts()


def table(rows: Iterable[Row]) -> list[tuple[str, ...]]:
    """A line a technique, as text, in the order in which the field recommends to try them."""
    by_name = {row["technique"]: row for row in rows}
    return [_line(technique, by_name[name]) for name, technique in TECHNIQUES.items() if name in by_name]


def _line(technique: Technique, row: Row) -> tuple[str, ...]:
    missed = [aim.said for aim in technique.aims if not aim.met(row)]
    return (
        technique.said,
        row["runtime"],
        *(_times(row[column]) for column in (SIZE, ZSTD, MACS)),
        f"{100 * (row['sparsity'] or 0):.0f} %",
        _times(row[EAGER]),
        _times(row["same_x"]),
        f"{row['points']:.1f}".replace("-", "−"),
        technique.promised or "–",
        ", ".join(aim.said for aim in technique.aims) or "–",
        ("no: " + ", ".join(missed) if missed else "yes") if technique.aims else "–",
    )


def _times(value: float | None) -> str:
    return "–" if value is None else f"×{value:.0f}" if value >= 9.95 else f"×{value:.1f}"


def printed(lines: Sequence[Sequence[str]]) -> str:
    """The table for a terminal."""
    columns = list(zip(HEADS, *lines, strict=True))
    widths = [max(map(len, column)) for column in columns]
    return "\n".join(
        "  ".join(item.ljust(width) for item, width in zip(line, widths, strict=True)).rstrip()
        for line in (HEADS, *lines)
    )


def markdown(name: str, lines: Sequence[Sequence[str]]) -> str:
    """The table for the docs."""
    head = f"| {' | '.join(HEADS)} |\n|---|---{'|--:' * 7}|---|---|---|"
    return f"**{name}**\n\n{head}\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    """Run the studies, print their tables, write them where that is asked for."""
    names = sorted(path.stem for path in STUDIES.glob("*.opt"))
    parser = argparse.ArgumentParser(description="Measure the field's table of trade-offs.")
    parser.add_argument("names", nargs="*", choices=[*names, []], help="which of the models (default: all)")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/techniques/README.md too")
    given = parser.parse_args()
    tables = []
    for name in given.names or names:
        lines = table(measured(name))
        print(f"\n{name}\n{printed(lines)}", flush=True)
        tables.append(markdown(name, lines))
    if given.write:
        head, rest = PAGE.read_text().split(BEGIN)
        PAGE.write_text(f"{head}{BEGIN}\n" + "\n\n".join(tables) + f"\n{END}{rest.split(END)[1]}")


if __name__ == "__main__":
    main()
