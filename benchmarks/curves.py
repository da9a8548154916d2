"""Measures the curves of docs/techniques: accuracy against size or speed, one small study a page.

    .venv/bin/pip install -q -e ".[docs]" && .venv/bin/python benchmarks/curves.py [NAME …]

Each benchmarks/curves/NAME.opt is run to its end in a folder of its own. Its points become docs/images/curves/NAME.svg
and the table in docs/techniques/NAME.md, between the two lines that mark it.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optlang

ROOT = Path(__file__).resolve().parent.parent
STUDIES = ROOT / "benchmarks" / "curves"
IMAGES = ROOT / "docs" / "images" / "curves"
PAGES = ROOT / "docs" / "techniques"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"

Rows = Sequence[Mapping[str, Any]]

SAID = {
    "size_x": "smaller, ×", "size_compressed_x": "smaller after zstd, ×", "sparsity": "share of zeros",
    "latency_x": "faster, ×", "macs_x": "fewer macs, ×", "epochs": "epochs",
}


@dataclass(frozen=True, slots=True)
class Curve:
    """What a page shows of its study: the column across, what tells one line of points from another (SQL), the knob
    that runs along a line, and the columns of the table."""

    across: str
    lines: str
    along: str
    columns: tuple[str, ...]


CURVES: dict[str, Curve] = {
    "channels": Curve(
        "macs_x", "importance || ', ' || scope", "ratio", ("macs_x", "size_x", "latency_x"),
    ),
    "distill": Curve(
        "size_x", "printf('%d %% teacher', (100 * alpha)::INTEGER)", "width", ("size_x", "latency_x"),
    ),
    "finetune": Curve("epochs", "printf('learning rate %g', lr)", "epochs", ()),
    "graph": Curve("latency_x", "rewrite", "width", ("latency_x", "size_x")),
    "half": Curve("size_x", "CASE precision WHEN 'none' THEN 'float32' ELSE 'float16' END", "width",
                  ("size_x", "latency_x")),
    "int8": Curve(
        "size_x", "CASE precision WHEN 'none' THEN 'float32' WHEN 'static' THEN 'static, a scale a ' || granularity "
        "ELSE precision END", "width", ("size_x", "latency_x"),
    ),
    "magnitude": Curve("sparsity", "scope || ', ' || schedule", "final", ("sparsity", "size_compressed_x", "size_x")),
    "qat": Curve(
        "size_x", "CASE precision WHEN 'none' THEN 'float32' WHEN 'qat' THEN printf('qat, %d epochs', epochs) "
        "ELSE precision END", "width", ("size_x", "latency_x"),
    ),
}


def measured(name: str) -> list[dict[str, Any]]:
    """The complete trials of the page's study, along the curve."""
    curve = CURVES[name]
    study = STUDIES / f"{name}.opt"
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
        subprocess.run(
            [sys.executable, "-m", "optlang", "run", str(study), "--progress", "plain"], cwd=folder, check=True,
            env=environment, stdout=subprocess.DEVNULL,
        )
        with optlang.open_store([Path(folder) / "optlang.duckdb"]) as store:
            return store.query(
                f"SELECT {curve.lines} AS line, * FROM results "
                f"WHERE origin = 'sampler' AND state IN ('complete', 'infeasible') ORDER BY line, {curve.along}"
            ).dicts()


def draw(name: str, rows: Rows) -> None:
    """The curve as an SVG: accuracy upwards, what was won to the right."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot as plt

    plt.rcParams.update({"svg.hashsalt": name, "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 10})
    curve = CURVES[name]
    figure, axes = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
    for line in dict.fromkeys(row["line"] for row in rows):
        own = [row for row in rows if row["line"] == line]
        axes.plot([row[curve.across] for row in own], [100 * row["accuracy"] for row in own], "o-", label=line, ms=4)
    baseline = {100 * (row["accuracy"] + row["accuracy_lost"]) for row in rows}
    axes.axhline(max(baseline), color="gray", lw=0.8, ls=":", label="baseline")
    axes.set_xlabel(SAID[curve.across])
    axes.set_ylabel("accuracy, %")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    IMAGES.mkdir(parents=True, exist_ok=True)
    figure.savefig(IMAGES / f"{name}.svg", metadata={"Date": None})
    plt.close(figure)


def write(name: str, rows: Rows) -> None:
    """The figures as a table in the page."""
    curve = CURVES[name]
    page = PAGES / f"{name}.md"
    text = page.read_text()
    head, rest = text.split(BEGIN)
    _, tail = rest.split(END)
    heads = ["", curve.along, *(SAID[column] for column in curve.columns), "accuracy, %", "points lost"]
    lines = [
        f"| {' | '.join(heads)} |",
        f"|---{'|--:' * (len(curve.columns) + 3)}|",
    ]
    for row in rows:
        figures = [_figure(column, row[column]) for column in curve.columns]
        accuracy = [f"{100 * row['accuracy']:.1f}", f"{100 * row['accuracy_lost']:.1f}".replace("-", "−")]
        lines.append(f"| {' | '.join([row['line'], _knob(row[curve.along]), *figures, *accuracy])} |")
    page.write_text(f"{head}{BEGIN}\n" + "\n".join(lines) + f"\n{END}{tail}")


def _knob(value: float) -> str:
    return f"{value:.0%}" if isinstance(value, float) else str(value)


def _figure(column: str, value: float | None) -> str:
    if value is None:
        return "–"
    return f"×{value:.1f}" if column.endswith("_x") else f"{value:.2f}"


def main() -> None:
    """Run the studies, draw, write."""
    parser = argparse.ArgumentParser(description="Measure the curves of docs/techniques.")
    parser.add_argument("names", nargs="*", choices=[*CURVES, []], help="which of them (default: all)")
    for name in parser.parse_args().names or CURVES:
        rows = measured(name)
        draw(name, rows)
        write(name, rows)
        print(f"{name}: {len(rows)} points")


if __name__ == "__main__":
    main()
