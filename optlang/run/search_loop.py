"""The search of a run: in each lane one point after the other is drawn and tried, and the best of those that pause
go on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from optlang.plan.model import Plan
from optlang.run.attempts import Attempts
from optlang.run.budget import Budget
from optlang.run.dispatch import Dispatcher
from optlang.run.draws import Draws
from optlang.run.history import History
from optlang.run.lanes import Lanes
from optlang.run.promotion import Promotion
from optlang.run.stop import StopRequest
from optlang.run.waits import NEVER, Waits
from optlang.search.ablation import AblationTrial
from optlang.search.bare_runtimes import beaten
from optlang.search.hopeless import Avoided
from optlang.search.observation import Suggestion
from optlang.search.sampler import Sampler
from optlang.space.known_refusals import KnownRefusals
from optlang.space.recipe import Recipe, resolve
from optlang.space.space import Exhausted, Space
from optlang.store.journal import now
from optlang.store.writer import Writer

Why = Literal["complete", "interrupted", "timeout", "exhausted", "ladder"]


@dataclass(slots=True)
class _Shared:
    """What the lanes of a search share: what draws its points, the effects that are not drawn, and how it stands.

    `after` are the recipes of the ladder that come behind the search; `drawing` says whether new points are drawn.
    """

    draws: Draws
    known: set[str]
    after: Sequence[Recipe]
    drawing: bool = True
    why: Why = "complete"


class SearchLoop:
    """The search of one session; `say` gets what the user should know."""

    def __init__(
        self, plan: Plan, run: str, space: Space, store: Writer, lanes: Lanes, attempts: Attempts, history: History,
        budget: Budget, promotion: Promotion, refusals: KnownRefusals, stop: StopRequest, say: Callable[[str], None],
    ) -> None:
        self._plan, self._run, self._space, self._store = plan, run, space, store
        self._lanes, self._attempts, self._history, self._budget = lanes, attempts, history, budget
        self._promotion, self._refusals, self._stop, self._say = promotion, refusals, stop, say

    def carried_out(self, ladder: Sequence[AblationTrial]) -> Why:
        """The whole search, and why it ended. What of the `ladder` comes after it is not drawn in it."""
        avoided: list[Avoided] = [*beaten(self._plan, self._history.bare()), *self._history.hopeless()]
        known = self._history.known | {trial.recipe.effect for trial in ladder}
        for item in avoided:
            self._say(item.text)
        draws = Draws(
            self._plan, lambda: Sampler(self._plan, self._space, known, avoided), self._store, self._run,
            self._history.observations(), self._say,
            lambda recipe: self._promotion.pause(recipe, None), len(self._lanes),
        )
        shared = _Shared(draws, known, [trial.recipe for trial in ladder if not self._history.has(trial)])
        self._lanes.together(lambda dispatcher: self._searched(dispatcher, shared))
        self._leave_paused()
        if (summary := draws.summary()) is not None:
            self._say(summary)
        return shared.why

    def _searched(self, dispatcher: Dispatcher, search: _Shared) -> Waits[None]:
        """One lane's part of the search."""
        if not (yield from self._lanes.has_room(dispatcher)):
            return
        while True:
            yield from dispatcher.loading()
            if self._stop.when:
                search.why = "interrupted"
                return
            if self._budget.up:
                search.why = "timeout"
                return
            most = self._plan.search.most
            search.drawing = search.drawing and (
                most is None or self._history.searched + len(self._attempts.searched) < most
            )
            best = self._promotion.best(last=not search.drawing)
            if best is None and not search.drawing:
                if not self._attempts.running:
                    return
                # What other lanes carry out may pause, and then go on in this one.
                yield NEVER
                continue
            if not self._enough_for(best, search.after):
                search.why = "timeout"
                if not search.drawing:
                    return
                # There may still be time for the best of those that are paused.
                search.drawing = False
                continue
            if best is not None:
                record = yield from self._attempts.going_on(dispatcher, self._history.trial(best))
            elif (drawn := self._drawn(search)) is not None:
                recipe = resolve(self._plan, drawn.point)
                search.known.add(recipe.effect)
                record = yield from self._attempts.new(
                    dispatcher, recipe, "sampler", drawn.point, None, drawn.state
                )
            else:
                search.drawing, search.why = False, "exhausted"
                continue
            search.draws.tell(record.number, self._history.observation(record))
            yield from self._lanes.look_for_room(dispatcher)

    def _drawn(self, search: _Shared) -> Suggestion | None:
        """The point of a new trial; None where the space has no point left."""
        try:
            return search.draws.ask()
        except Exhausted:
            refused = ", or is refused as before" if self._refusals else ""
            self._say(f"every point of the space has been tried{refused}")
            return None

    def _enough_for(self, paused: int | None, after: Sequence[Recipe]) -> bool:
        """Whether there is time for a paused trial up to its next pause; or, where None goes on, for a new one, after
        which the best of those that are paused can still be taken to its end."""
        if paused is not None:
            return self._budget.enough(self._promotion.seconds(paused, self._budget.forecast), after)
        best = self._promotion.best(last=True)
        whole = 0.0 if best is None else self._promotion.seconds(best, self._budget.forecast, whole=True)
        return self._budget.enough(self._budget.forecast.one_searched() + whole, after)

    def _leave_paused(self) -> None:
        """Record why the trials that are paused when the search ends were not taken on."""
        for number, reason in self._promotion.reasons().items():
            if self._history.trial(number).reason != reason:
                self._history.left(number, reason)
                self._store.record({"event": "left", "run": self._run, "trial": number, "reason": reason, "at": now()})
