"""
What an event costs the arbiter while 10,000 requests of 10,000 clients wait, and what its readers cost.

    python -m bench.arbitration.speed [MODELS]

They wait for 50 models, or for so many.
"""

import random
import sys
import time
from collections.abc import Callable
from statistics import median

from dmap.arbiter import Arbiter, Effect, Grant, Limits, Needs, Outcome, Switch

WAITERS, EVENTS, SHOWN = 10_000, 4_000, 200


class Device:
    """An arbiter under load, and what each of its events took."""

    def __init__(self, models: int) -> None:
        self.needs = [Needs(size, parallel=4) for size in range(1, models + 1)]
        self.arbiter = Arbiter(Limits(queue=1_000_000, wait_s=1_000_000))
        self.chance = random.Random(1)
        self.now = 0.0
        self.tickets = 0
        self.leases: list[int] = []
        self.switch: Switch | None = None
        self.took_us: dict[str, list[float]] = {}

    def event(self, name: str, *words: object) -> None:
        """Let one event happen and carry its effects out."""
        self.now += 0.01
        begun = time.process_time()
        effects: list[Effect] = getattr(self.arbiter, name)(self.now, *words)
        self.took_us.setdefault(name, []).append(1e6 * (time.process_time() - begun))
        for effect in effects:
            if isinstance(effect, Grant):
                self.leases.append(effect.ticket)
            elif isinstance(effect, Switch):
                self.switch = effect

    def submit(self) -> None:
        """Let one more client ask."""
        self.tickets += 1
        model = self.chance.randrange(len(self.needs))
        self.event("submit", self.tickets, model, self.tickets, self.needs[model])

    def step(self) -> None:
        """End an answer or a switch, and let the next client ask."""
        if self.switch is not None and self.chance.random() < 0.01:
            self.switch = None
            self.event("switched", Outcome())
        elif self.leases:
            self.event("withdraw", self.leases.pop(0))
            self.submit()
        else:
            self.event("tick")


def main(models: int) -> None:
    """Fill the queue, keep it full for a while, and print the medians."""
    device = Device(models)
    for _ in range(WAITERS):
        device.submit()
    device.took_us.clear()
    for _ in range(EVENTS):
        device.step()
    events = [took for each in device.took_us.values() for took in each]
    for name, took in {**device.took_us, "all": events}.items():
        _print(name, took)
    for name, took in _readers(device).items():
        _print(name, took)


def _readers(device: Device) -> dict[str, list[float]]:
    """Measure whoever only looks: *look* and the first *place* of a line pay for those that follow."""
    arbiter, now = device.arbiter, device.now
    look, some = arbiter.look(now), random.Random(2).sample(list(arbiter.waiting), 1000)
    return {
        "snapshot": _timed(lambda: arbiter.snapshot(now)),
        "look": _timed(lambda: arbiter.look(now)),
        "a page": _timed(lambda: arbiter.look(now).first(SHOWN)),
        "place": [_took_us(lambda id=id: look.place(id)) for id in some],
    }


def _timed(read: Callable[[], object]) -> list[float]:
    return [_took_us(read) for _ in range(20)]


def _took_us(read: Callable[[], object]) -> float:
    begun = time.process_time()
    read()
    return 1e6 * (time.process_time() - begun)


def _print(name: str, took_us: list[float]) -> None:
    typical, worst = median(took_us), max(took_us)
    print(f"{name:<10}{len(took_us):>6} times, median {typical:7.0f} us, worst {worst:8.0f} us")


if __name__ == "__main__":
    main(int(sys.argv[1]) if sys.argv[1:] else 50)
