"""Shows a run while it goes on: a line a trial for logs and pipes, or a live picture for a terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TextIO, TypeAlias

from rich.console import Console, Group
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from optlang.interfaces import JSON
from optlang.plan.quantities import compared, in_seconds, quantity
from optlang.report.tables import counted, heading
from optlang.run.events import Figure, Planned, TrialFinished, TrialStarted

Words: TypeAlias = Callable[[TrialStarted], str]
"""Says in words what a trial does."""

Columns: TypeAlias = Callable[[Collection[str]], Sequence[str]]
"""Which of the metrics that were measured the study is about, in their order."""

SHOWN = 8
"""How many members of the front the live picture has room for."""

MISSED = 3
"""How many of the trials that failed or missed a requirement it has room for."""


class PlainProgress:
    """One line when a trial ends, and one for everything else that matters: for logs, pipes and screen readers."""

    def __init__(self, stream: TextIO, describe: Words, columns: Columns) -> None:
        self._stream, self._describe, self._columns = stream, describe, columns
        self._words: dict[int, str] = {}
        self._shown: Sequence[str] = ()

    def plan(self, planned: Planned) -> None:
        """See `Watcher.plan`."""
        self._write(f"{planned.study}: {outline(planned)}")

    def note(self, text: str) -> None:
        """See `Watcher.note`."""
        self._write(text)

    def began(self, begun: TrialStarted) -> None:
        """See `Watcher.began`."""
        self._words[begun.trial] = self._describe(begun)

    def doing(self, what: Mapping[str, JSON]) -> None:
        """Nothing: a line for each epoch would drown the rest."""

    def ended(self, ended: TrialFinished) -> None:
        """See `Watcher.ended`."""
        if not self._shown and ended.figures:
            self._shown = self._columns(ended.figures)
            heads = "  ".join(f"{name:<{_wide(name)}}" for name in self._shown)
            self._write(f" trial  {heads}  took     what it is (* in the front so far)")
        mark = "*" if ended.trial in ended.front else " "
        cells = "  ".join(
            f"{figure_text(ended.figures[name]) if name in ended.figures else '–':<{_wide(name)}}"
            for name in self._shown
        )
        parts = [f"{mark}{ended.trial:>5}", cells, f"{in_seconds(ended.seconds):<7}", self._words.pop(ended.trial, "")]
        line = "  ".join(part for part in parts if part)
        if ended.state not in ("complete", "running"):
            line += f"  {verdict(ended)}"
        elif ended.dependent:
            line += "  (its answers depend on the batch)"
        left = ended.total - ended.done
        about = "" if ended.seconds_left is None else f", about {in_seconds(ended.seconds_left)}"
        self._write(line + (f"  [{left} left{about}]" if left > 0 else ""))

    def close(self) -> None:
        """See `LiveProgress.close`."""

    def _write(self, line: str) -> None:
        self._stream.write(line + "\n")
        self._stream.flush()


class LiveProgress:
    """The trial that runs, what it is doing, the front so far, what was missed and the time left, redrawn in place."""

    def __init__(self, console: Console, describe: Words, columns: Columns) -> None:
        self._console, self._describe, self._columns = console, describe, columns
        self._live = Live(console=console, refresh_per_second=8, transient=True, vertical_overflow="crop")
        self._study, self._total, self._done = "", 0, 0
        self._now: tuple[int, str] | None = None
        self._doing = ""
        self._left: float | None = None
        self._words: dict[int, str] = {}
        self._seen: dict[int, TrialFinished] = {}
        self._front: Sequence[int] = ()
        self._live.start()

    def plan(self, planned: Planned) -> None:
        """See `Watcher.plan`."""
        self._study, self._total, self._done = planned.study, planned.total, planned.done
        self.note(f"{planned.study}: {outline(planned)}")
        self._draw()

    def note(self, text: str) -> None:
        """See `Watcher.note`; notes stay above the picture."""
        self._console.print(Text(text))

    def began(self, begun: TrialStarted) -> None:
        """See `Watcher.began`."""
        words = self._words[begun.trial] = self._describe(begun)
        self._now, self._doing = (begun.trial, words), ""
        self._draw()

    def doing(self, what: Mapping[str, JSON]) -> None:
        """See `Watcher.doing`."""
        text = str(what.get("doing", ""))
        if "epoch" in what:
            text += f" · epoch {what['epoch']}/{what.get('epochs', '?')}"
        loss = what.get("loss")
        if isinstance(loss, float):
            text += f" · loss {loss:.3g}"
        self._doing = text
        self._draw()

    def ended(self, ended: TrialFinished) -> None:
        """See `Watcher.ended`."""
        self._seen[ended.trial], self._front = ended, ended.front
        self._done, self._total, self._left, self._now = ended.done, ended.total, ended.seconds_left, None
        if ended.state == "failed":
            self.note(f"trial {ended.trial} {verdict(ended)}")
        self._draw()

    def close(self) -> None:
        """Clear the picture: what follows is the result."""
        self._live.stop()

    def _draw(self) -> None:
        head = Table.grid(padding=(0, 1))
        left = f"about {in_seconds(self._left)} left" if self._left else ""
        head.add_row(
            Text(self._study, style="bold"), ProgressBar(max(1, self._total), self._done, width=24),
            f"{self._done} of {self._total} trials", left,
        )
        parts: list[Table | Text | Padding] = [head]
        if self._now is not None:
            number, words = self._now
            parts.append(Text(f"trial {number}: {words}" + (f"  [{self._doing}]" if self._doing else "")))
        elif self._doing:
            parts.append(Text(self._doing))
        # The baseline is what all others are compared with, though another may be better in all that counts.
        wanted = dict.fromkeys([0, *self._front])
        members = [self._seen[number] for number in wanted if number in self._seen]
        if members:
            parts.append(self._members(members))
        parts += self._missed()
        self._live.update(Group(*parts))

    def _members(self, members: Sequence[TrialFinished]) -> Table:
        """The baseline, where this session measured it, and the newest members of the front."""
        names = self._columns({name for ended in members for name in ended.figures})
        table = Table(box=None, pad_edge=False, header_style="dim")
        table.add_column("front", justify="right", no_wrap=True)
        for name in names:
            table.add_column(heading(name), no_wrap=True)
        table.add_column("what it is", overflow="fold", min_width=16)
        shown = [ended for ended in members if ended.trial == 0] + [ended for ended in members if ended.trial][-SHOWN:]
        for ended in shown:
            cells = (figure_text(ended.figures[name]) if name in ended.figures else "–" for name in names)
            words = self._words.get(ended.trial, "") + (" (its answers depend on the batch)" if ended.dependent else "")
            table.add_row(str(ended.trial), *cells, words)
        # Members that an earlier session found are known by their numbers only.
        more = len({0, *self._front}) - len(shown)
        if more > 0:
            table.add_row("", *("" for _ in names), f"and {more} more")
        return table

    def _missed(self) -> list[Text | Padding]:
        """How many trials failed or missed a requirement, and what the last ones missed."""
        missed = [ended for ended in self._seen.values() if ended.state not in ("complete", "running")]
        if not missed:
            return []
        counts = Counter(ended.state for ended in missed)
        found: list[Text | Padding] = [
            Text("; ".join(f"{count} {state}" for state, count in counts.items()) + ", the last:", style="dim")
        ]
        for ended in missed[-MISSED:]:
            words = self._words.get(ended.trial, "")
            found.append(Padding(Text(f"{ended.trial}  {words}: {verdict(ended)}"), (0, 0, 0, 2)))
        return found


def outline(planned: Planned) -> str:
    """What a run consists of, and how much of it is done."""
    ladder = f"{counted(planned.ladder, 'trial')} of a technique alone"
    if not planned.searched:
        text = f"the baseline and {ladder}"
    else:
        text = f"{counted(planned.searched, 'trial')} to search"
        text += f" ({planned.drawn} done)" if planned.drawn else ""
        text += f", after the baseline and {ladder}" if planned.ladder else ", after the baseline"
    return text + (f"; {planned.done} of these {planned.total} are done" if planned.done else "")


def figure_text(figure: Figure) -> str:
    """A figure with how it compares with the baseline's: `12.5 kB ×6.7`, `98.9 % −0.4`."""
    return f"{quantity(figure.value, figure.unit)} {compared(figure.times, figure.lost, figure.unit)}".rstrip()


def verdict(ended: TrialFinished) -> str:
    """Why a trial is not among those to choose from."""
    return f"{ended.state}: {ended.reason}" if ended.reason else ended.state


def _wide(name: str) -> int:
    """The width of a column of figures in a log, which must fit before the figures are known."""
    return max(len(name), 14)
