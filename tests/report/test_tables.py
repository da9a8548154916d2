"""The formats of an answer, read back by other readers than our own."""

import csv
import io
import json

import pytest

from optlang.interfaces import OptlangError
from optlang.report.tables import FORMATS, cells, render
from optlang.store.reader import Answer, Column, connect
from optlang.store.writer import Writer
from tests.store.example_study import search_events

SQL = """
SELECT 1 AS whole, 0.5::DOUBLE AS real, 'a|b, "c"\nd' AS text, NULL::INTEGER AS nothing, true AS yes,
       TIMESTAMP '2026-05-04 12:00:00' AS at, '{"a": [1, null]}'::JSON AS json, [1, 2] AS list,
       {'x': 1.5::DOUBLE} AS struct,
       1.50::DECIMAL(5, 2) AS fixed, 'nan'::DOUBLE AS nan, 170141183460469231731687303715884105727::HUGEINT AS huge,
       INTERVAL 90 SECOND AS span, '\x41'::BLOB AS bytes, 'é漢' AS wide
"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Answer]:
    db = tmp_path_factory.mktemp("tables") / "x.duckdb"
    with Writer(db) as store:
        for event in search_events(9):
            store.record(event)
    with connect([db]) as reader:
        return {
            "kinds": reader.query(SQL),
            "front": reader.query("FROM front"),
            "none": reader.query("FROM results WHERE false"),
            "twice": reader.query("SELECT 1 AS x, 2 AS x"),
        }


def test_json_is_one_document_with_typed_values(answers: dict[str, Answer]) -> None:
    (row,) = json.loads(render(answers["kinds"], "json"), parse_constant=pytest.fail)
    assert row == {
        "whole": 1,
        "real": 0.5,
        "text": 'a|b, "c"\nd',
        "nothing": None,
        "yes": True,
        "at": "2026-05-04T12:00:00",
        "json": {"a": [1, None]},
        "list": [1, 2],
        "struct": {"x": 1.5},
        "fixed": 1.5,
        "nan": None,
        "huge": 170141183460469231731687303715884105727,
        "span": 90.0,
        "bytes": "b'A'",
        "wide": "é漢",
    }
    front = json.loads(render(answers["front"], "json"))
    assert list(front[0]) == [column.name for column in answers["front"].columns]
    assert isinstance(front[0]["size"], int)
    assert json.loads(render(answers["none"], "json")) == []
    assert json.loads(render(answers["twice"], "json")) == [{"x": 1, "x_1": 2}]


def test_jsonl_is_one_object_a_line(answers: dict[str, Answer]) -> None:
    text = render(answers["front"], "jsonl")
    assert [json.loads(line) for line in text.splitlines()] == json.loads(render(answers["front"], "json"))
    assert render(answers["none"], "jsonl") == ""


def test_csv_is_read_back_by_a_reader_of_csv(answers: dict[str, Answer]) -> None:
    rows = list(csv.reader(io.StringIO(render(answers["kinds"], "csv"))))
    assert dict(zip(*rows, strict=True)) | {"bytes": ""} == {
        "whole": "1",
        "real": "0.5",
        "text": 'a|b, "c"\nd',
        "nothing": "",
        "yes": "true",
        "at": "2026-05-04 12:00:00",
        "json": '{"a": [1, null]}',
        "list": "[1, 2]",
        "struct": '{"x": 1.5}',
        "fixed": "1.50",
        "nan": "nan",
        "huge": "170141183460469231731687303715884105727",
        "span": "0:01:30",
        "bytes": "",
        "wide": "é漢",
    }
    front = list(csv.DictReader(io.StringIO(render(answers["front"], "csv"))))
    assert [float(row["latency"]) for row in front] == [row["latency"] for row in answers["front"].dicts()], (
        "no digit is lost"
    )


def test_markdown_keeps_a_row_a_line(answers: dict[str, Answer]) -> None:
    lines = render(answers["kinds"], "markdown").splitlines()
    assert len(lines) == 3
    assert 'a\\|b, "c"<br>d' in lines[2]
    assert lines[1].startswith("|--:|--:|---|")


@pytest.mark.parametrize("width", [40, 80, 120, 200])
def test_a_table_fits_the_terminal(answers: dict[str, Answer], width: int) -> None:
    text = render(answers["front"], "table", width=width)
    assert max(cells(line) for line in text.splitlines()[:-1]) <= width
    assert text.startswith("study")
    shown = len(text.splitlines()[0].replace("…", "").split())
    assert f"{shown} of 35 columns shown" in text


def test_without_a_terminal_a_table_has_every_column_and_no_color(answers: dict[str, Answer]) -> None:
    text = render(answers["front"], "table")
    assert text.splitlines()[0].split() == [column.name for column in answers["front"].columns]
    assert "\x1b" not in text
    assert f"({len(answers['front'].rows)} rows)" in text
    assert "\x1b" in render(answers["front"], "table", width=80, color=True)


def test_markup_in_data_is_text() -> None:
    answer = Answer((Column("[bold]x[/]", "VARCHAR"),), (("[red]y[/red] :smile:",),))
    text = render(answer, "table", width=80)
    assert "[bold]x[/]" in text
    assert "[red]y[/red] :smile:" in text


def test_an_unknown_format_is_said(answers: dict[str, Answer]) -> None:
    with pytest.raises(OptlangError, match="no format `xml`") as caught:
        render(answers["front"], "xml")
    assert all(name in str(caught.value.help) for name in FORMATS)
