"""Old words of the language: each is an error that names the new word, and `check --fix` writes it."""

import re
from pathlib import Path

import pytest

from optlang.cli.app import command
from optlang.diagnostics.renamed import RENAMED
from optlang.report.explain import suggestion

STUDY = """optlang 1
{above}
study small {{
  model net  = zoo.digits_cnn()
  data  seen = zoo.digits()
  target here {{ runtime in {{ eager; openvino }} }}
  steps {{ maybe {step} }}
  minimize size
}}
"""
MINE = 'technique mine {\n  calls "mine.py:mine"\n  shape weights\n}\n'
PLACES = {
    "channels_until": ("", "channels_until"),
    "channels_within": ("", "prune.channels_within"),
    "aim": ("", "widths { aim = parameters }"),
    "lose": ("", "mixed { lose = 2% }"),
    "of": ("", "magnitude { of = all }"),
    "left": ("", "magnitude { relative_to = left }"),
    "shape": (MINE, "mine"),
}


def test_every_old_word_is_tried():
    assert list(PLACES) == list(RENAMED)


@pytest.mark.parametrize("old", RENAMED)
def test_an_old_word_is_reported_and_fixed(
    old: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text("def mine(state, settings, context): ...\n")
    above, step = PLACES[old]
    text = STUDY.format(above=above, step=step)
    Path("small.opt").write_text(text)
    assert command(["check", "small.opt"]) == 1
    assert f"{RENAMED[old]}` now" in capsys.readouterr().out
    assert command(["check", "--fix", "small.opt"]) == 0
    assert Path("small.opt").read_text() == text.replace(old, RENAMED[old])


@pytest.mark.parametrize(("old", "new"), [
    ("channels_until { aim = macs }", "channels_to_budget { resource = macs }"),
    ("magnitude { of = left }", "magnitude { relative_to = remaining }"),
])
def test_an_old_word_behind_another_is_fixed_too(
    old: str, new: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("small.opt").write_text(STUDY.format(above="", step=old))
    assert command(["check", "--fix", "small.opt"]) == 0
    assert Path("small.opt").read_text() == STUDY.format(above="", step=new)


def test_old_words_in_a_condition_are_fixed_with_their_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    old = "sparse = magnitude { of in {all, left} }; thin = widths { aim in {macs, parameters} }"
    rule = "\n  forbid sparse.of == left and thin.aim == macs"
    text = STUDY.format(above="", step=old).replace("\n  minimize", f"{rule}\n  minimize")
    Path("small.opt").write_text(text)
    assert command(["check", "--fix", "small.opt"]) == 0
    for word in ("of", "left", "aim"):
        text = re.sub(rf"\b{word}\b", RENAMED[word], text)
    assert Path("small.opt").read_text() == text


def test_a_file_that_fixes_do_not_help_stays_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = STUDY.format(above="", step="channels_until { nothing = 1 }")
    Path("small.opt").write_text(text)
    assert command(["check", "--fix", "small.opt"]) == 1
    assert Path("small.opt").read_text() == text


@pytest.mark.parametrize("old", ["prune.channels_until", "channels_within", "aim", "lose", "of"])
def test_an_old_name_is_explained_by_the_new_one(old: str) -> None:
    plain = old.removeprefix("prune.")
    assert suggestion(old) == f"it is called `{old.replace(plain, RENAMED[plain])}` now"
