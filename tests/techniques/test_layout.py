"""A technique's address is its name in the language, and families of techniques import in one direction."""

import tomllib
from pathlib import Path

import grimp
import pytest

from tests.techniques.declarations import standard

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", standard())
def test_the_address_of_a_technique_is_its_name(name):
    assert standard()[name].calls == f"optlang.techniques.{name}:{name.rpartition('.')[2]}"
    assert (ROOT / "optlang" / "techniques" / f"{name.replace('.', '/')}.py").is_file()


def test_families_import_in_one_direction_for_type_checking_too():
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = next(item["layers"] for item in contracts if item["name"] == "Families of techniques")
    graph = grimp.build_graph("optlang", exclude_type_checking_imports=False, cache_dir=None)
    assert not graph.find_illegal_dependencies_for_layers(layers, containers={"optlang.techniques"})
    families = {path.name for path in (ROOT / "optlang" / "techniques").iterdir() if path.is_dir()} - {"__pycache__"}
    assert families == set(layers)
