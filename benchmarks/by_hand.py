"""Compares optlang's 8-bit files with what ten lines written by hand make of the same models, on the CPU.

    .venv/bin/pip install -q -e ".[all,examples]" && .venv/bin/python benchmarks/by_hand.py [NAME …] [--write]

By hand are ONNX Runtime's `quantize_dynamic` and `quantize_static` and NNCF's `quantize`, each as its own page begins
(by_hand/quantize.py). A meter that knows nothing of optlang (by_hand/meter.py) counts the bytes that a runtime loads,
times the files of one runtime in turns, one thread and one sample a call, and looks at their answers.

Of a model with random weights (by_hand/models.py) optlang's files are those that `optlang export` writes of a study's
ladder, and the answers are compared with the float model's. Of a study of studies/real they are its front, and what
counts are the right answers: by hand the model is trained by a plain loop first (by_hand/studies.py).

`--write` puts the lines of the models that were measured into docs/techniques/int8.md, in place of those they had.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "benchmarks" / "by_hand"
PAGE = ROOT / "docs" / "techniques" / "int8.md"

MODELS = {
    "bert": "tokens", "distilbert": "tokens", "roberta": "tokens", "electra": "tokens", "mpnet": "tokens",
    "deberta": "tokens", "albert": "tokens", "gpt2": "tokens", "llama": "tokens", "t5": "tokens", "vit": "images",
    "segformer": "quarters", "whisper": "spectrograms", "wav2vec2": "waveforms", "resnet18": "images",
    "pyramid": "images", "vgg": "images", "googlenet": "images", "densenet": "images", "squeezenet": "images",
    "mobilenet_v2": "images", "mobilenet_v3": "images", "efficientnet": "images", "mnasnet": "images",
    "shufflenet": "images", "regnet": "images", "lraspp": "pixels", "tv_convnext": "images", "tv_vit": "images",
    "tv_swin": "images", "convnext": "images", "vit_tiny": "images", "deit": "images", "swin": "images",
    "mixer": "images", "resmlp": "images", "levit": "large_images", "ghostnet": "images", "lcnet": "images",
    "efficientvit": "images", "edgenext": "images", "gru": "series", "gru_both_ways": "tokens", "lstm": "tokens",
    "unet": "pixels", "graph_net": "graphs", "table_net": "rows", "torch_encoder": "padded", "wavenet": "series",
}
"""The functions that make each model and its samples."""

STUDIES = ("photos", "docstrings", "sentences")
"""Those of studies/real."""

STUDY = """optlang 1

import python "models.py" as these

study {name} {{
  model net     = these.{name}()
  data  samples = these.{samples}()
  target cpu {{ threads = 1; batch = 1; runtime in {{ onnxruntime; openvino; nncf = openvino {{ int8 = nncf }} }} }}
  steps {{
    precision in {{
      none
      dynamic
      static
      weight_only
    }}
  }}
  minimize size
  search {{ trials = 1 }}
}}
"""
"""What is written instead of those lines by hand. Times are the meter's."""

LARGER, SLOWER, FARTHER = 1.01, 1.05, 1.1
"""By how much a file may be larger, slower and farther from the float answers and still count as no worse: two
measurements of one file differ by a few hundredths."""

POINT = 0.01
"""By how much right answers (of a study without labels, the cosine) may be fewer: two trainings differ by as much."""

SMALLER = 0.9
"""A file in 8 bits is smaller than this share of the float one."""


@dataclass(slots=True)
class File:
    """A file that a runtime loads, who made it how, and what the meter says of it."""

    runtime: str
    maker: str
    path: Path
    found: dict[str, float] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Bytes of the file, and of OpenVINO's weights next to it."""
        parts = {self.path, self.path.with_suffix(".bin")} if self.path.suffix == ".xml" else {self.path}
        return sum(part.stat().st_size for part in parts)


def main() -> int:
    """Make the files, measure them, print the table; 1 where something by hand is better than all of optlang's."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[*MODELS, *STUDIES, []], help="which of them (default: all)")
    parser.add_argument("--write", action="store_true", help="put what was measured into docs/techniques/int8.md too")
    parser.add_argument("--all", action="store_true", help="print every file, not only the comparisons")
    parser.add_argument("--keep", type=Path, help="leave all files in this folder")
    given = parser.parse_args()
    worse = 0
    for name in given.names or [*MODELS, *STUDIES]:
        table = TRAINED if name in STUDIES else RANDOM
        with tempfile.TemporaryDirectory(prefix="by-hand-") as scratch:
            folder = given.keep.resolve() / name if given.keep else Path(scratch)
            folder.mkdir(parents=True, exist_ok=True)
            inputs = made_by_hand(name, folder)
            files = [*by_hand(folder), *(by_study if name in STUDIES else by_ladder)(name, folder)]
            by_runtime = [[item for item in files if item.runtime == name] for name in ("onnxruntime", "openvino")]
            for mine in by_runtime:
                measure(mine[0].runtime, mine, inputs)
            # A study chooses the runtime too, so each of its files is compared with each by hand.
            groups = [[item for mine in by_runtime for item in mine]] if name in STUDIES else by_runtime
            lines = []
            for mine in groups:
                for item in mine:
                    if len(item.found) > 1:
                        item.found["times"] = mine[0].found["latency"] / item.found["latency"]
                if given.all:
                    print(*(described(table, name, item) for item in mine), sep="\n", flush=True)
                for line in compared(table, name, mine):
                    worse += line[-1] == "no"
                    lines.append(line)
                    print("  ".join(line), flush=True)
        if given.write:
            write(table, name, lines)
    return 1 if worse else 0


# ---- by hand


def made_by_hand(name: str, folder: Path) -> Path:
    """Write float.onnx, dynamic.onnx, static.onnx and nncf.xml of the model, and the samples as inputs.npz."""
    child("quantize.py", name, *([] if name in STUDIES else [MODELS[name]]), str(folder))
    return folder / "inputs.npz"


def by_hand(folder: Path) -> list[File]:
    """The files that are there, for each runtime that loads them."""
    made = [("float", "float.onnx"), ("quantize_dynamic", "dynamic.onnx"), ("quantize_static", "static.onnx")]
    files = [File(runtime, maker, folder / name) for runtime in ("onnxruntime", "openvino") for maker, name in made]
    files.append(File("openvino", "nncf.quantize", folder / "nncf.xml"))
    return [item for item in files if item.path.is_file()]


# ---- by optlang


def by_ladder(name: str, folder: Path) -> list[File]:
    """The files of each trial of the study's ladder, as they are exported."""
    for path in (FOLDER / "models.py", ROOT / "benchmarks" / "coverage" / "architectures.py"):
        shutil.copy(path, folder)
    study = folder / f"{name}.opt"
    study.write_text(STUDY.format(name=name, samples=MODELS[name]), encoding="utf-8")
    optlang(folder, "run", str(study), "--ladder", "--progress", "plain", into=folder / "run.txt")
    asked = "SELECT trial, runtime, precision AS how FROM results WHERE trial > 0 AND state = 'complete'"
    files = []
    for row in json.loads(optlang(folder, "sql", asked, "--format", "json")):
        runtime = row["runtime"].split(",")[0].rpartition(".")[2]
        if row["how"] == "none" and runtime != "nncf":
            continue
        path = exported(name, row["trial"], folder)
        how = "int8 = nncf" if runtime == "nncf" else row["how"]
        files.append(File("openvino" if runtime == "nncf" else runtime, f"optlang: {how}", path))
    return files


def by_study(name: str, folder: Path) -> list[File]:
    """The files of a study's front, as they are exported."""
    for item in (ROOT / "studies" / "real").iterdir():
        if item.is_file():
            shutil.copy(item, folder)
    optlang(folder, "run", f"{name}.opt", "--progress", "plain", into=folder / "run.txt")
    asked = "SELECT trial, runtime FROM front WHERE trial > 0 AND tie_of IS NULL"
    files = []
    for row in json.loads(optlang(folder, "sql", asked, "--format", "json")):
        runtime = row["runtime"].split(",")[0].rpartition(".")[2]
        maker = f"optlang: trial {row['trial']}, {runtime}"
        files.append(File(runtime, maker, exported(name, row["trial"], folder)))
    return files


def exported(name: str, trial: int, folder: Path) -> Path:
    """The file of a trial that a runtime loads."""
    out = folder / f"trial{trial}"
    optlang(folder, "export", name, str(trial), "--force", "-o", str(out))
    return next(item for item in sorted(out.rglob("model.*")) if item.suffix in (".onnx", ".xml"))


def optlang(folder: Path, *words: str, into: Path | None = None) -> str:
    """What a command prints; its log goes into a file."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(
        [sys.executable, "-m", "optlang", *words], cwd=folder, env=environment, capture_output=True, text=True,
        check=False,
    )
    if into is not None:
        into.write_text(done.stdout + done.stderr, encoding="utf-8")
        for line in done.stdout.splitlines():
            if "failed:" in line:
                print("optlang, " + " ".join(line.split())[:300], file=sys.stderr)
    if done.returncode:
        sys.exit(f"optlang {' '.join(words)}: {done.stderr or done.stdout}")
    return done.stdout


# ---- the meter, in a process of its own: a runtime, its files, and samples


def measure(runtime: str, files: Sequence[File], inputs: Path) -> None:
    """Let each file know its size and, by the meter's process, what by_hand/meter.py says.

    A file that does not run has nothing but its size; one of optlang's ends the program.
    """
    for item, found in zip(files, metered(runtime, files, inputs), strict=True):
        item.found = {"size": item.size}
        if "failed" not in found:
            item.found |= {"wrong": 1 - found["metric"], **found}
        elif item.maker.startswith("optlang"):
            sys.exit(f"{item.maker} does not run on {runtime}: {found['failed']}")
        else:
            print(f"{item.maker} does not run on {runtime}: {found['failed']}", file=sys.stderr)


def metered(runtime: str, files: Sequence[File], inputs: Path) -> list[dict[str, Any]]:
    """What the meter prints of each file. A file that ends the process of its runtime is looked for, and left out."""
    def found(some: Sequence[File]) -> list[dict[str, Any]] | int:
        done = process("meter.py", runtime, str(inputs), *(str(item.path) for item in some))
        return done.returncode or list(json.loads(done.stdout))

    first, *others = files
    whole = found(files)
    if isinstance(whole, list):
        return whole
    ends = {id(item): code for item in others if isinstance(code := found([first, item]), int)}
    rest = found([item for item in files if id(item) not in ends])
    if isinstance(rest, int):
        sys.exit(f"the meter ended with {rest} on {runtime}")
    left = iter(rest)
    return [
        {"failed": f"its process ends with {ends[id(item)]}"} if id(item) in ends else next(left) for item in files
    ]


# ---- comparing


@dataclass(frozen=True, slots=True)
class Table:
    """One of the two tables of the page: what it is called there, what the meter says of answers, and how it is shown.

    `least` is a figure of answers of which less is better, with the factor and the difference that still count as no
    worse.
    """

    mark: str
    heads: Sequence[str]
    least: str
    factor: float
    slack: float
    shown: Callable[[Mapping[str, float]], tuple[str, ...]]


RANDOM = Table(
    "by_hand", ("MB", "ms", "error", "agreement"), "error", FARTHER, 0.01,
    lambda found: (
        f"{found['size'] / 1e6:.2f}", f"{found['latency']:.2f}", f"{100 * found['error']:.1f} %",
        f"{100 * found['agreement']:.1f} %",
    ),
)
TRAINED = Table(
    "by_hand studies", ("MB", "× faster", "right"), "wrong", 1.0, POINT,
    lambda found: (f"{found['size'] / 1e6:.3f}", f"{found['times']:.2f}", f"{100 * found['metric']:.2f} %"),
)


def no_worse(table: Table, mine: File, other: File) -> bool:
    """Whether a file is no larger, no slower and its answers no worse, but for what measuring leaves."""
    bounds = (("size", LARGER, 0.0), ("latency", SLOWER, 0.0), (table.least, table.factor, table.slack))
    return all(mine.found[name] <= bound * other.found[name] + slack for name, bound, slack in bounds)


def compared(table: Table, name: str, files: Sequence[File]) -> list[tuple[str, ...]]:
    """A line for each file by hand: it, the file of optlang's that is nearest to no worse, and whether it is.

    A file that is as large as the float one has nothing in 8 bits, and no line.
    """
    first, *others = files
    own = [item for item in others if item.maker.startswith("optlang")]
    lines = []
    for item in others:
        if item in own or item.size > SMALLER * first.size:
            continue
        if len(item.found) == 1:
            nothing = ("–",) * (len(table.heads) - 1)
            lines.append((name, item.runtime, item.maker, f"{item.size / 1e6:.2f}", *nothing, "–", "–", *nothing,
                          "does not run"))
            continue
        good = [mine for mine in own if no_worse(table, mine, item)]
        best = min(good or own, key=lambda mine: excess(table, mine, item), default=None)
        shown = table.shown(best.found) if best else ("–",) * len(table.heads)
        lines.append((name, item.runtime, item.maker, *table.shown(item.found), best.maker[9:] if best else "–",
                      *shown, "yes" if good else "no"))
    return lines


def excess(table: Table, mine: File, other: File) -> float:
    """How much larger plus how much slower; worse answers count where they are worse by more than a little."""
    farther = max(0.0, mine.found[table.least] - table.factor * other.found[table.least] - table.slack)
    return sum(max(1.0, mine.found[name] / other.found[name]) for name in ("size", "latency")) + 10 * farther + (
        1e-3 * mine.found["latency"] / other.found["latency"]
    )


def described(table: Table, name: str, item: File) -> str:
    """A file as a line."""
    shown = table.shown(item.found) if len(item.found) > 1 else (str(item.size), "does not run")
    return "    " + "  ".join((name, item.runtime, item.maker.ljust(24), *shown))


def write(table: Table, name: str, lines: Iterable[Sequence[str]]) -> None:
    """Put the lines of a model into the table of the page, in place of those it had."""
    begin, end = f"<!-- measured {table.mark}: begin -->", f"<!-- measured {table.mark}: end -->"
    head, rest = PAGE.read_text(encoding="utf-8").split(begin)
    old, tail = rest.split(end)
    rows: dict[str, list[str]] = {}
    for line in old.strip().splitlines()[2:]:
        rows.setdefault(line.split("|")[1].strip(), []).append(line)
    rows[name] = [f"| {' | '.join(line)} |" for line in lines]
    columns = ("model", "runtime", "by hand", *table.heads, "optlang", *table.heads, "no worse")
    marks = {"model", "runtime", "by hand", "optlang", "no worse"}
    text = "\n".join([
        f"| {' | '.join(columns)} |", f"|{'|'.join('---' if item in marks else '--:' for item in columns)}|",
        *(line for item in (*MODELS, *STUDIES) for line in rows.get(item, ())),
    ])
    PAGE.write_text(f"{head}{begin}\n{text}\n{end}{tail}", encoding="utf-8")


def child(program: str, *words: str) -> str:
    """What a program of by_hand/ prints."""
    done = process(program, *words)
    if done.returncode:
        sys.exit(f"{program} {' '.join(words)} ended with {done.returncode}")
    return done.stdout


def process(program: str, *words: str) -> subprocess.CompletedProcess[str]:
    """A program of by_hand/ that has ended, one thread for whatever runs in it."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "NNCF_CI": "1"}
    return subprocess.run(
        [sys.executable, str(FOLDER / program), *words], stdout=subprocess.PIPE, text=True, check=False,
        env=environment,
    )


if __name__ == "__main__":
    sys.exit(main())
