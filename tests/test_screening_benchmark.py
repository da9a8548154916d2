"""What benchmarks/search.py plays on: tables of studies that were carried out whole still belong to their studies."""

from __future__ import annotations

from types import ModuleType

import pytest

from tests.benchmark_files import loaded


@pytest.fixture(scope="module")
def spaces() -> ModuleType:
    return loaded("search/spaces")


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
