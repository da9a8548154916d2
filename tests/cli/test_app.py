"""The command line: manners, exit codes, and nothing heavy on the way to an answer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from optlang.cli.app import command
from optlang.store.writer import Writer
from tests.store.example_study import search_events

ROOT = Path(__file__).parents[2]
DIGITS = ROOT / "studies" / "digits.opt"
HEAVY = ("torch", "numpy", "onnx", "onnxruntime", "openvino", "sklearn", "optuna")

SIX_MISTAKES = """\
optlang 1

study six "six mistakes" {
  model net  = zoo.digits_cn(width = 8)
  data  seen = zoo.digits(seed = 0)
  target here { runtime = onnxruntime; threads = 1ms }
  steps {
    channels { ratio = 10% .. 50% }
    precision in { none; statc }
    finetune { epoch = 3 }
  }
  require accurcy >= 90%
  minimize size
}
"""


@pytest.fixture
def db(tmp_path: Path) -> Path:
    path = tmp_path / "optlang.duckdb"
    with Writer(path) as store:
        for event in search_events(6):
            store.record(event)
    return path


def loaded_by(*arguments: str, cwd: Path) -> set[str]:
    """The heavy modules that a command loads."""
    program = textwrap.dedent(f"""
        import sys
        from optlang.cli.app import command
        command({list(arguments)!r})
        print("loaded:", *[name for name in {HEAVY!r} if name in sys.modules])
    """)
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=cwd, capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    return set(done.stdout.splitlines()[-1].removeprefix("loaded:").split())


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"], ["run", "--help"], ["check", str(DIGITS)], ["plan", str(DIGITS)], ["plan", str(DIGITS), "--json"],
        ["explain", "E201"], ["explain", "static"], ["explain"], ["doctor"],
        ["--version"], ["list", "techniques"],
    ],
    ids=" ".join,
)
def test_nothing_heavy_is_loaded_to_answer(arguments: list[str], tmp_path: Path) -> None:
    assert loaded_by(*arguments, cwd=tmp_path) == set()


@pytest.mark.parametrize("arguments", [
    ["sql", "FROM front"], ["front"], ["tradeoffs"], ["cache", "size", "--home", "."],
    ["cache", "verify", "--home", "."], ["cache", "prune", "--to", "1GB", "--home", "."],
], ids=" ".join)
def test_results_are_read_without_torch(arguments: list[str], db: Path) -> None:
    # DuckDB imports numpy by itself where it is installed.
    assert loaded_by(*arguments, cwd=db.parent) <= {"numpy"}


def test_check_names_six_mistakes_each_at_its_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "six.opt"
    path.write_text(SIX_MISTAKES)
    assert command(["check", str(path), "--format", "json"]) == 1
    found = json.loads(capsys.readouterr().out)
    lines = SIX_MISTAKES.splitlines()
    places = [(item["code"], lines[item["line"] - 1][item["column"] - 1:item["end_column"] - 1]) for item in found]
    assert places == [
        ("E201", "zoo.digits_cn"), ("E301", "1ms"), ("E302", "10% .. 50%"), ("E201", "statc"), ("E205", "epoch"),
        ("E602", "accurcy"),
    ]
    assert all(item["severity"] == "error" and item["file"] == str(path) and item["message"] for item in found)
    assert {"did you mean `static`?", "did you mean `epochs`?"} <= {item["help"] for item in found}


def test_check_is_quiet_about_a_right_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["check", str(DIGITS)]) == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "no problems" in captured.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["check", "absent.opt"], "absent.opt"),
        (["chek"], "check"),
        (["run"], "FILE"),
        (["run", str(DIGITS), "--timeout", "10"], "10min"),
        (["run", str(DIGITS), "--set", "epochs"], "epochs=5"),
        (["run", str(DIGITS), "--continue", "--new"], "exclude"),
        (["explain", "E210"], "E201"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_wrong_use_is_exit_code_2_with_a_way_out(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert words in captured.err


@pytest.mark.parametrize(
    ("value", "code"), [("epochs=99", "E304"), ("epochs=2ms", "E304"), ("epoch=3", "E201")]
)
def test_a_wrong_input_is_a_problem_of_the_study(
    value: str, code: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(["plan", str(DIGITS), "--set", value]) == 1
    assert code in capsys.readouterr().err


def test_a_database_that_is_not_there_is_exit_code_3(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["sql", "FROM front", "--db", str(tmp_path / "none.duckdb")]) == 3
    assert "optlang run" in capsys.readouterr().err


def test_plan_says_what_a_study_would_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["plan", str(DIGITS)]) == 0
    text = capsys.readouterr().out
    for words in ("rounds", "10%", "1,700", "eager", "dynamic", "static", "lr", "trial"):
        assert words in text, words


def test_plan_as_json_is_the_plan(capsys: pytest.CaptureFixture[str]) -> None:
    from optlang.analysis.load import load
    from optlang.plan.model import Plan

    assert command(["plan", str(DIGITS), "--json"]) == 0
    assert Plan.model_validate_json(capsys.readouterr().out) == load(DIGITS).plan


@pytest.mark.parametrize("shown", ["csv", "json", "jsonl", "markdown", "table"])
def test_views_come_in_every_format(shown: str, db: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["front"], ["tradeoffs"], ["sql", "SELECT trial FROM results"]):
        assert command([*arguments, "--db", str(db), "--format", shown]) == 0
    out = capsys.readouterr().out
    assert "trial" in out
    if shown == "json":
        decoder = json.JSONDecoder()
        rows, _ = decoder.raw_decode(out)
        assert isinstance(rows[0]["trial"], int)


@pytest.mark.parametrize("shown", ["front", "tradeoffs"])
def test_tables_fit_80_columns_unless_all_is_asked_for(
    shown: str, db: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command([shown, "--db", str(db)]) == 0
    text = capsys.readouterr().out
    assert max(len(line) for line in text.splitlines() if not line.startswith("Next: ")) <= 80
    assert command([shown, "--db", str(db), "--wide"]) == 0
    wide = capsys.readouterr().out
    assert ("95 % interval" in wide) == (shown == "front")
    assert max(map(len, wide.splitlines())) > 80


def test_a_reader_that_has_seen_enough_is_no_error(db: Path) -> None:
    program = f"{sys.executable} -m optlang sql 'FROM range(1000000)' --format csv --db {db} | head -1"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", program], capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.stdout == "range\n"
    assert done.stderr == ""


def test_the_python_api_is_what_it_says() -> None:
    import optlang

    assert optlang.__all__ == sorted(optlang.__all__)
    for name in optlang.__all__:
        assert getattr(optlang, name) is not None
    with pytest.raises(AttributeError):
        _ = optlang.absent  # type: ignore[attr-defined]
