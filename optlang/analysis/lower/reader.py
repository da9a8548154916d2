"""What reads steps, as choices and pipelines see it: they hold steps, which steps.py reads."""

from __future__ import annotations

from typing import Protocol

from optlang.analysis.declarations import Declarations
from optlang.analysis.knobs import Around, Knobs, Later, Made
from optlang.analysis.modules.names import Declared
from optlang.analysis.symbols import Given
from optlang.diagnostics.model import Diagnostics, Span
from optlang.plan.model import Step
from optlang.syntax import tree


class StepReader(Protocol):
    """Reads steps in one scope. `open` are the pipelines whose steps are being read, the outermost first."""

    knobs: Knobs
    declarations: Declarations
    open: tuple[Declared, ...]

    @property
    def diagnostics(self) -> Diagnostics:
        """Collects the problems."""

    def block(self, statements: tuple[tree.Statement, ...], around: Around) -> Later[tuple[Step, ...]]:
        """The steps of a block, each label once."""

    def statement(self, node: tree.Statement, around: Around, labels: dict[str, Span]) -> Made | None:
        """One statement among steps; `labels` are those of its block so far."""

    def no_step(self, node: tree.Expression) -> None:
        """E510: an expression where a step belongs."""

    def inside(self, pipeline: Declared, given: dict[str, Given], around: Around, at: Span) -> StepReader:
        """What reads the steps of a pipeline applied at `at`: in the pipeline's scope, among the knobs of the study."""
