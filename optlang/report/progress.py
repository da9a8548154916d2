"""Shows a run while it goes on: a line a trial for logs and pipes, or a live picture for a terminal."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TextIO, TypeAlias

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from optlang.forms import JSON
from optlang.plan.quantities import in_bytes, in_percent, in_seconds, times
from optlang.watch import Begun, Ended

Words: TypeAlias = Callable[[Begun], str]
"""Says in words what a trial does."""

SHOWN = 8
"""How many members of the front the live picture has room for."""


class PlainProgress:
    """One line when a trial ends, and one for everything else that matters: for logs, pipes and screen readers."""

    def __init__(self, stream: TextIO, describe: Words) -> None:
        self._stream, self._describe = stream, describe
        self._words: dict[int, str] = {}

    def plan(self, study: str, trials: int, done: int) -> None:
        """See `Watcher.plan`."""
        self._write(f"{study}: {trials} trials" + (f", {done} of them done" if done else ""))

    def note(self, text: str) -> None:
        """See `Watcher.note`."""
        self._write(text)

    def began(self, begun: Begun) -> None:
        """See `Watcher.began`."""
        self._words[begun.trial] = self._describe(begun)

    def doing(self, what: Mapping[str, JSON]) -> None:
        """Nothing: a line for each epoch would drown the rest."""

    def ended(self, ended: Ended) -> None:
        """See `Watcher.ended`."""
        mark = "*" if ended.trial in ended.front else " "
        searched = ended.seconds_left is not None and ended.origin == "sampler"
        left = f"  {in_seconds(ended.seconds_left or 0.0)} left" if searched else ""
        self._write(
            f"{mark}{ended.trial:>4}  {outcome(ended):<44}  {in_seconds(ended.seconds):>6}  "
            f"{self._words.pop(ended.trial, '')}{left}"
        )

    def close(self) -> None:
        """See `LiveProgress.close`."""

    def _write(self, line: str) -> None:
        self._stream.write(line + "\n")
        self._stream.flush()


class LiveProgress:
    """The trial that runs, what it is doing, the front so far and the time left, redrawn in place."""

    def __init__(self, console: Console, describe: Words) -> None:
        self._console, self._describe = console, describe
        self._live = Live(console=console, refresh_per_second=8, transient=True)
        self._study, self._total, self._searched = "", 0, 0
        self._now: tuple[int, str] | None = None
        self._doing = ""
        self._left: float | None = None
        self._words: dict[int, str] = {}
        self._seen: dict[int, Ended] = {}
        self._front: Sequence[int] = ()
        self._live.start()

    def plan(self, study: str, trials: int, done: int) -> None:
        """See `Watcher.plan`."""
        self._study, self._total, self._searched = study, trials, done
        self._draw()

    def note(self, text: str) -> None:
        """See `Watcher.note`; notes stay above the picture."""
        self._console.print(Text(text))

    def began(self, begun: Begun) -> None:
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

    def ended(self, ended: Ended) -> None:
        """See `Watcher.ended`."""
        self._seen[ended.trial], self._front = ended, ended.front
        self._searched, self._left, self._now = ended.done, ended.seconds_left, None
        if ended.state == "failed":
            self.note(f"trial {ended.trial} failed: {ended.reason}")
        self._draw()

    def close(self) -> None:
        """Clear the picture: what follows is the result."""
        self._live.stop()

    def _draw(self) -> None:
        head = Table.grid(padding=(0, 1))
        left = f"about {in_seconds(self._left)} left" if self._left else ""
        head.add_row(
            Text(self._study, style="bold"), ProgressBar(max(1, self._total), self._searched, width=24),
            f"{self._searched}/{self._total} trials", left,
        )
        parts: list[Table | Text] = [head]
        if self._now is not None:
            number, words = self._now
            parts.append(Text(f"trial {number}: {words}" + (f"  [{self._doing}]" if self._doing else "")))
        elif self._doing:
            parts.append(Text(self._doing))
        members = [self._seen[number] for number in self._front if number in self._seen and number != 0]
        if members:
            table = Table(box=None, pad_edge=False, header_style="dim")
            for title in ("front", "", ""):
                table.add_column(title)
            for ended in members[:SHOWN]:
                table.add_row(str(ended.trial), outcome(ended), self._words.get(ended.trial, ""))
            # Members that an earlier session found are known by their numbers only.
            more = sum(number != 0 for number in self._front) - min(len(members), SHOWN)
            if more:
                table.add_row("", f"and {more} more", "")
            parts.append(table)
        self._live.update(Group(*parts))


def outcome(ended: Ended) -> str:
    """What became of a trial, in a few words: size and latency with how many times better they are, and accuracy."""
    if ended.state == "failed":
        return f"failed: {ended.reason}"
    parts = []
    for metric, write in (("size", in_bytes), ("latency.p50", in_seconds)):
        if metric in ended.figures:
            against = f" {times(ended.ratios[metric])}" if metric in ended.ratios else ""
            parts.append(write(ended.figures[metric]) + against)
    if "accuracy" in ended.figures:
        parts.append(in_percent(ended.figures["accuracy"]))
    if ended.state == "infeasible":
        parts.append(f"infeasible: {ended.reason}")
    return "  ".join(parts)
