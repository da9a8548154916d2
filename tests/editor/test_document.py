"""What an open file offers and how it is renamed, over every shipped study and every fixture, without an editor."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from optlang.analysis.load import load
from optlang.diagnostics.fixes import applied
from optlang.diagnostics.model import Fix
from optlang.editor.context import around
from optlang.editor.document import Document, Documents
from optlang.editor.positions import Positions
from optlang.interfaces import OptlangError

ROOT = Path(__file__).parents[2]
RIGHT = [*sorted((ROOT / "studies").glob("*.opt")), *sorted((ROOT / "tests/fixtures/ok").glob("*.opt"))]
WRONG = sorted((ROOT / "tests/fixtures/err").rglob("*.opt"))
SIGNS = re.compile(r'#[^\n]*|"[^"\n]*"')


def opened(path: Path, text: str | None = None) -> tuple[Documents, Document]:
    documents = Documents()
    return documents, documents.put(path, path.read_text() if text is None else text)


@pytest.mark.parametrize("path", [path for path in RIGHT if path.stem != "recipes"], ids=lambda path: path.stem)
def test_every_label_takes_another_name_and_back(path: Path) -> None:
    documents, document = opened(path)
    before = document.text
    scope = documents.check(document).loaded.scope
    assert scope is not None
    kinds = ("input", "let", "parameter", "repeat", "step", "target")
    labels = [item for item in scope.table.definitions if item.kind in kinds and not item.fixed]
    for label in {label.span: label for label in labels if label.span.file == document.shown}.values():
        edits = documents.rename(document, label.span.start, "another_name")
        text = applied(before, edits)
        assert text.count("another_name") == len(edits)
        if label.whole is None:
            assert text.replace("another_name", label.name) == before


@pytest.mark.parametrize("path", WRONG, ids=lambda path: path.stem)
def test_no_place_of_a_wrong_file_is_too_strange_to_be_asked_about(path: Path) -> None:
    try:
        documents, document = opened(path)
    except UnicodeDecodeError:
        return
    text = document.text[:20_000]
    documents.put(path, text)
    for offset in range(0, len(text) + 1, max(1, len(text) // 20)):
        documents.offers(document, offset)
        documents.described(document, offset)
        documents.definition(document, offset)
        documents.label(document, offset)
    documents.laid_out(document)
    documents.fixes(document)


@pytest.mark.parametrize("path", RIGHT[:3], ids=lambda path: path.stem)
def test_a_file_can_be_asked_about_while_it_is_typed(path: Path) -> None:
    text = path.read_text()
    documents, document = opened(path, "")
    for offset in range(0, len(text), max(1, len(text) // 25)):
        documents.put(path, text[:offset])
        documents.check(document)
        documents.offers(document, offset)
        documents.described(document, offset)


@pytest.mark.parametrize("path", RIGHT, ids=lambda path: path.stem)
def test_what_is_checked_in_memory_is_what_is_checked_on_disk(path: Path) -> None:
    documents, document = opened(path)
    saved = load(path)
    checked = documents.check(document).loaded
    assert checked.diagnostics == saved.diagnostics
    assert checked.plan == saved.plan


def test_each_setting_of_the_shipped_studies_is_known() -> None:
    for path in sorted((ROOT / "studies").glob("*.opt")):
        documents, document = opened(path)
        plain = SIGNS.sub(lambda found: " " * len(found[0]), document.text)
        for found in re.finditer(r"[{;]\s*(\w+)\s*(?:=|in)[ ]", plain):
            place = documents.described(document, found.start(1) + 1)
            assert place is not None, (path.name, found[1])


def test_two_pipelines_do_not_share_their_names() -> None:
    text = (
        "optlang 1\npipeline a { param mine: int = 1 \"\"\n steps { finetune { epochs = mine } } }\n"
        "pipeline b { param yours: int = 1 \"\"\n steps { finetune { epochs =  } } }\n"
    )
    documents, document = opened(Path("two.opt"), text)
    found = {offer.label for offer in documents.offers(document, text.index("=  }") + 2)[1]}
    assert "yours" in found
    assert "mine" not in found


def test_a_technique_is_stronger_with_parameters_of_its_own() -> None:
    text = (
        'optlang 1\ntechnique mine "" {\n  calls "mine:Mine"\n  param share: ratio in 1% .. 99% = 50% ""\n'
        '  param rounds: int in 1 .. 9 = 1 ""\n  stronger_with share, |\n}\n'
    )
    documents, document = opened(Path("mine.opt"), text.replace(", |", ""))
    documents.check(document)
    documents.put(document.path, text.replace("|", ""))
    found = {offer.label for offer in documents.offers(document, text.index("|"))[1]}
    assert "rounds" in found
    assert "share" not in found, "it is there already"


def test_values_of_a_knob_that_may_be_anything_are_those_of_its_declaration() -> None:
    text = (
        "optlang 1\nstudy x {\n  model m = zoo.digits_cnn()\n  data d = zoo.digits()\n  target t { runtime = eager }\n"
        "  steps { channels { scope in any } }\n  forbid scope == global\n  minimize latency\n}\n"
    )
    documents, document = opened(Path("any.opt"), text)
    found = {offer.label for offer in documents.offers(document, text.index("global"))[1]}
    assert {"layer", "global"} <= found


GROUPS = """optlang 1

params mine "shared" {
  param amount: ratio in 1% .. 99% = 50% "how much"
}

pipeline little {
  with prune.selection, mine { amount = 30% }
  steps { magnitude { sparsity = amount; scope = scope } }
}

study small {
  model net = zoo.digits_cnn()
  data seen = zoo.digits()
  target here { runtime in { eager; onnxruntime } }
  steps { maybe little { amount = 10%; scope = global } }
  minimize size
}
"""


def labels_at(text: str) -> set[str]:
    """What is offered where `|` stands."""
    documents, document = opened(Path("groups.opt"), GROUPS)
    documents.check(document)
    offset = text.index("|")
    documents.put(document.path, text.replace("|", ""))
    return {offer.label for offer in documents.offers(document, offset)[1]}


def test_groups_and_what_they_have_are_offered_behind_with() -> None:
    before, after = GROUPS.split("with prune.selection, mine { amount = 30% }")
    assert {"with", "param", "steps"} <= labels_at(f"{before}|{after}")
    assert labels_at(GROUPS.replace('params mine "shared" {', 'params mine "shared" { |')) == {"with", "param"}
    assert "params" in labels_at(GROUPS + "\n|")
    for start in ("with |", "with mine, |", "with mine { amount = 20% }, |"):
        assert {"mine", "prune.selection", "selection", "training.fit"} <= labels_at(f"{before}{start}{after}")
    assert labels_at(f"{before}with mine {{ | }}{after}") == {"amount"}
    assert {"layer", "global"} <= labels_at(f"{before}with mine, selection {{ scope = | }}{after}")


def test_groups_and_what_they_have_are_shown_and_found() -> None:
    documents, document = opened(Path("groups.opt"), GROUPS)
    declared = GROUPS.index("mine")

    def found(words: str, part: str) -> tuple[str, str, int]:
        offset = GROUPS.index(words) + words.index(part) + 1
        shown, place = documents.described(document, offset), documents.definition(document, offset)
        assert shown is not None
        assert place is not None
        return shown[1], Path(place.file).name, place.start

    assert found(", mine {", "mine") == (
        "**mine**: shared\n\n- `amount: ratio in 1% .. 99% = 50%` how much", "groups.opt", declared
    )
    assert found("{ amount = 30%", "amount")[1:] == ("groups.opt", GROUPS.index("amount"))
    assert found("sparsity = amount", "amount")[1:] == ("groups.opt", GROUPS.index("amount"))
    assert found("{ amount = 10%", "amount")[1:] == ("groups.opt", GROUPS.index("amount"))
    assert found("; scope = global", "scope")[1] == "prune.opt"
    assert "**prune.selection**" in found("prune.selection", "selection")[0]


@pytest.mark.parametrize("words", ["param amount", "sparsity = amount", "{ amount = 10%"])
def test_a_parameter_of_a_group_keeps_its_name(words: str) -> None:
    documents, document = opened(Path("groups.opt"), GROUPS)
    with pytest.raises(OptlangError):
        documents.rename(document, GROUPS.index(words) + words.index("amount"), "much")


def test_a_parameter_of_a_pipeline_is_renamed_where_it_is_set() -> None:
    path = ROOT / "tests/fixtures/ok/pipelines.opt"
    documents, document = opened(path)
    edits = documents.rename(document, document.text.index("param count") + 6, "how_many")
    assert applied(document.text, edits) == re.sub(r"\bcount\b", "how_many", document.text)


def test_a_name_that_another_file_uses_stays(tmp_path: Path) -> None:
    module = tmp_path / "recipes.opt"
    module.write_text((ROOT / "tests/fixtures/ok/recipes.opt").read_text())
    documents, document = opened(module)
    offset = document.text.index("param epochs") + 6
    assert documents.rename(document, offset, "longer")
    (tmp_path / "study.opt").write_text((ROOT / "tests/fixtures/ok/pipelines.opt").read_text())
    with pytest.raises(OptlangError, match=r"study\.opt names `epochs` too"):
        documents.rename(document, offset, "longer")


@pytest.mark.parametrize(("encoding", "unit"), [("utf-8", 1), ("utf-16", 2), ("utf-32", 4)])
def test_places_are_counted_in_the_units_that_were_agreed_on(encoding: str, unit: int) -> None:
    text = "abc\naé🚀b\r\n\n🚀"
    positions = Positions(text, encoding)
    codec = encoding if unit == 1 else f"{encoding}-le"
    for offset in range(len(text) + 1):
        line = text.count("\n", 0, offset)
        before = text[:offset].rpartition("\n")[2]
        place = (line, len(before.encode(codec)) // unit)
        assert positions.at(offset) == place
        if not before.endswith("\r"):
            assert positions.offset(*place) == offset
    assert positions.offset(1, 99) == text.index("\r")
    assert positions.offset(99, 0) == len(text)


def test_a_place_inside_a_character_is_its_beginning() -> None:
    assert Positions("a🚀b").offset(0, 2) == 1


@pytest.mark.parametrize(("text", "frames", "words"), [
    ("study a {\n  steps { x = |", ["study a", "steps"], "x ="),
    ("study a {\n  minimize b, |", ["study a"], "minimize b ,"),
    ("study a {\n  steps { b = c { d = 1, |", ["study a", "steps", "b = c"], ""),
    ("study a {\n  model m = f(x = [1,\n 2], |", ["study a", "model m = f"], ""),
    ("study a { # {\n  |", ["study a"], ""), ('study a "{" {\n  |', ["study a \"{\""], ""),
    ("study a { steps { b }\n  |", ["study a"], ""), ("study a { steps { b } } ] } |", [], "study a {}"),
    ("study a {\n  require b <=\n    |", ["study a"], "require b <="),
])
def test_brackets_and_words_around_the_cursor(text: str, frames: list[str], words: str) -> None:
    found = around(text.replace("|", ""), text.index("|"))
    assert [" ".join(frame.head) for frame in found.frames] == frames
    assert " ".join(found.words) == words


def test_edits_that_mend_are_those_of_check() -> None:
    text = "optlang 1\nstudy x {\n  minimise latency\n  maximise accuracy\n}\n"
    documents, document = opened(Path("mend.opt"), text)
    assert [fix.replacement for fix in documents.fixes(document)] == ["minimize", "maximize"]
    assert all(isinstance(fix, Fix) for fix in documents.fixes(document))


def test_ray_and_its_settings_are_offered_as_workers() -> None:
    assert {"workers"} <= labels_at(GROUPS.replace("  minimize size", "  search { | }\n  minimize size"))
    assert {"ray", "1"} <= labels_at(GROUPS.replace("  minimize size", "  search { workers = | }\n  minimize size"))
    assert labels_at(GROUPS.replace("  minimize size", "  search { workers = ray { | } }\n  minimize size")) == {
        "address", "cpus", "gpus", "per_node", "most"
    }


def test_halving_and_its_settings_are_offered_in_a_search() -> None:
    assert "halving" in labels_at(GROUPS.replace("  minimize size", "  search { | }\n  minimize size"))
    assert labels_at(GROUPS.replace("  minimize size", "  search { halving { | } }\n  minimize size")) == {
        "reduce", "first"
    }
