"""Measures the curves of docs/techniques: accuracy against size or speed, one small study a technique.

    .venv/bin/pip install -q -e ".[docs]" && .venv/bin/python benchmarks/curves.py [NAME …]

Each benchmarks/curves/NAME.opt is run to its end in a folder of its own. Its points become docs/images/curves/NAME.svg
and a table in the technique's page of docs/techniques, between the two lines that mark it. What a run in `--folder` has
measured is not measured again.
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
BEGIN, END = "<!-- measured {}: begin -->", "<!-- measured {}: end -->"

Rows = Sequence[Mapping[str, Any]]

SAID = {
    "size_x": "smaller, ×", "size_compressed_x": "smaller after zstd, ×", "sparsity": "share of zeros",
    "latency_x": "faster, ×", "macs_x": "fewer macs, ×", "epochs": "epochs",
}


@dataclass(frozen=True, slots=True)
class Curve:
    """What a page shows of its study: the column across, what tells one line of points from another (SQL), the knob
    that runs along a line (SQL), and the columns of the table; the page and the knob's name, where they differ.
    """

    across: str
    lines: str
    along: str
    columns: tuple[str, ...]
    page: str = ""
    knob: str = ""


CURVES: dict[str, Curve] = {
    "channels": Curve("macs_x", "importance || ', ' || scope", "ratio", ("macs_x", "size_x", "latency_x")),
    "distill": Curve("size_x", "printf('%d %% teacher', (100 * alpha)::INTEGER)", "width", ("size_x", "latency_x")),
    "finetune": Curve("epochs", "printf('learning rate %g', lr)", "epochs", ()),
    "graph": Curve("latency_x", "rewrite", "width", ("latency_x", "size_x")),
    "half": Curve("size_x", "CASE precision WHEN 'none' THEN 'float32' ELSE 'float16' END", "width",
                  ("size_x", "latency_x")),
    "int8": Curve(
        "size_x", "CASE precision WHEN 'none' THEN 'float32' WHEN 'static' THEN 'static, a scale a ' || granularity "
        "ELSE precision END", "width", ("size_x", "latency_x"),
    ),
    "magnitude": Curve("sparsity", "scope || ', ' || schedule", "final", ("sparsity", "size_compressed_x", "size_x")),
    "heads": Curve(
        "latency_x", "importance || CASE recover WHEN 'none' THEN '' ELSE ', trained' END", "ratio",
        ("latency_x", "macs_x", "size_x"), page="heads_and_units",
    ),
    "units": Curve(
        "macs_x", "CASE smaller WHEN 'begun' THEN 'small from the start' ELSE importance END",
        "round(coalesce(1 - ratio, width / 64.0), 2)", ("macs_x", "latency_x", "size_x"), page="heads_and_units",
        knob="units left",
    ),
    "widths": Curve(
        "macs_x", "CASE cut WHEN 'widths' THEN cut ELSE 'one ratio, ' || scope END",
        "coalesce(widths_share, channels_to_budget_share)", ("macs_x", "size_x", "latency_x"), page="channels",
        knob="share of macs",
    ),
    "weight_only": Curve(
        "size_x", "CASE precision WHEN 'none' THEN 'float32' WHEN 'eight' THEN '8 bits' "
        "ELSE '4 bits, a scale for ' || \"group\" END", "width", ("size_x", "latency_x"), page="int8",
    ),
    "qat": Curve(
        "size_x", "CASE precision WHEN 'none' THEN 'float32' WHEN 'qat' THEN printf('qat, %d epochs', epochs) "
        "ELSE precision END", "width", ("size_x", "latency_x"),
    ),
}


def measured(name: str, folder: Path) -> list[dict[str, Any]]:
    """The complete trials of the technique's study, along the curve; run in `folder`, or finished there."""
    curve = CURVES[name]
    study = STUDIES / f"{name}.opt"
    folder.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    subprocess.run(
        [sys.executable, "-m", "optlang", "run", str(study), "--progress", "plain"], cwd=folder, check=True,
        env=environment, stdout=subprocess.DEVNULL,
    )
    with optlang.open_store([folder / "optlang.duckdb"]) as store:
        return store.query(
            f"SELECT {curve.lines} AS line, {curve.along} AS knob, * FROM results "
            # A technique alone may be a point of the study: then the search does not try it again.
            "SEMI JOIN (FROM trials WHERE in_space AND trial > 0) USING (run, trial) "
            "WHERE state IN ('complete', 'infeasible') ORDER BY line, knob NULLS FIRST"
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
    baseline = max(100 * (row["accuracy"] + row["accuracy_lost"]) for row in rows)
    axes.axhline(baseline, color="gray", lw=0.8, ls=":", label="baseline")
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
    page = PAGES / f"{curve.page or name}.md"
    begin, end = BEGIN.format(name), END.format(name)
    head, rest = page.read_text().split(begin)
    _, tail = rest.split(end)
    heads = ["", curve.knob or curve.along, *(SAID[column] for column in curve.columns), "accuracy, %", "points lost"]
    lines = [f"| {' | '.join(heads)} |", f"|---{'|--:' * (len(curve.columns) + 3)}|"]
    for row in rows:
        figures = [_figure(column, row[column]) for column in curve.columns]
        accuracy = [f"{100 * row['accuracy']:.1f}", f"{100 * row['accuracy_lost']:.1f}".replace("-", "−")]
        lines.append(f"| {' | '.join([row['line'], _knob(row['knob']), *figures, *accuracy])} |")
    page.write_text(f"{head}{begin}\n" + "\n".join(lines) + f"\n{end}{tail}")


def _knob(value: float) -> str:
    return f"{value:.0%}" if isinstance(value, float) else str(value)


def _figure(column: str, value: float) -> str:
    return f"×{value:.1f}" if column.endswith("_x") else f"{value:.2f}"


def main() -> None:
    """Run the studies, draw, write."""
    parser = argparse.ArgumentParser(description="Measure the curves of docs/techniques.")
    parser.add_argument("names", nargs="*", choices=[*CURVES, []], help="which of them (default: all)")
    parser.add_argument("--folder", type=Path, help="where to run them, and to find what has been run (default: new)")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as fresh:
        for name in given.names or CURVES:
            rows = measured(name, (given.folder or Path(fresh)) / name)
            draw(name, rows)
            write(name, rows)
            print(f"{name}: {len(rows)} points")


if __name__ == "__main__":
    main()
