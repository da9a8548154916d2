"""Wrong use of the command line is answered as everything else is: thing, reason, way out."""

from __future__ import annotations

import pytest

from optlang.cli.app import command


@pytest.mark.parametrize(("arguments", "expected"), [
    ("--nope", "`optlang` has no option --nope\n  = help: `optlang --help` says what it takes"),
    ("frnt", "`optlang` has no command frnt\n  = help: did you mean `front`?"),
    ("front --formt csv", "`optlang front` has no option --formt\n  = help: did you mean `--format`?"),
    ("front --format cvs", "--format: there is no `cvs`\n  = help: did you mean `csv`?"),
    (
        "front --format xyz",
        "--format: there is no `xyz`\n  = help: it takes table, csv, json, jsonl, markdown",
    ),
    ("run", "`optlang run` needs FILE\n  = help: FILE: A study, for example studies/digits.opt"),
    ("run a.opt --trials many", "--trials: that is no whole number\n  = help: --trials: Searched trials in all; "
                                "baseline and ladder are not counted"),
    ("run a.opt --workers 0", "--workers: the least is 1\n  = help: --workers: Trials that are trained at the same "
                              "time on this machine, no cluster"),
    ("explain a b", "`optlang explain` takes fewer arguments: b is too many\n"
                    "  = help: `optlang explain --help` says what it takes"),
    ("front --db", "--db needs a value\n  = help: `optlang --help` says what it takes"),
    ("front --wide=3", "--wide takes no value\n  = help: `optlang --help` says what it takes"),
    ("cache lst", "`optlang cache` has no command lst\n  = help: did you mean `list`?"),
    ("list modls", "KIND: there is no `modls`\n  = help: did you mean `models`?"),
])
def test_wrong_use_is_said_in_the_voice_of_all_errors(
    arguments: str, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(arguments.split()) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == f"error: {expected}\n"


def test_without_arguments_the_help_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert command([]) == 2
    captured = capsys.readouterr()
    assert "Usage: optlang" in captured.out + captured.err
    assert "error:" not in captured.err
