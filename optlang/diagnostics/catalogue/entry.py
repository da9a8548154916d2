"""What the catalogue says of one code."""

from __future__ import annotations

from dataclasses import dataclass
from textwrap import fill, indent
from typing import Literal

_WIDTH = 100


@dataclass(frozen=True, slots=True)
class Entry:
    """One code: `means` says what is wrong, `why` what would come of it; `wrong` and `right` are parts of an .opt file.

    An example is what stands in a study, unless it begins with a study, a declaration or an edition of its own.
    """

    code: str
    title: str
    means: str
    why: str
    wrong: str
    right: str

    @property
    def severity(self) -> Literal["error", "warning"]:
        """Codes that begin with W are warnings: the study runs."""
        return "warning" if self.code.startswith("W") else "error"

    def text(self) -> str:
        """The entry to be read in a terminal."""
        parts = (
            f"{self.severity}[{self.code}]: {self.title}",
            fill(self.means, _WIDTH),
            fill(f"Why it matters: {self.why}", _WIDTH),
            f"Wrong:\n\n{indent(self.wrong, '    ')}",
            f"Right:\n\n{indent(self.right, '    ')}",
        )
        return "\n\n".join(parts) + "\n"
