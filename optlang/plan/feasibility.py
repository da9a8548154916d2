"""What the declared facts rule out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from optlang.plan.model import Impossible, Knob, Runtime, Step, Target, Technique


@dataclass(frozen=True, slots=True)
class Feasibility:
    """Cells."""

    impossible: tuple[Impossible, ...]


def feasibility(
    steps: tuple[Step, ...], targets: tuple[Target, ...], knobs: tuple[Knob, ...], techniques: Mapping[str, Technique],
    runtimes: Mapping[str, Runtime],
) -> Feasibility:
    return Feasibility(())
