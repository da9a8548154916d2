"""`optlang doctor`: what it says of packages, runtimes and the machine is so, and what is missing has a way out."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import tomllib
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatch
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from optlang.analysis.modules.library import library
from optlang.cli.app import command
from optlang.cli.examination import disk_usage
from optlang.measure.lock import alone
from optlang.measure.machine import machine_lock
from optlang.store.lock import WriteLock

ROOT = Path(__file__).parents[2]
DECLARED = [item for module in library()[0].values() for item in module.declared.values()]
RUNTIMES = [item.name for item in DECLARED if item.sort == "runtime"]
NEEDED = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]

Ask = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture
def ask(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Ask:
    """Asks in this process; gives the exit code and the document. The lock for measuring is one of our own."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, dict[str, Any]]:
        code = command(["doctor", "--format", "json", *arguments])
        return code, json.loads(capsys.readouterr().out)

    return run


def installation(folder: Path, *, without: Iterable[str] = (), beside: Mapping[str, str] | None = None) -> Path:
    """Fill `folder` with links to what is installed here, but not to what has a name like one of `without`.

    `beside` are files to write in addition: path and text.
    """
    folder.mkdir()
    for place in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
        for entry in Path(place).iterdir():
            if not any(fnmatch(entry.name, pattern) for pattern in without):
                (folder / entry.name).symlink_to(entry)
    for name, text in (beside or {}).items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    return folder


def asked_of(folder: Path) -> tuple[int, dict[str, Any]]:
    """What the command says with the installation in `folder` and no other: -S leaves out site-packages."""
    done = subprocess.run(
        [sys.executable, "-S", "-m", "optlang", "doctor", "--format", "json"], cwd=folder.parent, capture_output=True,
        text=True, check=False, env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(folder)])},
    )
    assert done.stderr == ""
    return done.returncode, json.loads(done.stdout)


def test_every_declared_runtime_is_ready_in_the_version_that_is_installed_or_says_why_not(ask: Ask) -> None:
    code, found = ask()
    assert code == 0
    assert found["problems"] == []
    assert [item["name"] for item in found["runtimes"]] == RUNTIMES
    assert {item["name"] for item in found["runtimes"] if item["ready"]} >= {"eager", "onnxruntime", "openvino"}
    for item in found["runtimes"]:
        assert item["ready"] is (item["reason"] is None and item["unrun"] is None)
        assert item["ready"] or item["reason"] or item["unrun"]
        assert bool(item["packages"]) is (item["reason"] is None)
        assert item["packages"] == {name: metadata.version(name) for name in item["packages"]}


def test_the_page_says_what_the_document_says(ask: Ask, capsys: pytest.CaptureFixture[str]) -> None:
    _, found = ask()
    assert command(["doctor"]) == 0
    text = capsys.readouterr().out
    for item in found["runtimes"]:
        line = next(line for line in text.splitlines() if line.split()[:1] == [item["name"]])
        assert (" not ready " in line) is (item["reason"] is not None)
        assert (" builds only " in line) is (item["unrun"] is not None)
        assert line.endswith(item["reason"] or item["unrun"] or "")
        assert not item["ready"] or all(f"{name} {version}" in line for name, version in item["packages"].items())
    assert f"{len(found['packages'])} packages" in text
    assert found["machine"]["processor"] in text


def test_what_it_needs_is_what_the_project_declares(ask: Ask) -> None:
    _, found = ask()
    assert {item["requirement"] for item in found["packages"]} == set(NEEDED)
    assert all(item["fits"] for item in found["packages"])
    assert found["warnings"] == []


def test_a_runtime_without_its_package_says_what_installs_it(tmp_path: Path) -> None:
    code, found = asked_of(installation(tmp_path / "site", without=["openvino*"]))
    assert code == 0
    runtimes = {item["name"]: item for item in found["runtimes"]}
    assert runtimes["openvino"] == {
        "name": "openvino", "help": "OpenVINO on the CPU", "reason": 'pip install "optlang-dsl[openvino]"',
        "packages": {}, "unrun": None, "ready": False,
    }
    assert runtimes["onnxruntime"]["ready"]
    assert runtimes["eager"]["ready"]


@pytest.mark.parametrize(
    ("hidden", "missing", "listed"),
    [(["sklearn*", "scikit_learn*"], "scikit-learn", True), (["torch", "torch-*"], "torch", True),
     (["lark*"], "lark", False), (["packaging*"], "packaging", True)],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_without_a_package_that_it_needs_it_ends_with_3_and_the_line_to_type(
    hidden: list[str], missing: str, listed: bool, tmp_path: Path
) -> None:
    code, found = asked_of(installation(tmp_path / "site", without=hidden))
    assert code == 3
    asked = next((item for item in NEEDED if re.split("[<>]", item)[0] == missing), missing)
    assert found["problems"] == [{"message": f"{asked} is missing", "help": f'pip install "{asked}"'}]
    # Without the parser no declaration can be read; what else there is to say is said all the same.
    assert [item["name"] for item in found["runtimes"]] == (RUNTIMES if listed else [])
    if missing == "torch":
        eager = next(item for item in found["runtimes"] if item["name"] == "eager")
        assert eager["reason"] == f'pip install "{asked}"'


def test_what_is_installed_otherwise_than_asked_for(tmp_path: Path) -> None:
    """Versions outside the bounds, a distribution of another name, another project's package of the same name."""
    places = {"lark": "1.0.0", "openvino": "2024.1.0", "onnxruntime-gpu": "1.32.0", "optlang": "1.8.3"}
    beside = {
        f"{name.replace('-', '_')}-{version}.dist-info/METADATA": f"Name: {name}\nVersion: {version}\n"
        for name, version in places.items()
    }
    beside["onnxruntime_gpu-1.32.0.dist-info/top_level.txt"] = "onnxruntime\n"
    code, found = asked_of(installation(
        tmp_path / "site", without=["lark-*", "openvino-*", "onnxruntime-*", "optlang"], beside=beside
    ))
    assert code == 0
    assert found["problems"] == []
    assert found["warnings"] == [
        {"message": "lark>=1.3,<2 is required, 1.0.0 is installed", "help": 'pip install "lark>=1.3,<2"'},
        {"message": "the distribution optlang, another project, writes into the same folder as optlang-dsl",
         "help": "pip uninstall optlang && pip install --force-reinstall optlang-dsl"},
        {"message": "openvino requires openvino>=2026.0,<2027, 2024.1.0 is installed",
         "help": 'pip install "openvino>=2026.0,<2027"'},
    ]
    packages = {item["name"]: item["packages"] for item in found["runtimes"]}
    assert packages["onnxruntime"] == {"onnxruntime-gpu": "1.32.0"}
    assert packages["openvino"] == {"openvino": "2024.1.0"}


def test_a_measurement_that_goes_on_is_seen(ask: Ask) -> None:
    assert ask()[1]["measuring"] is False
    with alone(machine_lock()):
        assert ask()[1]["measuring"] is True
    assert ask()[1]["measuring"] is False


def test_a_lock_that_nobody_can_take_is_a_problem(
    ask: Ask, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    machine_lock().symlink_to(tmp_path / "elsewhere")
    code, found = ask()
    assert code == 3
    (problem,) = found["problems"]
    assert str(machine_lock()) in problem["message"]
    assert "or remove the file" in problem["help"]
    assert command(["doctor"]) == 3
    last = capsys.readouterr().out.partition("Problems\n")[2]
    assert problem["message"] in last
    assert f"= help: {problem['help']}" in last


def test_files_are_where_a_run_would_put_them(ask: Ask, tmp_path: Path) -> None:
    _, found = ask()
    assert found["database"] == {"path": "optlang.duckdb", "bytes": None, "whole": True}
    assert found["cache"] == {"path": str(tmp_path / ".optlang" / "cache"), "bytes": None, "whole": True}
    assert found["writer"] is None
    assert not (tmp_path / ".optlang").exists()

    home, db = tmp_path / "home", tmp_path / "other.duckdb"
    for name, size in (("cache/ab/key/model", 1000), ("cache/cd/key/model", 234), ("artifacts/run/3/model.onnx", 56)):
        (home / name).parent.mkdir(parents=True)
        (home / name).write_bytes(bytes(size))
    (home / "cache" / "link").symlink_to(home / "artifacts")
    db.write_bytes(bytes(7))
    lock = WriteLock(db)
    try:
        _, found = ask("--db", str(db), "--home", str(home))
    finally:
        lock.release()
    link = (home / "cache" / "link").lstat().st_size
    assert found["cache"]["bytes"] == 1234 + link
    assert found["artifacts"]["bytes"] == 56
    assert found["database"]["bytes"] == 7
    assert found["writer"] == os.getpid()
    assert found["free"] == pytest.approx(shutil.disk_usage(home).free, rel=0.1)


def test_folders_too_large_to_count_are_counted_as_far_as_it_went(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).write_bytes(bytes(10))
    found = disk_usage(tmp_path, seconds=0)
    assert not found.whole
    assert found.bytes in (10, 20)
    assert disk_usage(tmp_path).bytes == 20
    assert disk_usage(tmp_path).whole


def test_the_compiler_is_the_one_that_is_named_or_none(
    ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = tmp_path / "mine++"
    mine.write_text("#!/bin/sh\n")
    monkeypatch.setenv("CXX", str(mine))
    assert ask()[1]["compiler"] is None
    mine.chmod(0o755)
    assert ask()[1]["compiler"] == str(mine)


@pytest.mark.slow
def test_the_compiler_is_the_one_that_torch_calls(ask: Ask) -> None:
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        called = get_cpp_compiler()
    except InvalidCxxCompiler:
        called = None
    assert ask()[1]["compiler"] == (called and shutil.which(called))
