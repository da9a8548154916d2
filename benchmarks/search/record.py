"""Records the learning curves of a few dozen trainings, of which none is stopped, for stopping.py.

    .venv/bin/python benchmarks/search/record.py FOLDER [--epochs 6]

FOLDER gets the database and the cache of the run, which goes on where it was left. In the end curves.json next to this
file is written: for each searched trial its steps with their epochs, what was measured in the end, and the curves.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import optlang
from optlang.run import past_curves
from optlang.run.stopping import EPOCH

HERE = Path(__file__).resolve().parent
STUDY, CURVES = HERE / "digits.opt", HERE / "curves.json"
KEPT = ("metric", "value", "unit", "n", "low", "high", "target", "ratio", "ratio_low", "ratio_high", "baseline")
METRICS = "('accuracy', 'size', 'latency.p50', 'latency.p95')"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the run is kept")
    parser.add_argument("--epochs", type=int, default=6, help="epochs of recovery after each pruning")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    # Nothing is compared with curves: all of them are recorded whole.
    past_curves.ENOUGH = sys.maxsize
    from optlang.cli.app import command

    study = shutil.copy(STUDY, arguments.folder)
    db = arguments.folder / "optlang.duckdb"
    code = command([
        "run", str(study), "--set", f"epochs={arguments.epochs}", "--db", str(db), "--home",
        str(arguments.folder / "home"), "--progress", "plain",
    ])
    if code not in (0, None):
        return int(code)
    CURVES.write_text(written(arguments.epochs, trials(db)))
    return 0


def trials(db: Path) -> list[dict[str, Any]]:
    """The trials that were measured, the baseline first, as JSON."""
    with optlang.open_store([db]) as store:
        rows = store.query(
            "SELECT trial, origin, state FROM trials WHERE state IN ('complete', 'infeasible') AND notes ->> "
            f"'$.\"{EPOCH}\"' IS NULL ORDER BY trial",
        ).rows
        found = []
        for trial, origin, state in rows:
            steps = store.query(
                "SELECT path, technique, (settings ->> '$.epochs')::INT FROM steps WHERE trial = ? ORDER BY position",
                [trial],
            ).rows
            measured = store.query(
                f"SELECT {', '.join(KEPT)} FROM measurements WHERE trial = ? AND pass = 0 AND metric IN {METRICS}",
                [trial],
            ).rows
            curves = store.query(
                "SELECT path, epochs, epoch, round(value, 5), seconds FROM curves WHERE trial = ? AND metric = "
                "'accuracy' ORDER BY path, epoch", [trial],
            ).rows
            found.append({
                "trial": trial, "origin": origin, "state": state, "steps": [list(row) for row in steps],
                "measured": [[short(item) for item in row] for row in measured],
                "curves": [list(row) for row in curves],
            })
    return found


def short(value: Any) -> Any:
    """Six digits of a number."""
    return float(f"{value:.6g}") if isinstance(value, float) else value


def written(epochs: int, found: list[dict[str, Any]]) -> str:
    """A trial a line."""
    lines = ",\n".join(json.dumps(item, separators=(",", ":")) for item in found)
    return f'{{"epochs": {epochs}, "measured": {json.dumps(KEPT)}, "trials": [\n{lines}\n]}}\n'


if __name__ == "__main__":
    raise SystemExit(main())
