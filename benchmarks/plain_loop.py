"""Compares the digits study with a plain Optuna script of the same space: how good the front is, and when.

    .venv/bin/python benchmarks/plain_loop.py [--seeds 3] [--trials 40] [--keep FOLDER]

The script is benchmarks/plain_loop/script.py. Both leave their files, which one meter that knows nothing of either
(benchmarks/by_hand/meter.py) times in turns and scores on the same images. What a search has found after so many
seconds is the share of a box that its files dominate (hypervolume): smaller, from the script's baseline as float32 in
ONNX to 40 times; faster, from PyTorch to 25 times (both on a scale of ratios); and what accuracy is lost, from 4 points
to nothing. Seconds are those of the wall since the command was started. A machine that does something else at the same
time makes all of this worthless. A seed takes about four minutes, half of them the meter's.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeAlias

import numpy

HERE = Path(__file__).resolve().parent
SCRIPT, METER, STUDY = HERE / "plain_loop" / "script.py", HERE / "by_hand" / "meter.py", "studies/digits.opt"
sys.path += [str(SCRIPT.parent), str(METER.parent), str(HERE)]
SMALLER, FASTER, LOST = 40.0, 25.0, 0.04

Row: TypeAlias = "tuple[float, tuple[float, ...]]"
"""When a trial was there, and where it lies."""


@dataclass
class Made:
    """The files of one trial: the main one, all their bytes, and when they were there."""

    seconds: float
    runtime: str
    file: Path
    size: int


@dataclass
class Searched:
    """What one search left, and how long it took in all."""

    made: Sequence[Made]
    whole: float


def by_script(folder: Path, seed: int, trials: int) -> Searched:
    """Run the script."""
    begin = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-W", "ignore", SCRIPT, folder, "--seed", str(seed), "--trials", str(trials)],
        capture_output=True, text=True, check=True, env=environment(),
    )
    whole = time.perf_counter() - begin
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    # Starting Python and its imports are the script's time too.
    late = whole - rows[-1]["seconds"]
    return Searched([
        Made(row["seconds"] + late, row["runtime"], folder / row["file"], row["size"]) for row in rows
    ], whole)


def by_optlang(folder: Path, seed: int, trials: int) -> Searched:
    """Run the study, and read what it has made."""
    import duckdb

    folder.mkdir()
    db = folder / "x.duckdb"
    begin, at = time.perf_counter(), datetime.now(UTC).replace(tzinfo=None)
    subprocess.run(
        [
            sys.executable, "-m", "optlang", "run", HERE.parent / STUDY, "--db", db, "--seed", str(seed),
            "--trials", str(trials), "--progress", "plain",
        ],
        capture_output=True, text=True, check=True, env=environment(),
    )
    whole = time.perf_counter() - begin
    with duckdb.connect(str(db), read_only=True) as connection:
        rows = connection.execute(
            "SELECT t.finished, t.runtime, a.path, a.files, a.bytes FROM trials t JOIN artifacts a USING (run, trial) "
            "WHERE t.runtime <> 'eager' ORDER BY t.finished"
        ).fetchall()
    return Searched([
        Made((finished - at).total_seconds(), runtime, main_file(folder / ".optlang", path, files), size)
        for finished, runtime, path, files, size in rows
    ], whole)


def main_file(home: Path, path: str, files: str) -> Path:
    """The file that a runtime is given, of an artifact's."""
    names = [item["name"] for item in json.loads(files)]
    name = next(name for name in names if name.endswith((".onnx", ".xml")))
    folder = Path(path) if Path(path).is_absolute() else home / path
    return folder / name


def environment() -> dict[str, str]:
    """One thread for whatever asks."""
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def judged(searches: dict[str, Searched], baseline: Path, folder: Path) -> dict[str, list[Row]]:
    """For each search, when a trial was there, and where its files lie in the box (three numbers, 0 to 1)."""
    import script

    _, _, images, labels = script.data()
    inputs = folder / "inputs.npz"
    numpy.savez(
        inputs, labels=labels.numpy(), **{f"{number} x": image[None].numpy() for number, image in enumerate(images)}
    )
    eager = slowest(images)
    whole = baseline.stat().st_size
    (reference,) = metered("onnxruntime", inputs, [baseline])
    found: dict[str, list[Row]] = {name: [] for name in searches}
    for runtime in ("onnxruntime", "openvino"):
        chosen = [(name, made) for name, search in searches.items() for made in search.made if made.runtime == runtime]
        for (name, made), row in zip(chosen, metered(runtime, inputs, [made.file for _, made in chosen]), strict=True):
            lost = 1.0 if "failed" in row else reference["metric"] - row["metric"]
            if lost <= LOST:
                found[name].append((made.seconds, (
                    share(whole / made.size, SMALLER), share(eager / row["latency"], FASTER),
                    min(1.0, 1 - lost / LOST),
                )))
    return {name: sorted(rows) for name, rows in found.items()}


def share(times: float, most: float) -> float:
    """How far a ratio has come, of one to `most`."""
    return min(1.0, max(0.0, math.log(times) / math.log(most)))


def slowest(images: Any) -> float:
    """The milliseconds of a call of the whole net in PyTorch, one thread."""
    import meter
    import script
    import torch

    torch.set_num_threads(1)
    model = script.net().eval()
    with torch.inference_mode():
        samples = [{"x": image[None]} for image in images]
        return float(1e3 * statistics.median(meter.seconds(lambda item: model(item["x"]), samples) for _ in range(15)))


def metered(runtime: str, inputs: Path, files: Sequence[Path]) -> list[dict[str, Any]]:
    """What the meter says of files, in their order."""
    if not files:
        return []
    done = subprocess.run(
        [sys.executable, METER, runtime, inputs, *files], capture_output=True, text=True, check=True,
        env={**environment(), "METER_ROUNDS": "5"},
    )
    rows: list[dict[str, Any]] = json.loads(done.stdout)
    return rows


def volume(points: Sequence[tuple[float, ...]]) -> float:
    """The share of the box that lies below any of the points."""
    import samplers

    return samplers.hypervolume([tuple(1 - value for value in point) for point in points]) if points else 0.0


def rising(rows: Sequence[Row]) -> Iterator[tuple[float, float]]:
    """The seconds of each trial, and the volume with it."""
    for count, (seconds, _) in enumerate(rows, 1):
        yield seconds, volume([point for _, point in rows[:count]])


def compared(seed: int, trials: int, folder: Path) -> dict[str, float]:
    """Both searches with one seed."""
    searches = {
        "script": by_script(folder / "script", seed, trials), "optlang": by_optlang(folder / "optlang", seed, trials),
    }
    rows = judged(searches, folder / "script" / "baseline.onnx", folder)
    (folder / "judged.json").write_text(json.dumps(rows))
    plain, ours = (list(rising(rows[name])) for name in ("script", "optlang"))
    reached = next((seconds for seconds, found in ours if found >= plain[-1][1]), math.inf)
    return {
        "script's seconds": searches["script"].whole, "script's share": plain[-1][1],
        "optlang's seconds to it": reached, "optlang's seconds": searches["optlang"].whole,
        "optlang's share": ours[-1][1],
    }


def main() -> None:
    """Print a row a seed, and the medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--keep", type=Path, help="leave all files there")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as aside:
        rows = []
        for seed in range(1, options.seeds + 1):
            folder = (options.keep or Path(aside)) / str(seed)
            folder.mkdir(parents=True)
            rows.append(compared(seed, options.trials, folder))
            if seed == 1:
                print(f"| seed | {' | '.join(rows[0])} |\n|---|{'---|' * len(rows[0])}")
            print(f"| {seed} | {' | '.join(f'{value:.3g}' for value in rows[-1].values())} |", flush=True)
    medians = (statistics.median(row[name] for row in rows) for name in rows[0])
    print(f"| median | {' | '.join(f'{value:.3g}' for value in medians)} |")


if __name__ == "__main__":
    main()
