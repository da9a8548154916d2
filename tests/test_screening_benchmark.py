"""What benchmarks/search.py plays on: tables of studies that were carried out whole still belong to their studies."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def spaces() -> ModuleType:
    spec = importlib.util.spec_from_file_location("spaces_of_searches", ROOT / "benchmarks" / "search" / "spaces.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("name", "points"), [("whole", 102), ("transformer", 84)])
def test_every_point_of_a_table_has_its_values(spaces: ModuleType, name: str, points: int) -> None:
    table = spaces.tabulated(name)
    play = spaces.Play(table)
    for point in table.space.points():
        play.carry_out(point)
    assert len(play.found) == points
    assert play.volume(points) == pytest.approx(1.0)
    assert play.clock == pytest.approx(table.seconds)
    assert play.reached(0.5) < play.reached(0.99) <= table.seconds
    again = play.clock
    play.carry_out(point)
    assert play.clock == again
