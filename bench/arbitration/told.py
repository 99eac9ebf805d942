"""
What newcomers are told of their wait, and what came of it, under virtual time.

    python -m bench.arbitration.told                    # all workloads; two minutes
    python -m bench.arbitration.told deadline --seconds 1200

It counts those who have to wait when they come.  *covered* is the share of them that waited no longer than
what they were told as p80.  *off* is the median of (told - came) / came, told being the estimate, and *apart*
the median of its size.  Who is refused after `wait_s` counts as having waited for that long; and of those who
still wait at the end only those count who have waited for longer than their p80.
"""

import argparse
import multiprocessing
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from statistics import median

from dmap.arbiter import Arbiter, Effect, Grant, Limits, Needs, Outcome, Refuse, Wait
from dmap.simulate import Workload, every
from dmap.simulate import play as play_under

FEWEST = 20
"""Workloads with fewer waits are left out."""


class Listener(Arbiter):
    """An arbiter that writes down what newcomers are told, and how long they wait."""

    def __init__(self, limits: Limits) -> None:
        super().__init__(limits)
        self.told_at: dict[int, tuple[float, Wait]] = {}
        self.waits: list[tuple[Wait, float]] = []

    def submit(
        self,
        now: float,
        ticket: int,
        model: str,
        client: Hashable,
        needs: Needs,
        priority: int = 0,
        user: Hashable | None = None,
        since: float | None = None,
    ) -> list[Effect]:
        """Hear of a request, and write down what it is told."""
        effects = super().submit(now, ticket, model, client, needs, priority, user, since)
        if ticket in self.waiting:
            self.told_at[ticket] = now, self.foretold(now, ticket)
        return self._heard(now, effects)

    def withdraw(self, now: float, ticket: int) -> list[Effect]:
        """Hear that an answer has ended."""
        return self._heard(now, super().withdraw(now, ticket))

    def unloaded(self, now: float, model: str) -> list[Effect]:
        """Hear that a resident has gone."""
        return self._heard(now, super().unloaded(now, model))

    def switched(self, now: float, outcome: Outcome) -> list[Effect]:
        """Hear that a switch has ended."""
        return self._heard(now, super().switched(now, outcome))

    def tick(self, now: float) -> list[Effect]:
        """Hear that time has passed."""
        return self._heard(now, super().tick(now))

    def _heard(self, now: float, effects: list[Effect]) -> list[Effect]:
        for effect in effects:
            if isinstance(effect, Grant | Refuse) and effect.ticket in self.told_at:
                self._end(now, effect.ticket)
        return effects

    def end(self, now: float) -> None:
        """Count those of whom it is known already that they wait for longer than they were told."""
        for ticket in [id for id, (since, told) in self.told_at.items() if now - since > told.p80_s]:
            self._end(now, ticket)

    def _end(self, now: float, ticket: int) -> None:
        since, told = self.told_at.pop(ticket)
        self.waits.append((told, now - since))


@dataclass(frozen=True, slots=True)
class Row:
    """What came of one workload."""

    name: str
    waits: int
    covered: float
    off: float
    apart: float


def play(workload: Workload, seed: int = 1) -> Row | None:
    """Play a workload; None if too few wait."""
    listener = Listener(workload.bounds())
    play_under(workload, listener, seed)
    listener.end(workload.duration_s)
    return row_of(workload.name, listener.waits)


def row_of(name: str, waits: list[tuple[Wait, float]]) -> Row | None:
    """Compare what was told with what came."""
    off = [(told.estimate_s - came_s) / came_s for told, came_s in waits if came_s > 0]
    if len(off) < FEWEST:
        return None
    covered = sum(came_s <= told.p80_s + 1e-9 for told, came_s in waits) / len(waits)
    return Row(name, len(waits), covered, median(off), median(map(abs, off)))


def main() -> None:
    """Read the command line and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("words", nargs="*", help="words in the names of the workloads to play")
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    workloads = [_cut(each, options.seconds) for each in every(options.words)]
    with multiprocessing.Pool(2) as pool:
        found = pool.starmap(play, [(each, options.seed) for each in workloads], chunksize=1)
    rows = [row for row in found if row is not None]
    print(f"{'workload':<42}{'waits':>7}{'covered':>9}{'off':>8}{'apart':>8}")
    for row in sorted(rows, key=lambda row: row.covered):
        print(f"{row.name:<42}{row.waits:>7}{row.covered:>9.2f}{row.off:>+8.2f}{row.apart:>8.2f}")
    print("\n".join(_summary(rows)))


def _cut(workload: Workload, seconds: float) -> Workload:
    return workload.model_copy(update={"duration_s": min(workload.duration_s, seconds)})


def _summary(rows: list[Row]) -> Iterator[str]:
    apart = [row.apart for row in rows]
    within = sum(0.7 <= row.covered <= 0.9 for row in rows)
    yield f"{len(rows)} workloads; p80 covers 70 to 90 % in {within}, {within / len(rows):.0%}"
    yield f"off by 0.3 at the most in {sum(abs(row.off) <= 0.3 for row in rows)}"
    yield f"apart by 0.3 at the most in {sum(each <= 0.3 for each in apart)}, median {median(apart):.2f}"


if __name__ == "__main__":
    main()
