"""Which run a command goes on with, and that what it offers instead works."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from optlang.interfaces import OptlangError
from optlang.plan.model import Plan
from optlang.run.choose_run import choose_run
from optlang.store.reader import connect
from optlang.store.writer import Writer
from tests.store.example_study import end, finish, session, start

Make = Callable[..., Plan]


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Writer]:
    monkeypatch.setattr(sys, "argv", ["optlang"])
    monkeypatch.setenv("PATH", "")
    (tmp_path / "my results").mkdir()
    with Writer(tmp_path / "my results" / "x.duckdb") as found:
        yield found


def ran(store: Writer, run: str, number: int, plan: Plan) -> None:
    """A run of the study with its baseline."""
    inputs = {item.name: item.value for item in plan.inputs}
    store.record(session(run, number, plan, inputs=inputs, seed=plan.search.seed))
    store.record(start(run, 0, number=number))
    store.record(end(run, 0))
    store.record(finish(run, number))


def test_a_changed_study_says_how_to_join_the_old_run_and_that_works_later_too(plan_of: Make, store: Writer) -> None:
    old = plan_of("steps { maybe static }")
    ran(store, "a", 0, old)
    new = plan_of("steps { maybe dynamic }")
    run, (note,) = choose_run(store, new, "auto")
    assert run != "a"
    assert "a new run, since steps" in note
    joins = re.search(r"add --join (\w+)\)", note)
    assert joins is not None
    # The new run has its baseline now: it is the newest one, and what was offered still means the other.
    ran(store, run, 1, new)
    assert choose_run(store, new, "auto", joins[1])[0] == "a"
    assert choose_run(store, new, "continue") == (run, [])
    assert choose_run(store, new, "auto") == (run, [])


@pytest.mark.parametrize("part", ["data", "model", "baseline", "targets"])
def test_what_cannot_be_joined_is_not_offered(plan_of: Make, store: Writer, part: str) -> None:
    old = plan_of("steps { maybe static }")
    ran(store, "a", 0, old)
    if part == "targets":
        new = plan_of("steps { maybe static }", target="target here { threads = 2; runtime = onnxruntime }")
    elif part == "baseline":
        new = plan_of("baseline { finetune { epochs = 2 } }\n  steps { maybe static }")
    else:
        factory = getattr(old, part)
        new = old.model_copy(update={part: factory.model_copy(update={"arguments": {"seed": 3}})})
    run, (note,) = choose_run(store, new, "auto")
    assert run != "a"
    assert part in note
    assert "--continue" not in note
    assert "--join" not in note
    for mode, joined in (("continue", None), ("auto", "a")):
        with pytest.raises(OptlangError, match="its baseline no longer holds"):
            choose_run(store, new, mode, joined)
    shown = re.search(r"`(optlang sql .*)`", note)
    assert shown is not None
    sql, *all_runs, option, db = shlex.split(shown[1])[2:]
    assert (all_runs, option, db) == (["--all-runs"], "--db", str(store.db))
    assert store.sync(final=True)
    with connect([store.db], all_runs=True) as reader:
        assert [row[1] for row in reader.query(sql).rows] == ["a"]


def test_a_run_that_is_not_there_cannot_be_joined(plan_of: Make, store: Writer) -> None:
    plan = plan_of("steps { maybe static }")
    with pytest.raises(OptlangError, match="there is no run zz of `sample`") as caught:
        choose_run(store, plan, "auto", "zz")
    assert caught.value.help == "it has none: leave --join out"
    ran(store, "a", 0, plan)
    ran(store, "b", 1, plan_of("steps { maybe dynamic }"))
    with pytest.raises(OptlangError, match="no run zz") as caught:
        choose_run(store, plan, "auto", "zz")
    assert caught.value.help == "its runs, oldest first, are a, b"


def test_a_run_that_another_version_stored_stays_and_another_begins(plan_of: Make, store: Writer) -> None:
    old, new = plan_of("steps { maybe static }"), plan_of("steps { maybe dynamic }")
    stored = {**old.model_dump(mode="json"), "bits": 8}
    store.record({**session("a", 0, old), "plan": stored})
    store.record(start("a", 0))
    store.record(end("a", 0))
    run, notes = choose_run(store, new, "auto")
    assert run != "a"
    assert notes == ["a new run, since another version of optlang stored the last one, a"]
    for mode, join in (("continue", None), ("auto", "a")):
        with pytest.raises(OptlangError, match="another version of optlang stored it"):
            choose_run(store, new, mode, join)
