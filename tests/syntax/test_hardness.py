"""What no person would write is answered with a diagnostic, in a moment and in little memory, in a child process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from optlang.analysis.load import load
from optlang.diagnostics.model import MOST

# What a child may allocate is limited by the system, which Windows does not do in this way.
resource = pytest.importorskip("resource")

pytestmark = pytest.mark.slow

SECONDS = 10
"""Generous: each case takes well under one on a machine that is not busy."""
MEMORY = 700 * 2**20
"""Bytes of address space; the interpreter with all that `check` imports takes a third of it."""

READ = """
import json, pathlib, resource, sys, time
resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[1]),) * 2)
from optlang.analysis.load import load
from optlang.diagnostics.render import render
for path in map(pathlib.Path, sys.argv[2:]):
    began = time.monotonic()
    found = load(path)
    for style in ("full", "concise", "json", "github"):
        render(found.diagnostics, found.texts, style)
    codes = sorted({item.code for item in found.diagnostics if item.severity == "error"})
    print(json.dumps([path.stem, codes, len(found.diagnostics), time.monotonic() - began]), flush=True)
"""


def study(steps: str, above: str = "", members: str = "") -> str:
    return f"""optlang 1
{above}
study s {{
  model net = zoo.digits_cnn(width = 8)
  data seen = zoo.digits(seed = 0)
  target here {{ device = cpu; runtime in {{ eager; onnxruntime }} }}
{members}
  steps {{
{steps}
  }}
  minimize size
  search {{ trials = 10 }}
}}
"""


def pipelines(count: int, body: str) -> str:
    parts = ["pipeline p0 {\n steps { magnitude }\n}"]
    parts += [f"pipeline p{i + 1} {{\n steps {{ {body.format(i=i)} }}\n}}" for i in range(count)]
    return "\n".join(parts)


def doubled(first: str, again: str, count: int = 60) -> str:
    return "\n".join([f"let a0 = {first}", *(f"let a{i + 1} = {again.format(i=i)}" for i in range(count))])


HEAD = "optlang 1\n"
WIDE = "1\n" * 500_000
CASES: dict[str, tuple[str | bytes, str]] = {
    "utf16": (HEAD.encode("utf-16"), "E105"),
    "latin": (b'optlang 1\nlet a = "caf\xe9"\n', "E105"),
    "surrogate": (b'optlang 1\nlet a = "\xed\xa0\x80"\n', "E105"),
    "nul": (HEAD + 'let a = "\0"\n', "E105"),
    "nuls": (b"\0" * 1_000_000, "E105"),
    "escape": (HEAD + "# \x1b[31m\n", "E105"),
    "carriage": (HEAD + "# hidden\rlet a = 1\n", "E105"),
    "direction_in_text": (HEAD + 'let a = "x\u202ey"\n', "E105"),
    "direction_in_comment": (HEAD + "# x\u2066y\n", "E105"),
    "mark_in_the_middle": (HEAD + "let \ufeffa = 1\n", "E103"),
    "separator": ("optlang 1\u2028let a = 1\n", "E103"),
    "too_large": (HEAD + "# x\n" * 300_000, "E105"),
    "long_text": (HEAD + 'let a = "' + "x" * 1_000_000, "E105"),
    "long_line": (HEAD + "let a = " + "1+" * 500_000, "E105"),
    "many_lines": (HEAD + WIDE, "E105"),
    "empty_lines": (HEAD + "\n" * 1_000_000, "E105"),
    "garbage": (HEAD + "$\n" * 300_000, "E103"),
    "escapes": (HEAD + 'let a = "' + "\\q" * 9000 + '"\n', "E103"),
    "statements": (HEAD + "let a=1\n" * 100_000, "E105"),
    "round": (HEAD + "let a = " + "(\n" * 100_000, "E105"),
    "square": (HEAD + "let a = " + "[\n" * 100_000, "E105"),
    "curly": (HEAD + "a = {\n" * 50_000, "E105"),
    "sum": (HEAD + "let a = " + "1 +\n" * 40_000 + "1\n", "E105"),
    "not": (HEAD + "let a = " + "not\n" * 40_000 + "true\n", "E105"),
    "minus": (HEAD + "let a = " + "- " * 9_000 + "1\n", "E105"),
    "mistakes": (HEAD + "let = 1\n" * 20_000, "E101"),
    "unknown_steps": (study("\n".join(f"foo{i}" for i in range(5_000))), "E105"),
    "same_names": (HEAD + "let a = 1\n" * 20_000, "E105"),
    "exponent": (HEAD + "let a = 1e999999999999999999999\n", "E103"),
    "digits": (study("static { samples in 1 .. " + "9" * 15_000 + " }"), "E103"),
    "huge_range": (study("static { samples in 1 .. 1e999999999 }"), "E103"),
    "huge_count": (study("static { samples in 1 .. 1000000000000000000 }"), "E406"),
    "tiny_step": (study("magnitude { sparsity in 0% .. 100% step 0.0000000000000001% }"), "E403"),
    "product": (study("static { samples = " + "*".join(["1e9"] * 80) + " }"), "E302"),
    "by_zero": (study("magnitude { sparsity = 1 / z }", members="let z = 0"), "E302"),
    "rounds": (study("repeat r in 0 .. 1000000000000000000 { magnitude }"), "E507"),
    "values": (study("magnitude { sparsity in {" + ",\n".join(f"0.{i:06}" for i in range(1, 60_000)) + "} }"), "E105"),
    "branches": (study("b in {\n" + "\n".join(f"x{i} = magnitude" for i in range(10_000)) + "\n}"), "E105"),
    "twice": (study("x = p40", pipelines(12, "a = p{i}; b = p{i}")), "E105"),
    "orders": (study("x = p12", pipelines(12, "o in any order {{ a = p{i}; b = p{i} }}")), "E105"),
    "pipelines_deep": (HEAD + pipelines(400, "a = p{i}"), "E105"),
    "groups_deep": (HEAD + "".join(f"params g{i} {{ with g{i + 1} }}\n" for i in range(2_000)), "E105"),
    "groups_in_a_circle": (
        HEAD + "".join(f"params g{i} {{ with g{(i + 1) % 100} }}\n" for i in range(100)), "E204"
    ),
    "groups_of_groups": (HEAD + "params g0 { param x: int = 1 }\n" + "".join(
        f"params g{i} {{ with {', '.join(f'g{j}' for j in range(i))} }}\n" for i in range(1, 120)
    ), "E202"),
    "double_conditions": (study("maybe q = magnitude\nmagnitude when a60", members=doubled("q", "a{i} and a{i}")),
                          "E105"),
    "double_lists": (study("magnitude { keep = a60 }", members=doubled('["x"]', "[a{i}, a{i}]")), "E105"),
    "double_steps": (study("a30", members=doubled("{ x = magnitude }", "{{ x{i} = a{i}; y{i} = a{i} }}", 30)), "E105"),
    "circle_of_steps": (study("a1", members="let a0 = { x = a1 }\nlet a1 = { y = a0 }"), "E105"),
    "imports_itself": (HEAD + "import imports_itself\n", "E204"),
    "imports_a_pipe": (HEAD + "import pipe\n", "E203"),
    "imports_a_folder": (HEAD + "import folder\n", "E203"),
    "imports_a_loop": (HEAD + "import loop\n", "E203"),
    "imports_a_link_out": (HEAD + "import outside\n", "E203"),
    "by_zero_in_a_condition": (study("static when 1 / z > 2", members="let z = 0"), "E302"),
    "imports_too_deep": (HEAD + "import m0\n", "E105"),
    "imports_too_large": (HEAD + "import sparse\n", "E105"),
    "python_outside": (HEAD + 'import python "../x.py" as m\n', "E703"),
    "python_long_name": (HEAD + f'import python "{"x" * 5000}.py" as m\n', "E203"),
    "python_large": (HEAD + 'import python "large.py" as m\n', "E701"),
    "python_coding": (HEAD + 'import python "coding.py" as m\n', "E701"),
    "python_deep": (HEAD + 'technique t { calls "deep.py:f" }\n', "E701"),
    "python_nul": (HEAD + 'technique t { calls "nul.py:f" }\n', "E701"),
}


@pytest.fixture(scope="module")
def read(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[list[str], int, float]]:
    """What each case came to: its codes, how many problems were told, and the seconds that it took."""
    folder = tmp_path_factory.mktemp("hard")
    os.mkfifo(folder / "pipe.opt")
    (folder / "folder.opt").mkdir()
    (folder / "loop.opt").symlink_to("loop.opt")
    (tmp_path_factory.mktemp("elsewhere") / "it.opt").write_text(HEAD)
    (folder / "outside.opt").symlink_to(next(folder.parent.glob("elsewhere*/it.opt")))
    for index in range(200):
        (folder / f"m{index}.opt").write_text(f"optlang 1\nimport m{index + 1}\n")
    for name in ("sparse.opt", "large.py"):
        with (folder / name).open("wb") as file:
            file.truncate(2**30)
    (folder / "coding.py").write_bytes(b"# -*- coding: klingon -*-\ndef f(): pass\n")
    (folder / "deep.py").write_text("x = " + "-" * 100_000 + "1\n")
    (folder / "nul.py").write_bytes(b"def f(): pass\n\0\n")
    for name, (text, _) in CASES.items():
        (folder / f"{name}.opt").write_bytes(text if isinstance(text, bytes) else text.encode())
    command = [sys.executable, "-c", READ, str(MEMORY), *(str(folder / f"{name}.opt") for name in CASES)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS * 12, check=False)
    rows = [json.loads(row) for row in done.stdout.splitlines()]
    assert done.returncode == 0, (f"after {len(rows)} cases", done.stderr[-2000:])
    return {name: (codes, count, seconds) for name, codes, count, seconds in rows}


@pytest.mark.parametrize("name", CASES)
def test_it_is_answered(name: str, read: dict[str, tuple[list[str], int, float]]) -> None:
    codes, count, seconds = read[name]
    assert CASES[name][1] in codes
    assert count <= 105
    assert seconds < SECONDS


@pytest.mark.parametrize("command", [["check"], ["fmt"], ["check", "--fix"], ["plan"]], ids=" ".join)
@pytest.mark.parametrize("name", ["pipe.opt", "x" * 5000])
def test_what_is_no_file_is_refused(command: list[str], name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.opt")
    done = subprocess.run(
        [sys.executable, "-m", "optlang", *command, name], cwd=tmp_path, capture_output=True, text=True, timeout=30,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}, check=False,
    )
    assert done.returncode in (2, 3)
    assert done.stderr.startswith("error: ")


def test_the_warnings_left_out_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "many.opt"
    path.write_text(study("magnitude", members="\n".join(f"let a{index} = 1" for index in range(137))))
    warnings = load(path).diagnostics
    assert len(warnings) == MOST + 1
    kept = sum("left out" not in item.message for item in warnings)
    assert kept == MOST
    assert warnings[-1].message == "38 more warnings, left out here"
