"""How fast the language answers: to parse, check and lay out long studies, in an editor, and to begin.

    python benchmarks/language.py

Prints medians in milliseconds. The studies have 100, 1,000 and 10,000 lines: the steps of a digit classifier's study,
again and again, with fixed settings but for one choice in a hundred lines, as generated files look. `offer` and `hover`
are what the language server does for one completion and one hover at the end of the steps of an open file that was
checked, `name` is renaming its last step. `begin` is a new process that checks the shortest of them, with the saved
table of the grammar and without. Then studies that have very many combinations are checked, and their space is counted
as `plan` does it (as far as it can be), and drawn from once.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from optlang.analysis.load import load
from optlang.analysis.modules.library import library
from optlang.editor.document import Documents
from optlang.plan.domains import every_value
from optlang.space.space import Space
from optlang.syntax.format import format_text
from optlang.syntax.parse import TABLE, parse
from optlang.syntax.source import Source

HEAD = """\
optlang 1

study long {
  model cnn    = zoo.digits_cnn(width = 32)
  data  digits = zoo.digits(seed = 0)

  target laptop {
    threads = 1
    runtime = onnxruntime
  }

  steps {
"""
FOOT = """\
  }

  minimize latency, size
  maximize accuracy

  search { trials = 4 }
}
"""
ROUND = """\
    prune{n} = channels {{
      ratio = {ratio}%
      scope = layer
    }}
    recover{n} = finetune {{
      epochs   = 3
      lr       = 1e-3
      schedule = cosine
    }}
"""
CHOICE = """\
    way{n} in {{
      none
      finetune {{ epochs in [1, 2] }}
    }}
"""


def study(lines: int) -> str:
    """A study of about so many lines."""
    parts, count, n = [HEAD], 25, 0
    while count < lines:
        n += 1
        part = CHOICE if n % 12 == 0 else ROUND
        parts.append(part.format(n=n, ratio=10 + n % 50))
        count += part.count("\n")
    return "".join(parts) + FOOT


def _steps(steps: str, rules: str = "") -> str:
    head = HEAD.replace("runtime = onnxruntime", "runtime in { onnxruntime; openvino; eager }")
    return head + steps + FOOT.replace("  }\n", f"  }}\n{rules}", 1)


def _each(count: int, line: str) -> str:
    return "".join(f"    {line.replace('#', str(number))}\n" for number in range(count))


def _nested(depth: int) -> str:
    opened = "".join(f"    g{level} in {{ none; x{level} = {{ finetune\n" for level in range(depth))
    return opened + "    magnitude\n" + "    } }\n" * depth


def _pipelines(depth: int) -> str:
    parts = ["pipeline p0 {\n  steps { maybe finetune; maybe magnitude }\n}\n"]
    parts += [
        f"pipeline p{level} {{\n  steps {{ maybe a = p{level - 1}; maybe b = p{level - 1} }}\n}}\n"
        for level in range(1, depth)
    ]
    return _steps(f"    p{depth - 1}\n").replace("study long", "".join(parts) + "study long", 1)


WIDE = {
    "100 choices of four that clash": _steps(
        _each(100, "c# in { m# = magnitude; s# = static; q# = qat; f# = finetune }")
    ),
    "100 choices of four or none": _steps(
        _each(100, "c# in { none; y# = dynamic; s# = static; w# = weight_only; q# = qat }")
    ),
    "100 choices and what depends on them": _steps(_each(
        100, "c# in { none; m# = magnitude; s# = static; f# = finetune { epochs in [1, 2] } }\n"
        "    t# = train { epochs = f#.epochs + 1 } when c# == f#"
    )),
    "300 maybes": _steps(_each(150, "maybe s# = static; maybe f# = finetune")),
    "choices 20 deep": _steps(_nested(20)),
    "200 forbids": _steps(
        _each(200, "maybe m# = finetune { epochs in [1, 2] }"),
        "".join(f"  forbid m{n} and m{(n * 7 + 3) % 200} and not m{(n * 5 + 1) % 200}\n" for n in range(2, 200)),
    ),
    "20 orders of seven": _steps(
        _each(20, "t# in any order { a# = finetune; b# = finetune; c# = finetune; d# = finetune; e# = finetune; "
              "f# = finetune; m# = magnitude }")
    ),
    "pipelines 6 deep": _pipelines(6),
}
"""Studies with more combinations than can ever be listed, each by what it has."""


def timed(work: Callable[[], object], repeats: int) -> float:
    """The median time of a call in milliseconds, after one that is not counted."""
    work()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times)


def edited(path: Path, text: str, repeats: int) -> list[float]:
    """The median times in milliseconds of a completion, a hover and a rename near the end of an open file."""
    documents = Documents()
    document = documents.put(path, text)
    documents.check(document)
    within = text.rindex("epochs")
    assert any(offer.label == "epochs" for offer in documents.offers(document, within)[1])
    assert documents.described(document, within) is not None
    label = text.rindex("recover")
    return [
        timed(lambda: documents.offers(document, within), repeats),
        timed(lambda: documents.described(document, within), repeats),
        timed(lambda: documents.rename(document, label, "afterwards"), repeats),
    ]


def begun(path: Path, repeats: int, environment: dict[str, str]) -> float:
    """The median time in milliseconds of a process that checks `path`."""
    command = [sys.executable, "-m", "optlang", "check", str(path)]
    return timed(lambda: subprocess.run(command, env=environment, check=True, capture_output=True), repeats)


def main() -> None:
    """Print a line a size, then the start."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    library()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "long.opt"
        print(f"{'lines':>8} {'parse':>9} {'check':>9} {'fmt':>9} {'offer':>9} {'hover':>9} {'name':>9}  ms")
        for lines in (10_000, 1_000, 100):
            text = study(lines)
            path.write_text(text, encoding="utf-8")
            source = Source("long.opt", text)
            assert not load(path).failed
            figures = [
                timed(lambda source=source: parse(source), repeats), timed(lambda: load(path), repeats),
                timed(lambda source=source: format_text(parse(source)), repeats), *edited(path, text, repeats),
            ]
            print(f"{text.count(chr(10)):>8,} " + " ".join(f"{figure:9.1f}" for figure in figures))
        print(f"\n{'':38} {'check':>9} {'count':>9} {'draw':>9}  ms")
        for name, text in WIDE.items():
            path.write_text(text, encoding="utf-8")
            plan = load(path).plan
            assert plan is not None, name
            space = Space(plan)
            generator = random.Random(0)
            figures = [
                timed(lambda: load(path), repeats), timed(lambda plan=plan: Space(plan).size(), repeats),
                timed(lambda space=space, generator=generator: space.draw(
                    lambda _, domain: generator.choice(list(every_value(domain)))
                ), repeats),
            ]
            print(f"{name:<38} " + " ".join(f"{figure:9.1f}" for figure in figures))
        path.write_text(study(100), encoding="utf-8")
        environment = dict(os.environ, PYTHONDONTWRITEBYTECODE="1")
        saved = begun(path, repeats, environment)
        aside = TABLE.with_suffix(".aside")
        TABLE.rename(aside)
        try:
            made = begun(path, repeats, environment)
        finally:
            aside.rename(TABLE)
        print(f"   begin {saved:9.1f} with the saved table, {made:.1f} without  ms")


if __name__ == "__main__":
    main()
