"""Layers chosen by name and pattern."""

import pytest

from optlang.interfaces import OptlangError
from optlang.workload.model.layers import chosen, left_alone

NAMES = ("", "stem", "body", "body.conv", "body.norm", "head")


def test_a_name_has_all_below_it() -> None:
    assert chosen(["body"], NAMES) == {"body", "body.conv", "body.norm"}
    assert chosen(["*.norm", "head"], NAMES) == {"body.norm", "head"}


def test_keep_and_only_together() -> None:
    assert left_alone([], [], NAMES) == set()
    assert left_alone(["head"], [], NAMES) == {"head"}
    assert left_alone([], ["body"], NAMES) == {"stem", "head"}
    assert left_alone(["*.norm"], ["body"], NAMES) == {"stem", "head", "body.norm"}
    assert left_alone([], ["body.conv"], NAMES) == {"stem", "head", "body", "body.norm"}


@pytest.mark.parametrize(("keep", "only", "setting"), [(["haed"], [], "keep"), ([], ["haed"], "only")])
def test_a_pattern_that_matches_nothing(keep: list[str], only: list[str], setting: str) -> None:
    with pytest.raises(OptlangError, match=f"{setting} names the layer 'haed'") as error:
        left_alone(keep, only, NAMES)
    assert error.value.help == "did you mean 'head'?"
