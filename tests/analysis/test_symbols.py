"""The symbol table: what names stand for, in right files and in files with mistakes; a mistake is reported once."""

from __future__ import annotations

from pathlib import Path

import pytest

from optlang.analysis.load import Loaded, load

STUDY = """optlang 1

pipeline little {
  param amount: ratio in 1% .. 90% = 50%
  steps { sparse = magnitude { sparsity = amount } }
}

study small {
  input quick: bool = false
  let half = 50%
  model net = zoo.digits_cnn()
  data seen = zoo.digits()
  baseline { repeat twice = 2 { finetune { epochs = twice.round } } }
  target here { runtime in { eager; onnxruntime } }
  steps {
    prune = channels { ratio in [25%, half] }
    maybe little { amount in [30%, 60%] }
    repeat rounds in 1 .. 3 { finetune { epochs = rounds.round } when rounds.round == rounds }
    precision in { none; static { samples in [64, 128] when not quick } }
  }
  forbid prune.ratio == 25% and precision == static
  forbid amount == 60% and here.runtime == eager
  require latency <= baseline.latency
  minimize size
}
"""


def loaded(text: str) -> Loaded:
    file = Path("symbols.opt")
    return load(file, unsaved={file.resolve(): text})


def named(text: str, words: str, part: str) -> tuple[str, int] | None:
    """The file and the offset of what `part` of the first `words` names; None where it names nothing."""
    found = loaded(text)
    assert found.scope is not None
    at = found.scope.table.named_at("symbols.opt", text.index(words) + words.index(part) + 1)
    return (at[1].span.file, at[1].span.start) if at is not None else None


@pytest.mark.parametrize(("words", "part", "declared"), [
    ("forbid prune.ratio", "prune", "prune = channels"), ("forbid prune.ratio", "ratio", "ratio in [25%"),
    ("precision == static", "precision", "precision in"), ("precision == static", "static", "static { samples"),
    ("forbid amount", "amount", "amount: ratio"), ("{ amount in", "amount", "amount: ratio"),
    ("sparsity = amount", "amount", "amount: ratio"), ("here.runtime == eager", "here", "here {"),
    ("here.runtime == eager", "runtime", "runtime in"), ("here.runtime == eager", "eager", "eager;"),
    ("rounds.round }", "rounds", "rounds in"), ("== rounds }", "rounds", "rounds in"),
    ("25%, half]", "half", "half = 50%"), ("not quick", "quick", "quick: bool"), ("maybe little", "little", "little {"),
    ("twice.round", "twice", "twice = 2"),
])
def test_a_name_leads_to_its_definition(words: str, part: str, declared: str) -> None:
    assert not loaded(STUDY).failed
    assert named(STUDY, words, part) == ("symbols.opt", STUDY.index(declared))


@pytest.mark.parametrize(("words", "part", "file"), [
    ("= channels", "channels", "stdlib/prune.opt"), ("{ ratio in", "ratio", "stdlib/prune.opt"),
    ("require latency", "latency", "stdlib/metrics.opt"), ("baseline.latency", "latency", "stdlib/metrics.opt"),
    ("minimize size", "size", "stdlib/metrics.opt"), ("{ eager;", "eager", "stdlib/runtime.opt"),
    ("zoo.digits_cnn", "digits_cnn", "stdlib/zoo.opt"),
])
def test_what_the_library_declares_is_a_definition_too(words: str, part: str, file: str) -> None:
    found = named(STUDY, words, part)
    assert found is not None
    assert found[0] == file


def test_an_imported_name_leads_to_its_declaration(tmp_path: Path) -> None:
    (tmp_path / "parts.opt").write_text("optlang 1\n" + STUDY[STUDY.index("pipeline") : STUDY.index("study")])
    study = tmp_path / "study.opt"
    study.write_text("optlang 1\nfrom parts import little\n" + STUDY[STUDY.index("study") :])
    found = load(study)
    assert not found.failed
    assert found.scope is not None
    at = found.scope.table.named_at(study.as_posix(), study.read_text().index("maybe little") + 6)
    assert at is not None
    assert Path(at[1].span.file).name == "parts.opt"


def test_what_is_wrong_has_references_too() -> None:
    wrong = STUDY.replace("prune = channels", "prune = chanels").replace("forbid amount", "forbid amuont")
    assert named(wrong, "forbid prune.ratio", "prune") == ("symbols.opt", wrong.index("prune = chanels"))
    assert named(wrong, "forbid prune.ratio", "ratio") == ("symbols.opt", wrong.index("ratio in [25%"))
    assert named(wrong, "25%, half]", "half") == ("symbols.opt", wrong.index("half = 50%"))
    assert named(wrong, "forbid amuont", "amuont") is None
    table = loaded(wrong).scope
    assert table is not None
    assert wrong.index("amuont") in {span.start for span, item in table.table.references if item is None}


@pytest.mark.parametrize(("old", "new", "codes"), [
    # A setting of what is not known, a domain that is wrong, a count that is wrong: what names them is right.
    ("prune = channels", "prune = chanels", ["E201"]), ("ratio in [25%, half]", "ratio in [25%, half, 2ms]", ["E404"]),
    ("rounds in 1 .. 3", "rounds in 3 .. 1", ["E401"]), ("ratio in [25%, half]", "raito in [25%, half]", ["E205"]),
    # A branch that is not read may have any name; a parameter that is not read is not missing where it is set.
    ("static { samples", "statik { samples", ["E201"]), ("in 1% .. 90% = 50%", "in 90% .. 1% = 50%", ["E401"]),
    # What is used where something else is wrong is used.
    ("samples in [64, 128] when not quick", "sample = 3 when not quick", ["E205"]),
    ("channels { ratio in [25%, half] }", "chanels { ratio in [25%, half] }", ["E201"]),
    ("let half = 50%", "let half = 50%\n  let half = 60%", ["E202"]),
])
def test_one_mistake_is_one_report(old: str, new: str, codes: list[str]) -> None:
    assert STUDY.count(old) == 1
    assert [item.code for item in loaded(STUDY.replace(old, new)).diagnostics] == codes


def test_a_mistake_in_a_pipeline_names_where_it_is_applied() -> None:
    found = loaded(STUDY.replace("amount in [30%, 60%]", "amount in [30%, 60%]; amount = 40%")).diagnostics
    assert [item.code for item in found] == ["E202"]
    inner = loaded(STUDY.replace("ratio in 1% .. 90% = 50%", "ratio = 50%").replace("[30%, 60%]", "[30%, 99.9999%]"))
    [item] = inner.diagnostics
    assert item.code == "E406"
    assert [label.text for label in item.labels] == ["searched here", "applied here"]
