"""The journal: whole lines after whatever kill."""

import itertools
import json
from pathlib import Path

import pytest

from optlang.interfaces import OutsideError
from optlang.store.journal import Journal, identity, journal_path, read


def records(path: Path, offset: int = 0) -> list[dict[str, object]]:
    return [line.record for line in read(path, offset)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return journal_path(tmp_path / "x.duckdb")


def test_a_journal_begins_with_its_own_id_and_keeps_it(path: Path) -> None:
    first = Journal(path)
    first.append({"event": "start", "trial": 1})
    first.close()
    again = Journal(path)
    again.close()
    assert again.id == first.id == identity(path)
    assert [record["event"] for record in records(path)] == ["journal", "start"]


def test_offsets_are_those_of_the_bytes(path: Path) -> None:
    journal = Journal(path)
    for trial in range(3):
        journal.append({"trial": trial, "text": "größer\n"})
    journal.close()
    lines = list(read(path))
    assert lines[-1].end == path.stat().st_size
    for before, after in itertools.pairwise(lines):
        assert records(path, before.end)[0] == after.record


@pytest.mark.parametrize("cut", [1, 5, 20])
def test_a_torn_last_line_waits_and_the_next_append_leaves_it_behind(path: Path, cut: int) -> None:
    journal = Journal(path)
    journal.append({"trial": 1})
    journal.append({"trial": 2, "text": "x" * 40})
    journal.close()
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - cut)
    # Where only the line end is lacking the record is whole, and counts once the line is ended.
    assert records(path)[1:] == [{"trial": 1}]
    journal = Journal(path)
    journal.append({"trial": 3})
    journal.close()
    torn = [{"trial": 2, "text": "x" * 40}] if cut == 1 else []
    assert records(path)[1:] == [{"trial": 1}, *torn, {"trial": 3}]


def test_a_torn_first_line_is_begun_again(path: Path) -> None:
    Journal(path).close()
    with path.open("r+b") as file:
        file.truncate(9)
    journal = Journal(path)
    journal.append({"trial": 1})
    journal.close()
    assert identity(path) == journal.id
    assert records(path)[1:] == [{"trial": 1}]


def test_every_cut_of_a_journal_reads_as_a_beginning_of_it(path: Path, tmp_path: Path) -> None:
    journal = Journal(path)
    for trial in range(4):
        journal.append({"trial": trial})
    journal.close()
    whole, all_records = path.read_bytes(), records(path)
    for size in range(len(whole)):
        part = tmp_path / "part"
        part.write_bytes(whole[:size])
        assert records(part) == all_records[: whole[:size].count(b"\n")]


def test_what_is_not_finite_is_null_and_every_line_is_strict_json(path: Path) -> None:
    journal = Journal(path)
    journal.append({"value": float("nan"), "list": [float("inf"), 1.5], "path": Path("a")})
    journal.close()
    line = path.read_bytes().splitlines()[-1]
    assert json.loads(line, parse_constant=pytest.fail) == {"value": None, "list": [None, 1.5], "path": "a"}


def test_a_journal_of_a_newer_version_is_refused_with_the_way_out(path: Path) -> None:
    path.write_text('{"event":"journal","id":"a","schema":99}\n')
    with pytest.raises(OutsideError, match="newer optlang") as caught:
        Journal(path)
    assert "upgrade" in str(caught.value.help)


def test_an_absent_journal_has_no_lines(path: Path) -> None:
    assert records(path) == []
    assert identity(path) is None
