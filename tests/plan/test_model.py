"""The plans of the right studies: stored as JSON, lossless, and with a meaning that layout does not change.

`OPTLANG_WRITE_FIXTURES=1` writes the stored plans anew: read what changed before you keep it.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from optlang.analysis.load import load
from optlang.plan.model import Plan

OK = Path(__file__).parents[1] / "fixtures" / "ok"
STUDIES = sorted(path for path in OK.glob("*.opt") if "\nstudy " in path.read_text(encoding="utf-8"))
DIGITS = (Path(__file__).parents[2] / "studies" / "digits.opt").read_text(encoding="utf-8")


def plan_of(path: Path) -> Plan:
    plan = load(path).plan
    assert plan is not None
    return plan


def written(tmp_path: Path, text: str) -> Plan:
    path = tmp_path / "study.opt"
    path.write_text(text, encoding="utf-8")
    return plan_of(path)


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_the_plan_is_the_stored_one(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(OK)
    text = json.dumps(plan_of(Path(path.name)).model_dump(mode="json", exclude={"metrics"}), indent=1) + "\n"
    stored = path.with_suffix(".json")
    if os.environ.get("OPTLANG_WRITE_FIXTURES"):
        stored.write_text(text, encoding="utf-8")
    assert text == stored.read_text(encoding="utf-8")


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_json_and_back_loses_nothing(path: Path) -> None:
    plan = plan_of(path)
    again = Plan.model_validate_json(plan.model_dump_json())
    assert again == plan
    assert again.meaning == plan.meaning


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_conditions_name_earlier_knobs_only(path: Path) -> None:
    from optlang.space.combinations import deciding

    before: set[str] = set()
    for knob in plan_of(path).knobs:
        assert deciding(knob) <= before
        before.add(knob.path)


def test_comments_and_layout_mean_nothing(tmp_path: Path) -> None:
    bare = re.sub(r"\s*#[^\n]*", "", DIGITS)
    wide = re.sub(r"\n +", "\n        ", bare).replace("; ", "\n  ")
    meanings = {written(tmp_path, text).meaning for text in (DIGITS, bare, wide, DIGITS.replace("\n", "\r\n"))}
    assert len(meanings) == 1


# Every number and every name that a study fixes, with another that could stand there.
VALUES = {
    "width = 32": "width = 16", "zoo.digits(seed = 0)": "zoo.digits(seed = 1)", "epochs = 20": "epochs = 21",
    "3e-3": "4e-3", "threads = 1": "threads = 2", "batch   = 1": "batch   = 2", "{basic, all}": "{basic, extended}",
    "0 .. 3": "0 .. 4", "10% .. 50%": "20% .. 50%", "{layer, global}": "[layer, global]", "1e-4 ..": "2e-4 ..",
    "[64, 128, 256]": "[64, 128, 512]", "rounds >= 3": "rounds >= 2", "- 4%": "- 1%", "2ms": "3ms",
    "minimize latency": "minimize latency.p90", "startup = 12": "startup = 13", "seed    = 7": "seed    = 8",
    "= 3 \"epochs": "= 4 \"epochs", "    openvino\n": "",
}


@pytest.mark.parametrize("old", VALUES)
def test_every_value_counts(old: str, tmp_path: Path) -> None:
    assert old in DIGITS
    assert written(tmp_path, DIGITS.replace(old, VALUES[old])).meaning != written(tmp_path, DIGITS).meaning


@pytest.mark.parametrize(("old", "new"), [
    ("trials  = 40", "trials  = 80"), ("30min", "2h"), ("trials  = 40", "trials  = 40; stop_early = false"),
    ("trials  = 40", "trials  = 40; warm_start = true"), ("trials  = 40", "trials  = 40; screening = off"),
    ("trials  = 40", "trials  = 40; halving { first = 2 }"), ("trials  = 40", "trials  = 40; disk = 20GB"),
    ("trials  = 40", "trials  = 40; workers = 4"), ("trials  = 40", "trials  = 40; workers = ray { gpus = 1 }"),
])
def test_how_long_the_search_goes_on_does_not_count(old: str, new: str, tmp_path: Path) -> None:
    assert written(tmp_path, DIGITS.replace(old, new)).meaning == written(tmp_path, DIGITS).meaning


def test_what_is_known_of_a_technique_does_not_count(tmp_path: Path) -> None:
    plan = written(tmp_path, DIGITS)
    before = tuple(item.model_copy(update={"traits": ()}) for item in plan.techniques if item.name == "prune.channels")
    others = tuple(item for item in plan.techniques if item.name != "prune.channels")
    assert before
    position = [item.name for item in plan.techniques].index("prune.channels")
    old = plan.model_copy(update={"techniques": (*others[:position], *before, *others[position:])})
    assert old != plan
    assert old.meaning == plan.meaning


def test_an_override_is_another_value(tmp_path: Path) -> None:
    path = tmp_path / "study.opt"
    path.write_text(DIGITS, encoding="utf-8")
    loaded = load(path, {"epochs": "5"})
    assert loaded.plan is not None
    assert loaded.plan.inputs[0].value == 5
    assert loaded.plan.meaning != plan_of(path).meaning
