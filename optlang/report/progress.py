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
from optlang.plan.quantities import compared, counted, in_seconds, quantity
from optlang.report.tables import heading
from optlang.run.events import Comparison, RunStarted, TrialFinished, TrialStarted

Words: TypeAlias = Callable[[TrialStarted], str]
"""Says in words what a trial does."""

Columns: TypeAlias = Callable[[Collection[str]], Sequence[str]]
"""Which of the metrics that were measured the study is about, in their order."""

SHOWN = 8
"""How many members of the front the live picture has room for."""

MISSED = 3
"""How many of the trials that failed or missed a requirement it has room for."""

DEPENDENT = " (its answers depend on the batch)"

PAIRED = "× of times is against the baseline timed next to the same trial, not against the row of trial 0"


class PlainProgress:
    """One line when a trial ends, and one for everything else that matters: for logs, pipes and screen readers."""

    def __init__(self, stream: TextIO, describe: Words, columns: Columns) -> None:
        self._stream, self._describe, self._columns = stream, describe, columns
        self._words: dict[int, str] = {}
        self._shown: Sequence[str] = ()
        self._explained = False

    def run_started(self, run: RunStarted) -> None:
        """See `Watcher.run_started`."""
        self._write(f"{run.study}: {outline(run)}")

    def message(self, text: str) -> None:
        """See `Watcher.message`."""
        self._write(text)

    def trial_started(self, trial: TrialStarted) -> None:
        """See `Watcher.trial_started`."""
        self._words[trial.number] = self._describe(trial)

    def progress(self, activity: Mapping[str, JSON]) -> None:
        """Nothing: a line for each epoch would drown the rest."""

    def trial_finished(self, trial: TrialFinished) -> None:
        """See `Watcher.trial_finished`."""
        if not self._shown and trial.figures:
            self._shown = self._columns(trial.figures)
            heads = "  ".join(f"{name:<{_wide(name)}}" for name in self._shown)
            self._write(f" trial  {heads}  took     what it is (* in the front so far)")
        if not self._explained and paired(trial):
            self._explained = True
            self._write(f"        {PAIRED}")
        mark = "*" if trial.number in trial.front else " "
        cells = "  ".join(
            f"{figure_text(trial.figures[name]) if name in trial.figures else '–':<{_wide(name)}}"
            for name in self._shown
        )
        words = self._words.pop(trial.number, "")
        parts = [f"{mark}{trial.number:>5}", cells, f"{in_seconds(trial.seconds):<7}", words]
        line = "  ".join(part for part in parts if part)
        if trial.state not in ("complete", "running"):
            line += f"  {verdict(trial)}"
        elif trial.dependent:
            line += f" {DEPENDENT}"
        if trial.tie_of is not None:
            line += f"  (within noise of trial {trial.tie_of})"
        left = remaining(trial)
        self._write(line + (f"  [{left}]" if left else ""))

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
        self._study, self._done = "", 0
        self._total: int | None = 0
        self._now: dict[int, tuple[int, str]] = {}
        """The trials that go on, with what they do in words, by their lanes."""
        self._doing: dict[int, str] = {}
        self._left = ""
        self._paused = 0
        self._words: dict[int, str] = {}
        self._seen: dict[int, TrialFinished] = {}
        self._front: Sequence[int] = ()
        self._live.start()

    def run_started(self, run: RunStarted) -> None:
        """See `Watcher.run_started`."""
        self._study, self._total, self._done = run.study, run.total, run.done
        self.message(f"{run.study}: {outline(run)}")
        self._draw()

    def message(self, text: str) -> None:
        """See `Watcher.message`; notes stay above the picture."""
        self._console.print(Text(text))

    def trial_started(self, trial: TrialStarted) -> None:
        """See `Watcher.trial_started`."""
        words = self._words[trial.number] = self._describe(trial)
        went_on = "" if trial.resumed is None else f" (goes on after epoch {trial.resumed})"
        self._now[trial.lane], self._doing[trial.lane] = (trial.number, words + went_on), ""
        self._draw()

    def progress(self, activity: Mapping[str, JSON]) -> None:
        """See `Watcher.progress`."""
        text = str(activity.get("doing", ""))
        if "epoch" in activity:
            text += f" · epoch {activity['epoch']}/{activity.get('epochs', '?')}"
        loss = activity.get("loss")
        if isinstance(loss, float):
            text += f" · loss {loss:.3g}"
        lane = activity.get("lane", 0)
        assert isinstance(lane, int)
        self._doing[lane] = text
        self._draw()

    def trial_finished(self, trial: TrialFinished) -> None:
        """See `Watcher.trial_finished`."""
        self._seen[trial.number], self._front = trial, trial.front
        self._done, self._total, self._left = trial.done, trial.total, time_left(trial)
        self._paused = trial.paused
        for lane in [lane for lane, now in self._now.items() if now[0] == trial.number]:
            del self._now[lane]
            self._doing[lane] = ""
        if trial.state == "failed":
            self.message(f"trial {trial.number} {verdict(trial)}")
        self._draw()

    def close(self) -> None:
        """Clear the picture: what follows is the result."""
        self._live.stop()

    def _draw(self) -> None:
        head = Table.grid(padding=(0, 1))
        left = f"{self._left} left" if self._left.startswith(("about", "at least")) else self._left
        study = Text(self._study, style="bold")
        paused = f", {self._paused} paused" if self._paused else ""
        if self._total is None:
            head.add_row(study, counted(self._done, "trial") + paused, left)
        else:
            bar = ProgressBar(max(1, self._total), self._done, width=24)
            head.add_row(study, bar, f"{self._done} of {self._total} trials{paused}", left)
        parts: list[Table | Text | Padding] = [head]
        parts += self._lanes()
        # The baseline is what all others are compared with, though another may be better in all that counts.
        wanted = dict.fromkeys([0, *self._front])
        members = [self._seen[number] for number in wanted if number in self._seen]
        if members:
            parts.append(self._members(members))
        parts += self._missed()
        self._live.update(Group(*parts))

    def _lanes(self) -> list[Text]:
        """What goes on in each lane: a trial, or something that is none."""
        found = []
        for lane in sorted({*self._now, *self._doing}):
            doing = self._doing.get(lane, "")
            if lane in self._now:
                number, words = self._now[lane]
                found.append(Text(f"trial {number}: {words}" + (f"  [{doing}]" if doing else "")))
            elif doing:
                found.append(Text(doing))
        return found

    def _members(self, members: Sequence[TrialFinished]) -> Table:
        """The baseline, where this session measured it, and the newest members of the front."""
        names = self._columns({name for trial in members for name in trial.figures})
        table = Table(box=None, pad_edge=False, header_style="dim")
        table.add_column("front", justify="right", no_wrap=True)
        for name in names:
            table.add_column(heading(name), no_wrap=True)
        table.add_column("what it is", overflow="fold", min_width=16)
        baseline = [trial for trial in members if trial.number == 0]
        shown = [*baseline, *[trial for trial in members if trial.number != 0][-SHOWN:]]
        for trial in shown:
            cells = (figure_text(trial.figures[name]) if name in trial.figures else "–" for name in names)
            words = self._words.get(trial.number, "") + (DEPENDENT if trial.dependent else "")
            table.add_row(str(trial.number), *cells, words)
        # Members that an earlier session found are known by their numbers only.
        more = len({0, *self._front}) - len(shown)
        if more > 0:
            table.add_row("", *("" for _ in names), f"and {more} more")
        if any(map(paired, shown)):
            table.caption, table.caption_justify = PAIRED, "left"
        return table

    def _missed(self) -> list[Text | Padding]:
        """How many trials failed or missed a requirement, and what the last ones missed."""
        missed = [trial for trial in self._seen.values() if trial.state not in ("complete", "running", "paused")]
        if not missed:
            return []
        counts = Counter(trial.state for trial in missed)
        found: list[Text | Padding] = [
            Text("; ".join(f"{count} {state}" for state, count in counts.items()) + ", the last:", style="dim")
        ]
        for trial in missed[-MISSED:]:
            words = self._words.get(trial.number, "")
            found.append(Padding(Text(f"{trial.number}  {words}: {verdict(trial)}"), (0, 0, 0, 2)))
        return found


def outline(run: RunStarted) -> str:
    """What a run consists of, and how much of it is done."""
    ladder = f"{counted(run.ladder, 'trial')} of a technique alone"
    time = None if run.timeout is None else f"{'another ' if run.done else ''}{in_seconds(run.timeout)}"
    if run.searched == 0:
        text = f"the baseline and {ladder}" + (" (the space has no more points)" if run.whole_space else "")
    else:
        text = "trials to search" if run.searched is None else f"{counted(run.searched, 'trial')} to search"
        about = ["the space has no more points"] if run.whole_space else []
        about += [f"{run.drawn} done"] if run.drawn else []
        text += f" ({', '.join(about)})" if about else ""
        text += f", besides the baseline and {ladder}" if run.ladder else ", after the baseline"
    text += "" if time is None else f", for {time}" if run.searched is None else f", in {time} at most"
    of = "" if run.total is None else f" of these {run.total}"
    return text + (f"; {run.done}{of} are done" if run.done else "")


def remaining(trial: TrialFinished) -> str:
    """How many trials are left of a run, and how long it goes on; "" after the last."""
    trials = None if trial.total is None else trial.total - trial.done
    parts = [] if trials is None else [f"{trials} left" if trials or not trial.paused else f"{trial.paused} paused"]
    if time := time_left(trial):
        parts.append(f"{time} left" if trials is None and trial.seconds_left else time)
    return ", ".join(parts) if trials is None or trials > 0 or trial.paused else ""


def time_left(trial: TrialFinished) -> str:
    """How long the run goes on, in words; "" where that is not known."""
    if trial.seconds_left is None:
        return ""
    if trial.seconds_left == 0:
        return "time is up"
    return f"{'at least' if trial.at_least else 'about'} {in_seconds(trial.seconds_left)}"


def paired(trial: TrialFinished) -> bool:
    """Whether a figure is compared with another value of the baseline than its own row shows."""
    return trial.number != 0 and any(figure.baseline is not None for figure in trial.figures.values())


def figure_text(figure: Comparison) -> str:
    """A figure with how it compares with the baseline's: `12.5 kB ×6.7`, `98.9 % −0.4`."""
    return f"{quantity(figure.value, figure.unit)} {compared(figure.times, figure.lost, figure.unit)}".rstrip()


def verdict(trial: TrialFinished) -> str:
    """Why a trial is not among those to choose from."""
    return f"{trial.state}: {trial.reason}" if trial.reason else trial.state


def _wide(name: str) -> int:
    """The width of a column of figures in a log, which must fit before the figures are known."""
    return max(len(name), 14)
