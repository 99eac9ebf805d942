"""
What an event costs the arbiter while 10,000 requests of 10,000 clients wait for 50 models.

    python -m bench.arbitration.speed
"""

import random
import time
from statistics import median

from dmap.arbiter import Arbiter, Effect, Grant, Limits, Needs, Outcome, Switch

WAITERS, MODELS, EVENTS = 10_000, 50, 4_000
NEEDS = [Needs(size, parallel=4) for size in range(1, MODELS + 1)]


class Device:
    """An arbiter under load, and what each of its events took."""

    def __init__(self) -> None:
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
        begun = time.perf_counter()
        effects: list[Effect] = getattr(self.arbiter, name)(self.now, *words)
        self.took_us.setdefault(name, []).append(1e6 * (time.perf_counter() - begun))
        for effect in effects:
            if isinstance(effect, Grant):
                self.leases.append(effect.ticket)
            elif isinstance(effect, Switch):
                self.switch = effect

    def submit(self) -> None:
        """Let one more client ask."""
        self.tickets += 1
        model = self.chance.randrange(MODELS)
        self.event("submit", self.tickets, model, self.tickets, NEEDS[model])

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


def main() -> None:
    """Fill the queue, keep it full for a while, and print the medians."""
    device = Device()
    for _ in range(WAITERS):
        device.submit()
    device.took_us.clear()
    for _ in range(EVENTS):
        device.step()
    events = [took for each in device.took_us.values() for took in each]
    for name, took in {**device.took_us, "all": events}.items():
        print(f"{name:<10}{len(took):>6} events, median {median(took):7.0f} us, worst {max(took):8.0f} us")
    for name in ("snapshot", "places"):
        took = [_timed(device, name) for _ in range(20)]
        print(f"{name:<10}{len(took):>6} calls,  median {median(took):7.0f} us, worst {max(took):8.0f} us")


def _timed(device: Device, name: str) -> float:
    begun = time.perf_counter()
    getattr(device.arbiter, name)(device.now)
    return 1e6 * (time.perf_counter() - begun)


if __name__ == "__main__":
    main()
