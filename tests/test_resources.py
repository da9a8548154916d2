"""Grammar and standard library are found in a checkout and in a wheel."""

from __future__ import annotations

from pathlib import Path

import pytest

from optlang import resources


def test_a_checkout_holds_them_beside_the_package() -> None:
    assert (resources.grammar() / "optlang.lark").is_file()
    assert (resources.stdlib() / "quant.opt").is_file()


def test_a_wheel_holds_them_inside_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "optlang"
    for folder, file in (("grammar", "optlang.lark"), ("stdlib", "quant.opt")):
        (package / folder).mkdir(parents=True)
        (package / folder / file).write_text("", encoding="utf-8")
    # A folder of the same name beside the package is somebody else's.
    (tmp_path / "grammar").mkdir()
    monkeypatch.setattr(resources, "_PACKAGE", package)
    assert resources.grammar() == package / "grammar"
    assert resources.stdlib() == package / "stdlib"


def test_an_installation_that_is_not_whole_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "_PACKAGE", tmp_path / "optlang")
    with pytest.raises(FileNotFoundError, match="not installed whole"):
        resources.stdlib()
