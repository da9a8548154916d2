"""The wheel: it holds all that it needs, and works from anywhere."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from optlang.store.database import SCRIPTS

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    # As a release is built: the source distribution, and the wheel from that.
    subprocess.run([sys.executable, "-m", "build", "--outdir", str(folder), str(ROOT)], check=True, capture_output=True)
    (built,) = folder.glob("optlang_dsl-*.whl")
    return built


def test_it_holds_grammar_and_library(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert "optlang/grammar/optlang.lark" in names
    for path in (ROOT / "stdlib").glob("*.opt"):
        assert f"optlang/stdlib/{path.name}" in names
    assert {f"optlang/{name}" for name in ("py.typed", *(f"store/{script}" for script in SCRIPTS))} <= names
    assert not [name for name in names if not name.startswith(("optlang/", "optlang_dsl-"))]


def test_it_runs_a_study_from_another_folder(wheel: Path, tmp_path: Path) -> None:
    environment = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    python = environment / "bin" / "python"
    # What optlang depends on is taken from here: this is about the wheel, and torch alone would take minutes.
    libraries = next((environment / "lib").glob("python*/site-packages"))
    (libraries / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = [str(python), "-m", "pip", "install", "--quiet", "--no-deps", "--disable-pip-version-check", "--no-index"]
    subprocess.run([*pip, str(wheel)], check=True)

    away = tmp_path / "away"
    away.mkdir()
    (away / "small.opt").write_text((ROOT / "studies" / "digits.opt").read_text().replace("epochs = 20", "epochs = 1"))
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = str(environment / "bin" / "optlang")

    where = subprocess.run(
        [str(python), "-c", "import optlang; print(optlang.__file__)"], cwd=away, env=clean, capture_output=True,
        text=True, check=True,
    )
    assert Path(where.stdout.strip()).is_relative_to(environment)
    done = subprocess.run(
        [command, "run", "small.opt", "--trials", "1", "--set", "epochs=1"], cwd=away, env=clean, capture_output=True,
        text=True, check=False,
    )
    assert done.returncode in (0, 1), done.stderr
    assert "1 trial searched" in done.stdout
    front = subprocess.run(
        [command, "sql", "SELECT count(*) AS trials FROM results", "--format", "csv"], cwd=away, env=clean,
        capture_output=True, text=True, check=True,
    )
    assert int(front.stdout.splitlines()[1]) > 10
