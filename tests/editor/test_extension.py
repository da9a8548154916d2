"""The extension for VS Code: it finds and starts the server, says what is missing, and packages what it must."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXTENSION = ROOT / "editors" / "vscode"
PACKAGE = json.loads((EXTENSION / "package.json").read_text())
SOURCE = (EXTENSION / "src" / "extension.js").read_text()
PACKER = EXTENSION / "node_modules" / ".bin" / "vsce"

# An optlang whose environment lacks pygls.
WITHOUT = """\
import importlib.util as util
import sys
find = util.find_spec
util.find_spec = lambda name, *rest: None if name == "pygls" else find(name, *rest)
from optlang.__main__ import main
sys.exit(main())
"""


def program(path: Path, arguments: str) -> str:
    """A command of the shell that runs this Python with this optlang."""
    path.write_text(f'#!/bin/sh\nexport PYTHONPATH="{ROOT}"\nexec "{sys.executable}" {arguments} "$@"\n')
    path.chmod(0o755)
    return str(path)


@pytest.mark.skipif(shutil.which("node") is None, reason="Node runs these tests, and is not installed")
@pytest.mark.skipif(os.name == "nt", reason="the programs that stand for optlang are scripts of the shell")
def test_its_command_is_found_started_and_answered_for(tmp_path: Path) -> None:
    (tmp_path / "without.py").write_text(WITHOUT)
    environment = {
        **os.environ, "OPTLANG": program(tmp_path / "optlang", "-m optlang"),
        "OPTLANG_WITHOUT_SERVER": program(tmp_path / "without", f'"{tmp_path / "without.py"}"'),
    }
    done = subprocess.run(
        ["node", "--test", "--test-reporter=tap", "test/"], cwd=EXTENSION, env=environment, capture_output=True,
        text=True, check=False, timeout=120,
    )
    assert done.returncode == 0, done.stdout
    assert "# skipped 0" in done.stdout, done.stdout


def test_what_it_contributes_is_what_its_source_knows() -> None:
    contributed = PACKAGE["contributes"]
    registered = set(re.findall(r'registerCommand\("([^"]+)"', SOURCE))
    assert registered == {item["command"] for item in contributed["commands"]}
    settings = set(contributed["configuration"]["properties"])
    assert settings == {"optlang.path", "optlang.trace.server"}  # the second is read by the client itself
    assert 'getConfiguration("optlang").get("path"' in SOURCE
    assert set(PACKAGE["capabilities"]["untrustedWorkspaces"]["restrictedConfigurations"]) <= settings
    for item in (*settings, *(command["title"] for command in contributed["commands"])):
        assert item in (EXTENSION / "README.md").read_text()


def test_it_is_pinned_and_its_lock_names_no_registry() -> None:
    lock = json.loads((EXTENSION / "package-lock.json").read_text())
    assert lock["packages"][""]["devDependencies"] == PACKAGE["devDependencies"]
    for name, version in PACKAGE["devDependencies"].items():
        assert lock["packages"][f"node_modules/{name}"]["version"] == version
    # Where a package comes from is the reader's own registry; what comes is checked by its hash.
    assert not [name for name, item in lock["packages"].items() if "resolved" in item]
    assert not [name for name, item in lock["packages"].items() if name and "integrity" not in item]
    client = lock["packages"]["node_modules/vscode-languageclient"]
    assert PACKAGE["engines"]["vscode"] == client["engines"]["vscode"]


def test_what_is_packed_is_listed_one_by_one() -> None:
    first, *kept = (EXTENSION / ".vscodeignore").read_text().split()
    assert first == "**"
    files = {name.removeprefix("!") for name in kept}
    named = {PACKAGE["main"], *(item["path"] for item in PACKAGE["contributes"]["grammars"]),
             *(item["configuration"] for item in PACKAGE["contributes"]["languages"])}
    made = {"dist/extension.js", "dist/NOTICES.txt"}
    assert files == {name.removeprefix("./") for name in named} | made | {"package.json", "README.md", "LICENSE"}
    assert all((EXTENSION / name).is_file() for name in files - made)


@pytest.mark.slow
@pytest.mark.skipif(not PACKER.exists(), reason="vsce packs it: run npm ci in editors/vscode")
def test_the_package_holds_what_it_must_and_nothing_else(tmp_path: Path) -> None:
    packed = tmp_path / "optlang.vsix"
    subprocess.run(
        ["npm", "run", "package", "--", "--out", str(packed)], cwd=EXTENSION, check=True, capture_output=True,
    )
    with zipfile.ZipFile(packed) as archive:
        names = {name.removeprefix("extension/") for name in archive.namelist() if name.startswith("extension/")}
        notices = archive.read("extension/dist/NOTICES.txt").decode()
        code = archive.read("extension/dist/extension.js").decode()
    assert names == {"package.json", "readme.md", "LICENSE.txt", "language-configuration.json", "dist/extension.js",
                     "dist/NOTICES.txt", "syntaxes/optlang.tmLanguage.json"}
    assert "vscode-languageclient" in notices
    listed = subprocess.run(
        ["node", "-p", "require('node:module').builtinModules.join(' ')"], check=True, capture_output=True, text=True,
    )
    known = {"vscode", *listed.stdout.split()}
    assert {name.removeprefix("node:") for name in re.findall(r'\brequire\("([^"]+)"\)', code)} <= known
