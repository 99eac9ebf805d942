"""Who asks for what: closed loops without a thought between an answer and the next question."""

from dataclasses import dataclass

PAUSE_S = 12.0
PAUSE_FOR_S = 150.0


@dataclass(frozen=True)
class Client:
    """
    A client in a closed loop on *model*; its *name* is the address that it calls from.

    One with *asks_first* asks one question that long before the others begin.
    """

    name: str
    model: str
    asks_first: bool = False


@dataclass(frozen=True)
class Workload:
    """Some clients, and for how long at the most they ask, in seconds."""

    name: str
    clients: tuple[Client, ...]
    most_s: float = float("inf")

    @property
    def crowds(self) -> dict[str, int]:
        """How many clients each model has."""
        models = [client.model for client in self.clients]
        return {model: models.count(model) for model in sorted(set(models))}


def crowd(name: str, **counts: int) -> Workload:
    """Return a workload of so many clients of each model as *counts* says."""
    models = [model for model, count in counts.items() for _ in range(count)]
    return Workload(name, tuple(Client(f"127.0.1.{index}", model) for index, model in enumerate(models, 1)))


TWO = crowd("1A 1B", a=1, b=1)
SIX = crowd("2A 2B 2C", a=2, b=2, c=2)
THREE = crowd("2A 1B", a=2, b=1)
MANY = crowd("24A 24B 1C", a=24, b=24, c=1)
PAUSE = Workload(
    "pause", (Client("127.0.1.1", "a", asks_first=True), Client("127.0.1.2", "b")), most_s=PAUSE_FOR_S
)
EVERY = (TWO, SIX, THREE, MANY, PAUSE)
