"""A study whose trials take some hundred kilobytes each, and seconds at most."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path
from typing import Any

from optlang.store.reader import query
from tests.command_line import command, environment
from tests.noise import NOISE

PARTS = """\
optlang 1

technique nudge "scale a weight" {
  calls "parts.py:nudge"
  param number: int in 0 .. 1000 = 0
  takes module
  gives module
}
"""
PYTHON = """\
import copy, dataclasses
import torch
from torch import nn


def nudge(subject, settings, context):
    model = copy.deepcopy(subject.model)
    with torch.no_grad():
        model[1].weight.mul_(1 + settings["number"] / 1e4)
    return dataclasses.replace(subject, model=model)


def net(width=WIDTH):
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))


""" + NOISE
STUDY = """\
optlang 1

import parts
import python "parts.py" as own

study big "large for its purpose" {{
  model net = own.net()
  data seen = own.noise()
  target here {{ device = cpu; runtime = onnxruntime }}
  steps {{ parts.nudge {{ number in 1 .. 1000 }} }}
  minimize latency, size
  maximize accuracy
  measure {{ rounds = 2; front_rounds = 2; front_processes = 1; round_seconds = 1ms; round_calls = 3 }}
  search {{ trials = {trials}; seed = 1; sampler = random; screening = off; ladder = false{more} }}
}}
"""
WIDTH = 3000
MODEL = 4 * WIDTH * 76
"""The bytes of the weights, about: a trial has them in the cache and in its artifact."""


def study(folder: Path, trials: int, more: str = "") -> Path:
    """The study in a folder of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "parts.opt").write_text(PARTS)
    (folder / "parts.py").write_text(PYTHON.replace("WIDTH", str(WIDTH)))
    path = folder / "big.opt"
    path.write_text(STUDY.format(trials=trials, more=f"; {more}" if more else ""))
    return path


def weight(folder: Path) -> int:
    """The bytes of all files of the cache and of the artifacts, however they are counted elsewhere."""
    found = 0
    for top in ("cache", "artifacts"):
        for root, _, names in os.walk(folder / ".optlang" / top):
            for name in names:
                try:
                    found += os.lstat(os.path.join(root, name)).st_size  # noqa: PTH118
                except FileNotFoundError:
                    continue
    return found


def watched(folder: Path, *arguments: object) -> tuple[int, str, int]:
    """Run the study: its exit code, what it printed, and the most bytes that there were meanwhile."""
    log, most = folder / "log.txt", 0
    with log.open("w") as said:
        process = subprocess.Popen(
            command("run", "big.opt", "--progress", "plain", *arguments), cwd=folder, env=environment(), stdout=said,
            stderr=subprocess.STDOUT,
        )
        while process.poll() is None:
            most = max(most, weight(folder))
            time.sleep(0.02)
    return process.returncode, log.read_text(), most


def rows(folder: Path, sql: str) -> list[tuple[Any, ...]]:
    return list(query(sql, [folder / "optlang.duckdb"]).rows)
