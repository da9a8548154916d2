"""`optlang list`: what there is of a kind; `optlang --version`."""

from __future__ import annotations

import json
from importlib import metadata

import pytest

from optlang.analysis.lower.search_settings import ABOUT
from optlang.cli.app import command
from optlang.cli.listing import Kind
from optlang.report.explain import explained, listed, listing


@pytest.mark.parametrize("kind", Kind)
def test_each_kind_is_listed_with_names_that_are_explained(kind: Kind, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["list", kind]) == 0
    text = capsys.readouterr().out
    found = listed(kind)
    assert found
    assert len({item["qualified"] for item in found}) == len(found)
    for item in found:
        assert f"\n{item['name']} " in f"\n{text}"
        assert explained(item["qualified"]) is not None
    assert text.endswith(f"\n`optlang explain {found[0]['name']}` says all of one\n")
    assert max(map(len, text.splitlines())) <= 100


def test_known_names_are_in_their_kinds() -> None:
    def names(kind: str) -> set[str]:
        return {item["name"] for item in listed(kind)}

    assert {"static", "channels", "finetune"} <= names("techniques")
    assert {"eager", "onnxruntime", "openvino"} <= names("runtimes")
    assert "digits_cnn" in names("models")
    assert "digits" in names("data")
    assert {"latency.p50", "accuracy"} <= names("metrics")
    assert names("samplers") == set(ABOUT)


def test_all_kinds_and_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["list"]) == 0
    assert capsys.readouterr().out == listing()
    assert command(["list", "samplers", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"samplers": listed("samplers")}
    assert command(["list", "--format", "json"]) == 0
    assert list(json.loads(capsys.readouterr().out)) == list(Kind)


def test_the_version_is_the_distributions(capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["--version"]) == 0
    assert capsys.readouterr().out == f"optlang {metadata.version('optlang-dsl')}\n"
