"""
Plain policies to compare with, which take from the world what `Arbiter` takes.

`fifo`: a resident serves newcomers for ever, and when memory can be made of idle residents the model that was
asked for first is next.  `longest-queue`: the same, but the model with most waiters is next.  `drain`: the
first who waits for another model stops the newcomers of those that have to go for it.  All take the longest
idle resident out first, and refuse who has waited for `wait_s` or finds the queue full.
"""

from collections.abc import Iterator

from dmap.arbiter import Cause, Effect, Grant, Limits, Needs, Outcome, Reason, Refuse, Switch
from dmap.arbiter.policy import fits


class Plain:
    """
    A device, and a line of tickets for each model; *rule* is the policy's name.

    *residents* have the longest idle first; of those that wait for a resident, so many are *invited* as
    waited when it came.
    """

    extra_s = 0.0
    """These policies have no patience to add to."""

    def __init__(self, limits: Limits, rule: str) -> None:
        self._limits, self._rule = limits, rule
        self._lines: dict[str, dict[int, float]] = {}
        self._model_of: dict[int, str] = {}
        self._needs: dict[str, Needs] = {}
        self._leases: dict[int, str] = {}
        self._invited: dict[str, int] = {}
        self._residents: dict[str, int] = {}
        self.switch: Switch | None = None

    def submit(
        self,
        now: float,
        ticket: int,
        model: str,
        client: str,
        needs: Needs,
        priority: int,
        user: str | None = None,
        since: float | None = None,
    ) -> list[Effect]:
        """Queue a request."""
        if len(self._model_of) >= self._limits.queue:
            return [Refuse(ticket, Reason.QUEUE_FULL)]
        self._lines.setdefault(model, {})[ticket] = now if since is None else since
        self._model_of[ticket] = model
        self._needs[model] = needs
        return self.tick(now)

    def withdraw(self, now: float, ticket: int) -> list[Effect]:
        """End an answer, or a wait."""
        if ticket in self._model_of:
            self._take(ticket)
        model = self._leases.pop(ticket, None)
        if model in self._residents:
            self._residents[model] = self._residents.pop(model) - 1
        return self.tick(now)

    def unloaded(self, now: float, model: str) -> list[Effect]:
        """Take a resident out."""
        self._residents.pop(model, None)
        return []

    def switched(self, now: float, outcome: Outcome) -> list[Effect]:
        """End a load; who waits for the model now is invited."""
        assert self.switch is not None, "a switch ends once"
        model, self.switch = str(self.switch.load), None
        self._residents[model] = 0
        self._invited[model] = len(self._lines.get(model, ()))
        return self.tick(now)

    def tick(self, now: float) -> list[Effect]:
        """Decide."""
        effects = list(self._expired(now))
        effects += self._grants()
        absent = [model for model in self._lines if model not in self._residents]
        if self.switch is None and absent:
            model = self._next(absent)
            victims = self._victims(model)
            if victims is not None and not any(self._residents[victim] for victim in victims):
                self.switch = Switch(model, tuple(victims), Cause.IDLE, 0)
                effects.append(self.switch)
        return effects

    def next_deadline(self) -> float | None:
        """Return when the next one will have waited too long."""
        oldest = min((next(iter(line.values())) for line in self._lines.values()), default=None)
        return None if oldest is None else oldest + self._limits.wait_s

    def _next(self, absent: list[str]) -> str:
        if self._rule == "longest-queue":
            return max(absent, key=lambda model: len(self._lines[model]))
        return min(absent, key=lambda model: next(iter(self._lines[model].values())))

    def _victims(self, model: str) -> list[str] | None:
        """Return what has to go for *model*, idle residents first and none in vain; None if it never fits."""
        staying, leaving = list(self._residents), list[str]()
        for resident in sorted(self._residents, key=lambda other: self._residents[other] > 0):
            if not self._fit(model, staying) and not self._needs[resident].pinned:
                staying.remove(resident)
                leaving.append(resident)
        if not self._fit(model, staying):
            return None
        for resident in list(leaving):
            if self._fit(model, [*staying, resident]):
                leaving.remove(resident)
                staying.append(resident)
        return leaving

    def _fit(self, model: str, others: list[str]) -> bool:
        return fits(self._limits, [self._needs[model], *(self._needs[other] for other in others)])

    def _expired(self, now: float) -> Iterator[Effect]:
        for line in list(self._lines.values()):
            while line and now >= next(iter(line.values())) + self._limits.wait_s:
                yield Refuse(self._take(next(iter(line))), Reason.WAIT_EXPIRED)

    def _grants(self) -> Iterator[Effect]:
        closed = self._closed()
        for model in [model for model in self._lines if model in self._residents]:
            line, parallel = self._lines[model], self._needs[model].parallel or len(self._model_of)
            while line and self._residents[model] < parallel:
                if model in closed and not self._invited[model]:
                    break
                self._invited[model] = max(self._invited[model] - 1, 0)
                self._residents[model] += 1
                self._leases[ticket := self._take(next(iter(line)))] = model
                yield Grant(ticket)

    def _closed(self) -> set[str]:
        """Return the residents that take no newcomers."""
        absent = [model for model in self._lines if model not in self._residents]
        if self._rule != "drain" or not absent:
            return set()
        return set(self._victims(self._next(absent)) or ())

    def _take(self, ticket: int) -> int:
        line = self._lines[model := self._model_of.pop(ticket)]
        del line[ticket]
        if not line:
            del self._lines[model]
        return ticket
