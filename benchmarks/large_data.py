"""Measures how memory and processor time grow with the number of validation samples.

    .venv/bin/python benchmarks/large_data.py [--samples 5000 10000 50000] [--write]

Images of 3×64×64 float32 come one by one from a Dataset that draws each when it is asked for: 50,000 are 2.4 GB. The
study has a baseline, the model in ONNX Runtime, and static INT8. Memory is the sum over the driver, its workers and the
processes that measure, all at one time (resident set sizes, pages that they share counted several times), in a run of
its own for each number; it is compared with that of a run with 500 samples, and so are the processor's seconds of all
processes, which other work on the machine does not change much. `--write` puts the table into
docs/guide.md, between the two lines that mark it. Linux only: it reads /proc.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "guide.md"
BEGIN, END = "<!-- large data: begin -->", "<!-- large data: end -->"
FEW = 500
SAMPLE = 3 * 64 * 64 * 4
LIMIT = 2**30
"""Bytes that many samples may need more than few."""

PYTHON = '''\
import numpy
import torch


class Drawn(torch.utils.data.Dataset):
    """Images of noise with a bright corner, which is the class; the same image for the same number."""

    def __init__(self, count, first):
        self.count, self.first = count, first
        self.fingerprint = f"drawn {count} from {first}"

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        if index >= self.count:
            raise IndexError(index)
        number = self.first + index
        image = numpy.random.default_rng(number).random((3, 64, 64), dtype=numpy.float32)
        down, right = divmod(number % 4, 2)
        image[:, 32 * down : 32 * down + 32, 32 * right : 32 * right + 32] += 0.3
        return image, number % 4


def net():
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 16, 5, stride=4, padding=2), torch.nn.ReLU(), torch.nn.AvgPool2d(4),
        torch.nn.Conv2d(16, 16, 3, padding=1), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(256, 4),
    )


def drawn(samples):
    return {"train": Drawn(2000, 10**6), "validation": Drawn(samples, 0)}
'''
STUDY = """\
optlang 1

import python "large.py" as large

study large {{
  model net = large.net()
  data seen = large.drawn(samples = {samples})
  baseline {{ train {{ epochs = 2; lr = 3e-3 }} }}
  target here {{ batch = 32; runtime = onnxruntime }}
  steps {{ maybe static {{ samples = 64 }} }}
  minimize size
  maximize accuracy, agreement
  search {{ trials = 1; seed = 1 }}
  measure {{ rounds = 1; front_rounds = 1; front_processes = 1; round_seconds = 5ms; round_calls = 5 }}
}}
"""


@dataclass(frozen=True, slots=True)
class Run:
    """Of one run: the most bytes of all processes together, those of the largest one, and the processor's seconds."""

    samples: int
    together: int
    largest: int
    seconds: float


def measured(samples: int) -> Run:
    """Run the study with so many validation samples, in a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="large-") as name:
        folder = Path(name)
        (folder / "large.py").write_text(PYTHON)
        (folder / "large.opt").write_text(STUDY.format(samples=samples))
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        log = folder / "log.txt"
        with log.open("w") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "optlang", "run", "large.opt"], cwd=folder, env=environment, stdout=output,
                stderr=output,
            )
            together = largest = 0
            ended, status, used = os.wait4(process.pid, os.WNOHANG)
            while not ended:
                sizes = list(resident(process.pid))
                together, largest = max(together, sum(sizes)), max(largest, *sizes, 0)
                time.sleep(0.05)
                ended, status, used = os.wait4(process.pid, os.WNOHANG)
            process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            sys.exit(log.read_text())
        # Of the process and of all that it has waited for.
        return Run(samples, together, largest, used.ru_utime + used.ru_stime)


def resident(pid: int) -> Iterator[int]:
    """The bytes in memory of the process and of all that it started."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        children = " ".join(item.read_text() for item in Path(f"/proc/{pid}/task").glob("*/children"))
    except OSError:
        return
    for line in status.splitlines():
        if line.startswith("VmRSS:"):
            yield int(line.split()[1]) * 1024
    for child in children.split():
        yield from resident(int(child))


def table(few: Run, runs: list[Run]) -> str:
    """What is reported: memory above that of few samples, and how many times their processor time."""
    heads = (
        "validation samples", "inputs", "memory above that of 500", "the largest process",
        "processor time, against 500",
    )
    lines = [f"| {' | '.join(heads)} |", "|---|---|---|---|---|"]
    lines += [
        f"| {run.samples:,} | {run.samples * SAMPLE / 1e9:.2f} GB | {(run.together - few.together) / 1e6:.0f} MB | "
        f"{run.largest / 1e6:.0f} MB | ×{run.seconds / few.seconds:.1f} |"
        for run in runs
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure, print and, on request, write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, nargs="+", default=[5_000, 10_000, 50_000])
    parser.add_argument("--write", action="store_true")
    chosen = parser.parse_args()
    few = measured(FEW)
    print(f"{FEW} samples: {few.together / 1e6:.0f} MB in all processes, {few.seconds:.1f} s", flush=True)
    runs = []
    for samples in chosen.samples:
        runs.append(measured(samples))
        print(f"{samples} samples: {runs[-1].together / 1e6:.0f} MB, {runs[-1].seconds:.1f} s", flush=True)
    text = table(few, runs)
    print(text)
    if chosen.write:
        page = PAGE.read_text(encoding="utf-8")
        start, end = page.index(BEGIN) + len(BEGIN), page.index(END)
        PAGE.write_text(f"{page[:start]}\n{text}\n{page[end:]}", encoding="utf-8")
    if any(run.together - few.together > LIMIT for run in runs):
        sys.exit("many samples need more than 1 GB above what few need")


if __name__ == "__main__":
    main()
