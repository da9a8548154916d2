"""What the project says of itself agrees: its metadata, the workflow of its checks, and the page on installing it."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PAGE = (ROOT / "docs" / "install.md").read_text()


def test_pythons() -> None:
    named = [item.removeprefix("Programming Language :: Python :: ") for item in PROJECT["classifiers"]]
    supported = [item for item in named if re.fullmatch(r"3\.\d+", item)]
    assert PROJECT["requires-python"] == f">={supported[0]}"
    rows = re.findall(r"^\| (3\.\d+) \|.*\| (.*) \|$", PAGE, re.M)
    assert [version for version, tests in rows if tests != "not run yet"] == supported

    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text()
    (matrix,) = re.findall(r"python: \[(.*)\]", workflow)
    assert [item.strip(' "') for item in matrix.split(",")] == [version for version, _ in rows]


def test_extras() -> None:
    assert set(re.findall(r"^\| `([\w-]+)` \|", PAGE, re.M)) == {*PROJECT["optional-dependencies"]} - {"dev", "docs"}
